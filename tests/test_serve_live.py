"""Live counts: what the tail of a real store adds comes to what counting everything at once comes to."""

import itertools
import sqlite3
import time
from contextlib import closing

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.aggregates import day_part_counts, region_counts
from data.features import DAY_MS, EVENT_TYPE_CODE, HOUR_MS, event_code, is_liked
from serve import live
from serve.contract import LoggedSlate
from serve.live import Live
from serve.release import Release
from serve.sqlite_store import SqliteStore
from serve.store import Event, StoreError
from serve.tops import Pool, Tops
from serve.trends import Decayed, Trends
from tests.releases import START_MS, write_release

LATER = START_MS + 40 * DAY_MS
POOL = Pool(rare=4)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.open(write_release(tmp_path_factory.mktemp("release") / "v1", items=30, width=8))


@pytest.fixture(scope="module")
def tops(release):
    words = release.vocabulary.region.words
    return Tops.of(Trends.open(release.path, release.manifest, release_day_I=release.release_day_I, words=words), POOL)


class Shelf(SqliteStore):
    """The embedded store with a log of slates in memory, and a plug to pull."""

    def __init__(self, path):
        super().__init__(path)
        self.slates, self.plugged = [], True

    def log_slates(self, slates):
        self.slates += slates

    def slates_since(self, sequence=0, *, limit=100_000):
        return [(number, slate) for number, slate in enumerate(self.slates, start=1) if number > sequence][:limit]

    def events_since(self, sequence=0, *, limit=1_000_000):
        if not self.plugged:
            raise StoreError("the plug is pulled")
        return super().events_since(sequence, limit=limit)


@pytest.fixture
def store(tmp_path):
    with closing(Shelf(tmp_path / "live.sqlite")) as opened:
        yield opened


def following(release, tops, store, **changes):
    given_ = {"rows": release.catalogue.rows, "users": release.users, "liked_from": 3.5, "now_ms": lambda: LATER} | changes
    return Live(tops, store, **given_)


def slate(number, item_ids, timestamp):
    nothing = (None,) * len(item_ids)
    return LoggedSlate(
        f"r{number}", "u1", timestamp, "a", "v1", "personalised", None, None, tuple(item_ids), ((),) * len(item_ids), nothing, None
    )


def same(one, other):
    assert {region: rows.tolist() for region, rows in one.trending.items()} == {
        region: rows.tolist() for region, rows in other.trending.items()
    }
    assert [rows.tolist() for rows in one.popular] == [rows.tolist() for rows in other.popular]
    assert one.explore.tolist() == other.explore.tolist()


def rebuilt(tops, events, shown, release):
    """The tops of the release's own counts, moved on to `LATER`, and of these events by the expressions that export counts with."""
    table = pl.DataFrame(
        [(e.user_id, e.item_id, e.event_type, e.timestamp, e.rating, e.region) for e in events],
        schema={"user_id": pl.String, "item_id": pl.String, "event_type": pl.String, "timestamp": pl.Int64, "rating": pl.Float64,
                "region": pl.String}, orient="row",
    ).join(release.users.select("user_id", pl.col("region").alias("home")), on="user_id", how="left")  # fmt: skip
    code = event_code(
        table["event_type"].replace_strict(EVENT_TYPE_CODE, return_dtype=pl.Int64).to_numpy(),
        table["rating"].fill_null(float("nan")).to_numpy(),
        liked_from=3.5,
    )
    told = pl.DataFrame(
        {
            "item_row": release.catalogue.rows(table["item_id"]),
            "timestamp": table["timestamp"],
            "region": table.select(pl.coalesce("region", "home")).to_series(),
            "liked": is_liked(code),
        }
    )
    newest = max([e for e, liked in zip(told["timestamp"], told["liked"], strict=True) if liked], default=tops.trends.newest)
    regions = region_counts(told.lazy(), as_of=newest, short_half_life_days=2, long_half_life_days=28).collect()
    parts = day_part_counts(told.lazy(), as_of=newest, half_life_days=7).collect()

    def joined(counted, rows, more_NC, days):
        both_IC = np.zeros((30, len(days)))
        both_IC[counted.item_row_N] += counted.worth(newest).T
        np.add.at(both_IC, rows, more_NC)
        there = both_IC.any(1)
        return Decayed.of(np.flatnonzero(there), both_IC[there].T, at=newest, half_life_days_C=days)

    by_region = {}
    for region in (None, "DE", "FR"):
        here = regions.filter(pl.col("region").eq_missing(region))
        before = tops.trends.regions.get(region, Decayed.nothing(tops.trends.regions[None]))
        by_region[region] = joined(before, here["item_row"].to_numpy(), here.select("short", "long").to_numpy(), (2, 28))
    part_NC = np.eye(6)[parts["part"].to_numpy()] * parts["count"].to_numpy()[:, None]
    day_parts = joined(tops.trends.day_parts, parts["item_row"].to_numpy(), part_NC, (7,) * 6)
    by_region = {region: counted for region, counted in by_region.items() if region is None or len(counted.item_row_N)}
    exposure = tops.trends.exposure.shown(release.catalogue.rows(shown))
    trends = Trends(by_region, day_parts, exposure, START_MS, START_MS, newest, ("DE", "FR"))
    return Tops.of(trends, POOL)


