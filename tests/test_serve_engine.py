"""One process as a whole: two arms, what is posted and told while it runs, what is judged, reported and forgotten."""

import time
from collections import Counter
from contextlib import closing

import polars as pl
import pytest

from data.schema import IMPRESSIONS, check_table
from serve import publication, slates
from serve.ab import arm
from serve.commands import engine as unready
from serve.contract import Request
from serve.engine import Engine
from serve.forget import forget
from serve.manifest import ReleaseError
from serve.settings import settings
from serve.slate_log import impressions
from serve.store import open_store
from tests.engines import published, started

SHARES = {"champion": 0.5, "challenger": 0.5}
ARMS = ("arms.salt=s", "arms.shares.champion=0.5", "arms.shares.challenger=0.5", "judged=1")


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    root = published(tmp_path_factory.mktemp("releases"), "v1", "v2")
    publication.challenge(root, "v1")
    return root


@pytest.fixture
def engine(releases, tmp_path):
    with started(releases, tmp_path / "state", *ARMS) as made:
        yield made


def logged(engine, count):
    """The log of what was shown, once so many slates are in it."""
    deadline = time.monotonic() + 60
    while len(found := [slate for _, slate in engine.store.slates_since()]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_each_user_has_an_arm_of_their_own_for_good_and_the_log_says_which(engine):
    users = [f"u{number}" for number in range(10)] + ["a", "b", "c"]
    for user in users * 2:
        slate, served = engine.recommend(Request(user, engine.now_ms(), count=5))
        assert served == arm(user, "s", SHARES)
        assert slate.model_version == {"champion": "v2", "challenger": "v1"}[served]
    found = logged(engine, 2 * len(users))
    assert Counter(one.arm for one in found) == Counter(arm(user, "s", SHARES) for user in users * 2)
    table = check_table(impressions(found), IMPRESSIONS, table="impressions", source="the log")
    assert len(table) == 10 * len(users)
    assert table.select(pl.col("position").min(), pl.col("position").max().alias("last")).row(0) == (1, 5)


def test_a_report_tells_what_came_of_the_slates_of_each_arm(engine):
    for number in range(20):
        slate, served = engine.recommend(Request(f"x{number}", engine.now_ms(), count=5))
        if served == "challenger":
            body = f'{{"user_id": "x{number}", "item_id": "{slate.recommendations[0].item_id}", "event_type": "click"'
            engine.record(f'{body}, "request_id": "{slate.request_id}"}}'.encode())
    logged(engine, 20)
    told = Engine.reported(engine.store, SHARES)
    by_arm = {one.arm: one for one in told.arms}
    assert by_arm["champion"].figures["click_through"] == 0
    assert by_arm["challenger"].figures["click_through"] == 1
    assert by_arm["challenger"].users + by_arm["champion"].users == 20
    assert told.events_unmatched == 0


def test_an_item_posted_once_is_in_both_arms_and_in_a_process_that_starts_later(engine, releases, tmp_path):
    assert engine.post_items(b'{"item_id": "n1", "title": "New", "genres": ["drama"], "content_embedding": [0.1, 0.2]}') == (1,)
    users = {served: next(user for user in map(str, range(99)) if arm(user, "s", SHARES) == served) for served in SHARES}
    for served, user in users.items():
        deadline = time.monotonic() + 60
        while True:
            slate, by = engine.recommend(Request(user, engine.now_ms(), count=80))
            if "n1" in [shown.item_id for shown in slate.recommendations]:
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert by == served
    with started(releases, tmp_path / "state") as other:
        assert other.similar("n1", 3).recommendations


def test_an_item_that_another_process_posted_a_moment_ago_is_known_to_events(engine, releases, tmp_path):
    with started(releases, tmp_path / "state") as other:
        other.post_items(b'{"item_id": "n2", "title": "New", "genres": ["drama"]}')
        assert engine.record(b'{"user_id": "u", "item_id": "n2", "event_type": "click"}') == (1, 0)
        with pytest.raises(slates.UnknownItem):
            engine.similar("n3", 2)


def test_the_index_is_judged_by_live_queries(engine):
    engine.recommend(Request("u9", engine.now_ms(), live=True))
    deadline = time.monotonic() + 60
    while b"towers_index_recall_count 0.0" in engine.gauges.text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    text = engine.gauges.text().decode()
    count, total = (float(text.split(f"towers_index_recall_{name} ")[1].split()[0]) for name in ("count", "sum"))
    assert total == count  # these indexes are exact


def test_who_is_forgotten_is_nobody_and_stays_so(engine, releases, tmp_path):
    engine.recommend(Request("u8", engine.now_ms(), count=5))
    logged(engine, 1)
    with engine.fleet.champion() as served:
        engine.store.put_precomputed({"u8": served.recommender.ahead("u8", engine.now_ms())})
    told = forget("u8", engine.store, [], releases=releases, forgotten=tmp_path / "state" / "forgotten.txt")
    assert told["store: precomputed"] == 1
    assert told["store: slates"] == 1
    assert told["store: history"] == 8
    assert {what for what in told if what.startswith("still held")} == {
        f"still held: {releases / version / file}" for version in ("v1", "v2") for file in ("histories.parquet", "users.parquet")
    }
    assert engine.recommend(Request("u8", engine.now_ms(), count=5))[0].answered_by == "popular"
    path = releases / "v2"
    engine.store.load_histories(path / "histories.parquet", path / "users.parquet", version="another")
    assert engine.recommend(Request("u8", engine.now_ms(), count=5))[0].answered_by == "popular"


def test_whoever_asks_once_is_told_what_is_wrong_with_the_only_release(tmp_path):
    root = published(tmp_path / "releases", "v1")
    (root / "v1" / "clock.npz").unlink()
    chosen = settings([f"releases={root}", f"state={tmp_path / 'state'}", "editorial=null"])
    with pytest.raises(ReleaseError, match=r"clock\.npz"), unready(chosen):
        pass
    with closing(open_store(tmp_path / "state" / "live.sqlite")) as store:
        assert store.user_ids() == []
