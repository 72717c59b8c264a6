"""What the ranker on Triton is sent: the training row itself, bit for bit, of every user, item and moment."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from data.features import NUMBERS, PROFILE, candidate_numbers, profile
from data.log import read_log
from data.split import by_time
from serve import contract, tags
from serve.catalogue import Catalogue
from serve.scoring import Scorer, pack, pack_without
from tests.test_data_features import served
from tests.worlds import TINY, simulated
from towers.ranking_data import history_at

LENGTH, WIDTH, HEADS = 20, 4, 2


@pytest.fixture(scope="module")
def log():
    """The log of a small world whose items bear tags and last, all but some."""
    tables, rng = simulated(TINY)[0], np.random.default_rng(0)
    items = len(tables.items)
    bearing = [None if row % 5 == 0 else [f"tag {tag}" for tag in rng.integers(0, 20, 3)] for row in range(items)]
    seconds = [None if row % 7 == 0 else float(rng.uniform(30, 9000)) for row in range(items)]
    told = {"tags": pl.Series(bearing, dtype=pl.List(pl.String)), "duration_seconds": pl.Series(seconds, dtype=pl.Float32)}
    return read_log(by_time(replace(tables, items=tables.items.with_columns(**told))))


class Heard:
    """A Triton server that remembers what it was sent, by tensor name, and values everything alike."""

    def infer(self, model, *arrays, within_ms):
        self.sent = dict(zip((tensor.name for tensor in model.inputs), arrays, strict=True))
        assert all(tensor.shape[-1] == array.shape[-1] for tensor, array in zip(model.inputs, arrays, strict=True))
        return (np.zeros((*self.sent["number"].shape[:2], HEADS), np.float32),)


@pytest.fixture
def heard(log, tmp_path):
    """(a scorer over a release of this log's items, with room for five more; what its models were sent)."""
    frame, items = log.split.tables.items, len(log.catalogue.item_ids)
    catalogue = Catalogue(frame, log.catalogue.recipe.genres, room=5)
    tags.write(tmp_path, log.catalogue.tag_IT, rows=items + 5)
    genres, client = log.catalogue.genre_IG.shape[1], Heard()
    release = SimpleNamespace(
        catalogue=catalogue, genre_IG=catalogue.genre_IG, release_day_I=catalogue.release_day_I,
        duration_seconds_I=catalogue.duration_seconds_I, tag_IT=tags.TagTable.open(tmp_path, log.catalogue.recipe, rows=items + 5),
        items=np.random.default_rng(1).normal(size=(items + 5, 2 * WIDTH)).astype(np.float16), clock=log.clock(half_life_days=30),
        manifest=SimpleNamespace(width=WIDTH, heads=("click", "value")),
        ranker=contract.ranker(WIDTH, log.moment_EC.shape[1], genres + len(PROFILE), len(NUMBERS), HEADS),
    )  # fmt: skip
    return Scorer(release, client), client


def trained(log, event_G, item_row_GK):
    """(profiles, numbers but for the dot product) of many moments at once, as a ranker learns from them."""
    start_G, now_G = log.offset_U1[log.user_row_E[event_G]], log.timestamp_E[event_G]
    history, catalogue = history_at(log, start_G, event_G, now_G, LENGTH), log.catalogue
    number_GKX = candidate_numbers(
        dot_BK=np.zeros(item_row_GK.shape, np.float32), item_row_BK=item_row_GK, history=history, now_B=now_G,
        clock=log.clock(half_life_days=30), genre_IG=catalogue.genre_IG, tag_IT=catalogue.tag_IT, release_day_I=catalogue.release_day_I,
        duration_seconds_I=catalogue.duration_seconds_I,
    )  # fmt: skip
    return profile(history, catalogue.genre_IG), number_GKX[:, :, 1:]


def test_a_request_sends_the_training_row(log, heard):
    scorer, client = heard
    rng = np.random.default_rng(2)
    event_G = rng.integers(0, len(log.item_row_E), 40)
    item_row_GK = np.stack([rng.permutation(len(log.catalogue.item_ids)) for _ in event_G])
    profile_GU, number_GKX = trained(log, event_G, item_row_GK)
    for event, item_row_K, profile_U, number_KX in zip(event_G, item_row_GK, profile_GU, number_GKX, strict=True):
        who = served(log, event, LENGTH)
        scorer.values(np.ones((1, WIDTH), np.float32), pack(who, LENGTH), who.moment_BC, item_row_K, who.now)
        assert np.array_equal(client.sent["profile"], profile_U[None])
        assert np.array_equal(client.sent["number"][0, : len(item_row_K), 1:], number_KX)
    varied = dict(zip(NUMBERS[1:], number_GKX.reshape(-1, len(NUMBERS) - 1).std(0), strict=True))
    assert min(varied.values()) > 0 and profile_GU.std(0).min() > 0, varied  # nothing was equal for being nothing


def test_a_history_without_an_item_has_the_profile_and_numbers_of_whoever_never_touched_it(log, heard):
    scorer, client = heard
    event = int(log.offset_U1[np.diff(log.offset_U1).argmax() + 1]) - 1
    who = served(log, event, LENGTH)
    left_out_X, item_row_K = np.unique(who.item_row_E[-LENGTH:]), np.arange(10)
    without = pack_without(who, left_out_X, LENGTH)
    scorer.values(np.ones((len(left_out_X), WIDTH), np.float32), without, who.moment_BC, item_row_K, who.now)
    together = client.sent
    for place, row in enumerate(left_out_X):
        keep_E = who.item_row_E != row
        names = ("item_row_E", "event_code_E", "timestamp_E")
        alone = replace(who, **{name: getattr(who, name)[keep_E] for name in names})
        scorer.values(np.ones((1, WIDTH), np.float32), pack(alone, LENGTH), who.moment_BC, item_row_K, who.now)
        assert np.array_equal(client.sent["profile"][0], together["profile"][place])
        assert np.array_equal(client.sent["number"][0, :, 1:], together["number"][place, :, 1:])
    assert len(np.unique(together["profile"], axis=0)) > 1
