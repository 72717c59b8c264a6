"""What operations watches: every answer counted once for what it was, in buckets that the objectives fall on, by labels of a few words."""

import re
from itertools import pairwise

import numpy as np
import pytest

from serve.contract import Draw, Recommendation, Slate
from serve.gauges import BUCKETS_S, Gauges, lacking
from serve.live import Live
from serve.release import Release
from serve.shown import Shown, born_ms
from serve.sources import trends_of
from serve.sqlite_store import SqliteStore
from serve.store import Event, StoreError
from serve.tops import Pool, Tops
from serve.vitals import ArmVitals, Vitals
from tests.releases import START_MS, write_release

DAY_MS = 86_400_000


def slate(answered_by="personalised", dropped=None, **more):
    items = (Recommendation("a", "A", 0.5, "r", "row", ("popular", "content")), Recommendation("b", "B", 0.4, "r", "row", ("popular",)))
    told = {"proposed": {"popular": 7, "content": 3}, "draw": Draw(0.1, (0, 1), ("x",), ("x", None))} | more
    return Slate("r", items, "v1", answered_by, 30.0, {"ranker": 12.0}, dropped or {}, **told)


@pytest.mark.parametrize(
    ("answered_by", "parts"),
    [
        ("personalised", ()),
        ("personalised (without reasons)", ("reasons",)),
        ("personalised (without content, history)", ("content", "history")),
        ("trending (ranking unavailable)", ("ranking",)),
        ("popular (ranking unavailable, history)", ("ranking", "history")),
        ("precomputed (release unavailable)", ("release",)),
    ],
)
def test_an_answer_says_which_parts_it_lacks(answered_by, parts):
    assert lacking(answered_by) == parts


def test_an_answer_is_counted_for_all_that_it_was():
    gauges = Gauges()
    dropped = {"already watched": 4, "source because: late": 1, "history unavailable": 1}
    gauges.answered(slate("personalised (without because, history)", dropped, why_live="stale"), "challenger")
    gauges.answered(slate("precomputed"), "champion")
    read = gauges.read()
    assert read["towers_answers_total"] == {("personalised (without several parts)",): 1, ("precomputed",): 1}
    assert read["towers_fallbacks_total"] == {(): 1}
    assert read["towers_lacking_total"] == {("because",): 1, ("history",): 1}
    assert read["towers_precomputed_total"] == {("stale",): 1, ("used",): 1}
    assert read["towers_arm_answers_total"] == {("challenger",): 1, ("champion",): 1}
    assert read["towers_proposed_total"] == {("popular",): 14, ("content",): 6}
    assert read["towers_shown_total"] == {("popular",): 4, ("content",): 2}
    assert read["towers_source_missing_total"] == {("because", "late"): 1}
    assert read["towers_dropped_total"] == {("already watched",): 4}
    assert read["towers_explored_total"] == {("drawn",): 2, ("kept",): 2}
    assert read["towers_request_seconds_count"] == {("total",): 2, ("ranker",): 2}


def test_many_ways_to_lack_parts_make_few_labels():
    gauges = Gauges()
    for number in range(200):
        gauges.answered(slate(f"personalised (without source{number % 9}, source{(7 * number) % 8})"), "champion")
    assert len(gauges.read()["towers_answers_total"]) == 1


def test_buckets_tell_apart_what_lies_between_one_and_five_hundred_ms():
    assert {0.001, 0.2, 0.5} <= set(BUCKETS_S)
    between = [edge for edge in BUCKETS_S if edge <= 0.5]
    assert all(high <= 2 * low for low, high in pairwise(between))


def test_lags_are_observed_and_events_of_the_future_counted():
    gauges = Gauges()
    gauges.received(3, 0, [0.2, 5.0, -60.0])
    read = gauges.read()
    assert (read["towers_event_stored_lag_seconds_count"], read["towers_event_stored_lag_seconds_sum"]) == ({(): 3}, {(): 5.2})
    assert read["towers_future_events_total"] == {(): 1}


