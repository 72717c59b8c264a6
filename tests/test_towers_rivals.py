"""A champion is asked what it would answer today, over a catalogue it did not know whole."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from data.content import write_recipe
from data.features import MomentVocabulary, Vocabulary
from data.log import queries, read_log
from data.split import TEST, SplitError, by_days, by_time
from tests.logs import small
from tests.worlds import SMALL_MILD, simulated
from towers.rivals import drawn_slots, in_log_order, in_words_of, measure, off_policy
from towers.saved import SavedRetrieval


def model(log, **changes) -> SavedRetrieval:
    """A model that knows every item by its genres: rows are content, and a query the mean of the history's rows."""

    class UserTower(torch.nn.Module):
        def forward(self, history, event_code, age_minutes, moment):
            return (history.float() * (event_code > 0).float()[:, :, None]).mean(1)

    genre_IG = torch.as_tensor(log.catalogue.genre_IG).half()
    made = SavedRetrieval(
        folder=None, user_tower=UserTower(), item_tower=None, row_IW=torch.cat([genre_IG, genre_IG], dim=1), width=genre_IG.shape[1],
        history_length=20, half_lives_days=(), item_ids=log.catalogue.item_ids, liked_from=log.liked_from, vocabulary=log.vocabulary,
    )  # fmt: skip
    return replace(made, **changes)


def test_rows_move_by_item_id_and_new_items_are_encoded(tmp_path):
    _, log = small()
    known = model(log)
    write_recipe(tmp_path / "recipe.npz", log.catalogue.recipe)
    order = torch.randperm(len(log.catalogue.item_ids), generator=torch.Generator().manual_seed(0))[10:]
    ones = lambda feature: torch.full((len(feature), known.row_IW.shape[1]), feature.shape[1], dtype=torch.half)  # noqa: E731
    partial = replace(
        known, folder=tmp_path, row_IW=known.row_IW[order], item_ids=tuple(log.catalogue.item_ids[row] for row in order), item_tower=ones
    )
    found = in_log_order(partial, log)
    was_known = np.isin(np.arange(len(log.catalogue.item_ids)), order.numpy())
    assert torch.equal(found.row_IW[torch.as_tensor(was_known)], known.row_IW[torch.as_tensor(was_known)])
    assert (found.row_IW[torch.as_tensor(~was_known)] == log.catalogue.recipe.width).all() and (~was_known).sum() == 10
    assert torch.equal(in_log_order(known, log).row_IW, known.row_IW)


def test_a_moment_keeps_its_words_and_what_was_not_known_is_unknown():
    now = MomentVocabulary(Vocabulary(("phone", "tv")), Vocabulary(("DE", "FR", "US")), Vocabulary(()))
    then = MomentVocabulary(Vocabulary(("car", "tv")), Vocabulary(("US",)), Vocabulary(("basic",)))
    moment = np.array([[5, 6, 2, 3, 0, 1], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    assert in_words_of(then, now, moment).tolist() == [[5, 6, 2, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_a_model_is_as_good_as_itself_and_better_than_noise():
    _, log = small()
    good = model(log)
    same = measure(good, good, log)
    assert same["users"] == len(queries(log, TEST).user_row_Q) and same["users"] > 100
    assert all((figure["difference"], figure["low"], figure["high"]) == (0, 0, 0) for figure in same["figures"].values())
    noise = replace(good, row_IW=torch.randn(good.row_IW.shape, generator=torch.Generator().manual_seed(0)).half())
    worse = measure(good, noise, log)["figures"]["ndcg_at_20"]
    assert worse["high"] < 0 and worse["difference"] == pytest.approx(worse["challenger"] - worse["champion"])


def draws(rows: list[dict]) -> pl.DataFrame:
    columns = {"request_id": pl.String, "user_id": pl.String, "timestamp": pl.Int64, "device": pl.String, "region": pl.String,
               "pool": pl.List(pl.String), "drawn": pl.List(pl.String)}  # fmt: skip
    return pl.DataFrame(rows, schema=columns)


def test_a_second_draw_is_from_what_the_first_one_left():
    slate = {"request_id": "r", "user_id": "u", "timestamp": 1, "device": None, "region": None}
    slots = drawn_slots(draws([slate | {"pool": ["a", "b", "c"], "drawn": ["b", None, "a"]}, slate | {"pool": ["a"], "drawn": [None]}]))
    assert [(slot["pool"], slot["drawn"]) for slot in slots] == [(["a", "b", "c"], "b"), (["a", "c"], "a")]


def test_off_policy_by_hand():
    """One-dimensional rows 1 for item a and 0 for the rest, so that a champion of rows (1) ranks a first and one of rows (−1) last."""
    tables, _ = simulated(SMALL_MILD)
    split = by_time(tables)
    at = split.of(TEST)["timestamp"].max()
    a, b = tables.items["item_id"][:2]
    users = split.of(TEST)["user_id"].unique().sort().to_list()[:4]
    clicks = pl.DataFrame(
        {"user_id": users[:2], "item_id": [a, a], "event_type": ["click"] * 2, "timestamp": [at + 1] * 2, "request_id": ["q0", "q1"]}
    )
    grown = replace(tables, events=pl.concat([tables.events, clicks], how="diagonal_relaxed"))
    log = read_log(by_time(grown))
    one = torch.zeros(len(log.catalogue.item_ids), 2, dtype=torch.half)
    one[log.catalogue.item_ids.index(a)] = 1.0

    class Ones(torch.nn.Module):
        def forward(self, history, event_code, age_minutes, moment):
            return torch.ones(len(history), 1)

    likes_a = model(log, row_IW=one, width=1, user_tower=Ones())
    hates_a = replace(likes_a, row_IW=-one)
    slate = {"timestamp": at, "device": None, "region": None, "pool": [b, a]}
    told = [slate | {"request_id": f"q{n}", "user_id": user, "drawn": [[a], [a], [a], [b]][n]} for n, user in enumerate(users)]
    told.append(slate | {"request_id": "early", "user_id": users[0], "drawn": [a], "timestamp": 1})
    told.append(slate | {"request_id": "q9", "user_id": "a stranger", "drawn": [b]})
    found = off_policy(hates_a, likes_a, log, draws(told), share=0.5)
    assert (found["slots"], found["clicked"]) == (5, 2)  # not the early one, of which the challenger has learnt
    assert found["challenger"] == pytest.approx(2 / 3) and found["champion"] == 0.0 and found["difference"] == pytest.approx(2 / 3)
    assert found["effective_slots"] == [2.0, 3.0]
    assert off_policy(hates_a, likes_a, log, draws(told[4:5]), share=0.5) == {"slots": 0, "said": "no randomised slots in the test days"}


def test_days_are_counted_from_the_last_event():
    tables, _ = simulated(SMALL_MILD)
    split = by_days(tables, test_days=3, validation_days=2.5)
    day = 86_400_000
    end = tables.events["timestamp"].max() + 1
    assert split.cut_ms == (end - 5.5 * day, end - 3 * day)
    assert split.of(TEST)["timestamp"].min() >= end - 3 * day and split.report["events_validation"] > 0
    for days in ({"test_days": 0, "validation_days": 1}, {"test_days": 1, "validation_days": -1}):
        with pytest.raises(SplitError, match="more than 0"):
            by_days(tables, **days)
    with pytest.raises(SplitError, match=r"by_days: no event falls into .*take more days"):
        by_days(tables, test_days=1e-9, validation_days=1e-9)
