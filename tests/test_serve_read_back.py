"""What a server logged is what training reads: the tables as they were written, by the reader of one's own, with no column map."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from data import impressions, judgements
from data.log import read_log
from data.schema import IMPRESSIONS
from data.split import TEST, by_time
from serve import continuation
from serve.contract import Request
from serve.store import open_store
from tests.engines import published, started

ROOT = Path(__file__).parents[1]
EPSILON, SLOTS = 0.5, (2, 4)
CHANCE = (f"rules.explore.places={list(SLOTS)}", f"rules.explore.epsilon={EPSILON}", "~rules.turns")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(the slates as they were answered, by request; the folder of what was logged; the release)."""
    folder = tmp_path_factory.mktemp("read_back")
    releases, answered = published(folder / "releases", "v1"), {}
    with started(releases, folder / "state", *CHANCE) as engine:
        for number in range(30):
            user_id = f"u{number % 10}"
            slate, arm = engine.recommend(Request(user_id, engine.now_ms(), count=6, device="tv", region="DE"))
            answered[slate.request_id] = (user_id, arm, slate)
            first, second = (shown.item_id for shown in slate.recommendations[:2])
            told = {"user_id": user_id, "request_id": slate.request_id, "device": "tv"}
            engine.record(json.dumps([
                told | {"item_id": second, "event_type": "click"},
                told | {"item_id": second, "event_type": "complete", "watch_duration_seconds": 60.0 + number},
                told | {"item_id": first, "event_type": "not_interested"},
            ]).encode())  # fmt: skip
    with closing(open_store(folder / "state" / "live.sqlite")) as store:
        continuation.write(store, folder / "logs", continuation.Reached())
    return answered, folder / "logs", releases / "current"


@pytest.fixture(scope="module")
def log(served):
    _, folder, release = served
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = {"events": folder / "events.parquet", "impressions": folder / "impressions.parquet", "items": release / "catalogue.parquet"}
        cfg = compose("train", ["data=tables", *(f"data.{name}={path}" for name, path in words.items())])
    return read_log(by_time(instantiate(cfg.data)), liked_from=3.5)


def test_the_files_have_the_columns_of_the_schema_and_every_place_of_every_slate(served):
    answered, folder, _ = served
    frame = pl.read_parquet(folder / "impressions.parquet")
    assert frame.schema == {name: column.dtype for name, column in IMPRESSIONS.items()}
    assert len(answered) == 30 == frame["request_id"].n_unique()
    for (request_id,), rows in frame.group_by("request_id"):
        user_id, arm, slate = answered[request_id]
        rows = rows.sort("position")
        assert rows["position"].to_list() == [1, 2, 3, 4, 5, 6] and set(rows["user_id"]) == {user_id} and set(rows["arm"]) == {arm}
        assert rows["item_id"].to_list() == [shown.item_id for shown in slate.recommendations] and set(rows["release"]) == {"v1"}
        assert rows["sources"].to_list() == [list(shown.sources) for shown in slate.recommendations]


def test_pool_epsilon_and_draw_are_logged_and_the_propensities_follow_from_them(served):
    answered, folder, _ = served
    shown, draws = (pl.read_parquet(folder / f"{name}.parquet") for name in ("impressions", "draws"))
    assert set(draws["request_id"]) <= set(answered) and set(draws["epsilon"]) == {EPSILON}
    assert shown["propensity"].is_not_null().sum() == draws["slots"].list.len().sum()
    taken = 0
    for draw in draws.iter_rows(named=True):
        rows = shown.filter(pl.col("request_id") == draw["request_id"]).sort("position")
        assert 1 <= len(draw["slots"]) <= len(SLOTS) and not (set(rows["item_id"]) - set(draw["drawn"])) & set(draw["pool"])
        expected = [None] * 6
        for slot, item_id in zip(draw["slots"], draw["drawn"], strict=True):
            expected[slot] = 1 - EPSILON if item_id is None else EPSILON / len(draw["pool"])
            assert item_id is None or rows["item_id"][slot] == item_id in draw["pool"]
            taken += item_id is not None
        assert rows["propensity"].to_list() == expected
    slots = draws["slots"].list.len().sum()
    assert 40 < slots <= 60  # what a user began keeps its place
    assert slots / 4 < taken < slots * 3 / 4  # each with probability a half


def test_rankers_and_estimators_read_what_came_of_each_place(served, log):
    answered, folder, _ = served
    groups = judgements.shown(log)
    assert groups.there_GK.shape == (30, 6) and groups.there_GK.all()
    np.testing.assert_array_equal(groups.label_GKY[..., 0], np.tile([0, 1, 0, 0, 0, 0], (30, 1)))
    np.testing.assert_array_equal(groups.label_GKY[..., 1], groups.label_GKY[..., 0])
    seconds_G = {request: 60.0 + number for number, request in enumerate(answered)}
    assert sorted(groups.label_GKY[:, 1, 2]) == sorted(seconds_G.values()) and not np.delete(groups.label_GKY[..., 2], 1, axis=1).any()
    logged = pl.read_parquet(folder / "impressions.parquet").sort("request_id", "position")["propensity"].fill_null(float("nan"))
    np.testing.assert_array_equal(groups.propensity_GK.ravel(), logged)  # which is of places that chance might have filled alone
    known = impressions.observed(log, before=TEST).shown
    assert 0 < len(known.item_row_P) < 180 and set(known.position_P) == {1, 2, 3, 4, 5, 6} and known.arms == ("champion",)
    assert set(known.clicked_P[known.position_P == 2]) == {1.0} and set(known.clicked_P[known.position_P != 2]) == {0.0}


def test_each_event_knows_the_place_and_the_propensity_it_was_shown_with(served, log):
    shown = pl.read_parquet(served[1] / "impressions.parquet").with_columns(pl.col("propensity").fill_null(-1.0))
    for position, times in ((1, 1), (2, 2)):  # the first was turned down, the second opened, and watched
        expected = shown.filter(pl.col("position") == position)["propensity"].to_list() * times
        assert sorted(np.nan_to_num(log.propensity_E[log.position_E == position], nan=-1.0)) == sorted(expected)
    assert set(log.position_E.tolist()) == {1, 2}