def test_an_arm_that_went_is_told_of_no_more_and_what_is_not_known_is_not_told():
    gauges = Gauges()
    arm = ArmVitals("challenger", "v2", 1, 5.0, 60, 0.25, None, None)
    gauges.stands(Vitals((arm,), 0, 0, 1.0))
    assert gauges.read()["towers_release_info"] == {("challenger", "v2"): 1}
    assert "towers_newest_shown_item_age_seconds" not in gauges.read()
    gauges.stands(Vitals((), 0, 0, None))
    assert "towers_release_info" not in gauges.read()


def test_how_things_stand_is_asked_at_every_reading_and_the_process_is_measured():
    gauges, asked = Gauges(), []
    gauges.asking(lambda: asked.append(1))
    gauges.read()
    text = gauges.text().decode()
    assert len(asked) == 2
    assert re.search(r"^process_resident_memory_bytes [1-9]", text, re.MULTILINE)
    names = re.findall(r"^# TYPE (\S+) (\S+)", text, re.MULTILINE)
    for name, kind in names:
        assert kind != "counter" or name.endswith("_total"), name
        assert not re.search(r"_ms$|_millis|_minutes|_hours|_percent", name), name


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.open(write_release(tmp_path_factory.mktemp("release"), items=40, room=10))


def test_coverage_is_the_share_of_different_items_and_ages_are_of_them(release, monkeypatch):
    shown, now = Shown(), START_MS + 10 * DAY_MS
    assert shown.lately("v1", now) is None
    clock = iter([0.0, 1800.0, 3500.0, 3601.0, 5401.0])
    monkeypatch.setattr("serve.shown.time.monotonic", lambda: next(clock))
    shown.tell(release, ["i1", "i2", "i3"])
    shown.tell(release, ["i3", "i4", "gone"])
    within = shown.lately("v1", now)
    assert (within.count, within.coverage) == (40, 4 / 40)
    age_S = (now - born_ms(release, np.array([1, 2, 3, 4]))) / 1000
    assert (within.newest_age_s, within.median_age_s) == (pytest.approx(np.nanmin(age_S)), pytest.approx(np.nanmedian(age_S)))
    assert shown.lately("v1", now).coverage == 2 / 40  # an hour after the first
    assert shown.lately("v1", now).coverage == 0


def test_a_posted_item_is_as_old_as_its_posting(release):
    row = release.catalogue.rows(["i1"])
    release.catalogue.posted_at_I[row] = START_MS
    try:
        assert born_ms(release, row).tolist() == [START_MS]
    finally:
        release.catalogue.posted_at_I[row] = -1


def test_live_counts_tell_how_long_events_waited_to_be_counted(release, tmp_path):
    told = []
    with_store = SqliteStore(tmp_path / "live.sqlite")
    live = Live(
        Tops.of(trends_of(release), Pool(new_days=30.0)), with_store, rows=release.catalogue.rows, users=release.users,
        liked_from=release.manifest.liked_from, known=told.append,
    )  # fmt: skip
    live.poll()
    assert told == []
    with_store.append([Event("e1", "u1", "i1", "click", START_MS)])
    live.stored()
    before = live.age_s
    live.poll()
    assert len(told) == 1 and 0 <= told[0] < 60
    assert live.age_s < before + told[0]
    live.poll()
    assert len(told) == 1
    with_store.close()


def test_a_store_that_is_away_leaves_the_live_counts_behind(release, tmp_path, monkeypatch):
    store = SqliteStore(tmp_path / "live.sqlite")
    told = []
    live = Live(
        Tops.of(trends_of(release), Pool(new_days=30.0)), store, rows=release.catalogue.rows, users=release.users,
        liked_from=release.manifest.liked_from, known=told.append,
    )  # fmt: skip
    live.poll()
    caught_up = live._caught_up
    monkeypatch.setattr(store, "events_since", lambda *_, **__: (_ for _ in ()).throw(StoreError("away")))
    live.stored()
    live.poll()
    assert (told, live._caught_up, live.failing) == ([], caught_up, True)
    monkeypatch.undo()
    live.poll()
    assert len(told) == 1 and live._caught_up > caught_up
    store.close()