EVENT = st.tuples(
    st.integers(0, 29), st.sampled_from([*EVENT_TYPE_CODE]), st.integers(1, 30 * DAY_MS), st.sampled_from(["u1", "u2", "stranger"]),
    st.sampled_from([None, "FR", "Atlantis"]), st.sampled_from([2.0, 5.0]),
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(EVENT, max_size=25),
    st.lists(st.lists(st.integers(0, 29), max_size=5, unique=True), max_size=5),
    st.lists(st.integers(0, 25), max_size=3),
)
def test_what_the_tail_counted_is_what_a_rebuild_from_all_events_counts(release, tops, tmp_path_factory, drawn, shown, cuts):
    events = [
        Event(f"e{n}", user, f"i{row}", kind, START_MS + after, rating=rating if kind == "rate" else None, region=region)
        for n, (row, kind, after, user, region, rating) in enumerate(drawn)
    ]
    with closing(Shelf(tmp_path_factory.mktemp("live") / "live.sqlite")) as store:
        one, other = following(release, tops, store), following(release, tops, store)
        edges = [0, *sorted(cuts), len(events)]
        for start, end in itertools.pairwise(edges):
            store.append(events[start:end])
            one.poll()
        store.log_slates([slate(n, [f"i{row}" for row in rows], START_MS + 1 + n) for n, rows in enumerate(shown)])
        one.poll()
        other.poll()
    same(one.tops(), rebuilt(tops, events, [f"i{row}" for rows in shown for row in rows], release))
    same(one.tops(), other.tops())  # another process, which read everything at once
    assert one.failures == one.unknown == one.early == 0


def test_what_the_release_has_counted_is_not_counted_again(release, tops, store):
    tail = following(release, tops, store)
    store.append([Event("e1", "u1", "i0", "complete", START_MS)])
    store.log_slates([slate(1, ["i0"], START_MS)])
    tail.poll()
    assert tail.tops() is tops and tail.early == 1


def test_a_wave_in_one_region_is_a_trend_there_and_an_event_from_the_future_is_one_of_today(release, tops, store):
    tail = following(release, tops, store)
    store.append([Event(f"e{n}", "stranger", "i1", "complete", LATER + 4000 * DAY_MS, region="FR") for n in range(40)])
    tail.poll()
    assert tail.tops().trending["FR"].tolist() == []  # all that happens there is its habit by now
    assert tail.tops().trending[None].tolist()[0] == 1
    assert 1 not in tail.tops().trending["DE"]
    assert tail.tops().trends.newest == LATER
    assert tail.tops().popular[LATER // (4 * HOUR_MS) % 6].tolist()[0] == 1


def test_a_store_that_fails_is_counted_and_read_on_when_it_is_back(release, tops, store, caplog):
    tail = following(release, tops, store)
    store.plugged = False
    store.append([Event("e1", "u1", "i1", "complete", LATER - 5)])
    for _ in range(3):
        tail.poll()
    assert (tail.failures, tail.failing, tail.tops() is tops) == (3, True, True)
    assert caplog.text.count("live counts stand still: the plug is pulled") == 1
    store.plugged = True
    tail.poll()
    assert not tail.failing and tail.tops().trends.newest == LATER - 5


def test_a_broken_file_is_a_failure_and_not_the_end_of_the_thread(release, tops, store):
    store.append([Event("e1", "u1", "i1", "complete", LATER - 5)])
    with closing(following(release, tops, store, period_s=0.01)) as tail:
        store.plugged = False
        tail.start()
        until(lambda: tail.failures > 2)
        store.plugged = True
        until(lambda: tail.tops().trends.newest == LATER - 5)
        assert tail.following
    until(lambda: not tail.following)


def until(holds):
    for _ in range(1_000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("this never came to hold")


def test_new_items_are_explored_and_what_was_told_of_them_before_is_counted(release, tops, store):
    rows = dict(release.catalogue.row_of)
    tail = following(release, tops, store, rows=lambda ids: np.array([rows.get(item_id, -1) for item_id in ids], np.int64))
    store.append([Event("e1", "u1", "new", "complete", LATER - 5), Event("e2", "u1", "gone", "watch", LATER - 4)])
    store.log_slates([slate(1, ["new", "i0"], LATER - 3)])
    tail.poll()
    assert tail.unknown == 3
    assert tail.tops().explore.tolist()[:2] == [1, 0]  # each shown once, and item 1 is newer
    rows["new"] = 31
    tail.add_items(np.array([31]), LATER)
    tail.poll()
    assert tail.tops().explore.tolist()[0] == 31 and 30 not in tail.tops().explore
    assert 31 in tail.tops().trending[None] and 31 in tail.tops().trending["DE"]
    assert tail.unknown == 2
    store.log_slates([slate(n, ["new"], LATER) for n in range(2, 5)])
    tail.poll()
    assert tail.tops().trends.exposure.count_I[[30, 31]].tolist() == [-1, 3]


def test_more_than_is_read_at_once_is_read_in_several_steps(release, tops, store, monkeypatch):
    monkeypatch.setattr(live, "EVENTS_AT_ONCE", 3)
    monkeypatch.setattr(live, "SLATES_AT_ONCE", 2)
    tail = following(release, tops, store)
    store.append([Event(f"e{n}", "u1", "i0", "complete", START_MS + 1) for n in range(10)])
    store.log_slates([slate(n, ["i0"], START_MS + 1) for n in range(5)])
    tail.poll()
    counted = tail.tops().trends
    assert counted.regions[None].worth(START_MS)[:, 0] == pytest.approx([20, 20], rel=1e-6)
    assert counted.exposure.count_I[0] == 5


def test_another_file_in_the_place_of_the_store_is_a_failure_that_is_counted(release, tops, tmp_path):
    path = tmp_path / "live.sqlite"
    with closing(Shelf(path)) as store:
        tail = following(release, tops, store)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE events")
        tail.poll()
        assert tail.failures == 1 and tail.tops() is tops
