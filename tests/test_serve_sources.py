"""Sources propose within their budgets, each item once, by what they say they go by; and none can hold up or spoil the others."""

import dataclasses
import re
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import DAY_MS, DISLIKED, EVENT_TYPE_CODE, HOUR_MS
from serve import index
from serve.content import ContentTable, taste
from serve.contract import Request
from serve.own_sources import Checked, ProposalError
from serve.panel import BUDGETS, Budget, Panel, merge
from serve.release import Release
from serve.scoring import Person
from serve.settings import SettingsError
from serve.settings import settings as serving
from serve.sources import Ask, Because, Collaborative, Content, Explore, HalfWatched, Popular, Similar, Trending, usual
from serve.tops import Pool, Tops, explore, popular, trending
from serve.trends import Decayed, Exposure, Trends
from tests.engines import published, started
from tests.releases import START_MS, write_release

CODE = EVENT_TYPE_CODE | {"disliked": DISLIKED}


def person(events=(), now=0, region_row=0, timestamps=None):
    """A person of (item_row, event type) events, a minute apart."""
    rows = np.array([row for row, _ in events], np.int64)
    codes = np.array([CODE[name] for _, name in events], np.int64)
    times = np.arange(len(events)) * 60_000 if timestamps is None else np.array(timestamps, np.int64)
    return Person(rows, codes, times, np.array([[0, 0, 0, region_row, 0, 0]]), now)


def ask(who=None, query_BD=None, item_row=None, region=None, timestamp=0):
    return Ask(who or person(), query_BD, item_row, region, timestamp)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Proposes the same rows, after `wait` is set."""

    rows: tuple[int, ...]
    name: str
    wait: threading.Event | None = None

    def propose(self, ask, count):
        if self.wait is not None:
            self.wait.wait(10)
        return np.array(self.rows[:count], np.int64)


@dataclasses.dataclass(frozen=True)
class Broken:
    """Fails."""

    name: str = "broken"

    def propose(self, ask, count):
        raise KeyError("nothing here")


PROPOSALS = st.lists(st.lists(st.integers(0, 20), unique=True), max_size=4)


@given(PROPOSALS)
def test_merging_shows_every_item_once_in_order_of_first_sight_and_remembers_all_who_proposed_it(proposals):
    merged, cut = merge([(bit, np.array(rows, np.int64)) for bit, rows in enumerate(proposals)])
    assert cut == 0 and merged.item_row_K.tolist() == list(dict.fromkeys(row for rows in proposals for row in rows))
    for row, mask in zip(merged.item_row_K, merged.source_K, strict=True):
        assert mask == sum(1 << bit for bit, rows in enumerate(proposals) if row in rows)


@given(PROPOSALS, st.integers(0, 12))
def test_of_too_many_those_stay_that_came_first_when_the_sources_take_turns(proposals, limit):
    given_ = [(bit, np.array(rows, np.int64)) for bit, rows in enumerate(proposals)]
    whole, _ = merge(given_)
    merged, cut = merge(given_, limit)
    turns = dict.fromkeys(rows[place] for place in range(21) for rows in proposals if place < len(rows))
    assert set(merged.item_row_K.tolist()) == set(list(turns)[:limit])
    assert cut == len(turns) - len(merged.item_row_K)
    stays = np.isin(whole.item_row_K, merged.item_row_K)
    assert merged.item_row_K.tolist() == whole.item_row_K[stays].tolist() and merged.source_K.tolist() == whole.source_K[stays].tolist()


def test_a_source_that_hangs_or_fails_is_left_out_by_name_and_the_others_answer_in_time():
    never = threading.Event()
    sources = (Fixed((1, 2), "good"), Fixed((3,), "hanging", never), Broken())
    panel = Panel(sources, {"good": Budget(5, 2_000), "hanging": Budget(5, 100), "broken": Budget(5, 2_000)})
    try:
        for _ in range(20):  # more often than the hanging source has threads
            began = time.monotonic()
            candidates, missing, cut = panel.propose(["hanging", "good", "broken"], ask())
            assert time.monotonic() - began < 1
            assert candidates.item_row_K.tolist() == [1, 2] and cut == 0
            assert missing == {"hanging": "late", "broken": "failed"}
            assert panel.proposed_by(candidates, "good").all() and not panel.proposed_by(candidates, "hanging").any()
    finally:
        never.set()
        panel.close()


def test_a_source_proposes_no_more_than_its_budget():
    panel = Panel((Fixed(tuple(range(9)), "good"),), {"good": Budget(4, 2_000)})
    assert panel.propose(["good"], ask())[0].item_row_K.tolist() == [0, 1, 2, 3]
    panel.close()


@pytest.mark.parametrize("budgets", [{}, {"good": Budget(1, 1), "goods": Budget(1, 1)}])
def test_a_budget_of_no_source_or_a_source_without_one_is_refused(budgets):
    with pytest.raises(ValueError, match="good"):
        Panel((Fixed((1,), "good"),), budgets)


ANGLE = np.linspace(0, 1, 6, dtype=np.float32)
FAN = np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1)  # neighbours by row are neighbours


def test_nearest_first_and_never_the_item_itself():
    built = index.exact(FAN)
    assert Collaborative(built).propose(ask(query_BD=FAN[[0]]), 3).tolist() == [0, 1, 2]
    assert Similar(built, FAN.astype(np.float16)).propose(ask(item_row=0), 3).tolist() == [1, 2, 3]


def test_half_watched_is_what_was_begun_and_not_finished_since_newest_first():
    events = [(1, "watch"), (2, "watch"), (3, "watch"), (2, "complete"), (1, "watch"), (4, "view")]
    assert HalfWatched().propose(ask(person(events)), 9).tolist() == [1, 3]


def test_because_goes_by_turns_through_what_was_watched_last_and_never_proposes_that_itself():
    because = Because(index.exact(FAN), FAN.astype(np.float16), last=2)
    events = [(3, "complete"), (0, "complete"), (4, "view"), (2, "disliked"), (5, "rate"), (5, "watch"), (3, "skip")]
    assert because.seeds(person(events)).tolist() == [5, 0]
    assert because.propose(ask(person(events)), 9).tolist() == [4, 1, 3, 2]  # nearest to 5: 4, 3; nearest to 0: 1, 2
    assert because.propose(ask(person(events)), 2).tolist() == [4, 1]
    assert because.propose(ask(person([(1, "click"), (2, "view")])), 9).tolist() == []


# Two directions and items between them; the last has no content.
CONTENT = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [-1, 0], [0, 0]], np.float16)


def test_a_taste_weighs_what_was_done_by_kind_and_age():
    # a day old: item 0 finished, item 1 opened; a half-life before: item 1 watched, all of it seen from one day on
    who = person([(1, "watch"), (0, "complete"), (1, "click"), (4, "view")], now=11 * DAY_MS, timestamps=[0, *[10 * DAY_MS] * 3])
    taste_C, known = taste(CONTENT, who, half_life_days=10.0)
    both = np.array([1.0, 0.3 + 0.7 / 2])
    assert taste_C == pytest.approx(both / np.linalg.norm(both), abs=1e-6)
    assert known.tolist() == [0, 1]


def test_what_was_turned_down_pushes_the_taste_away_and_alone_makes_none():
    who = person([(0, "rate"), (1, "skip"), (1, "not_interested"), (1, "disliked")], timestamps=[0] * 4)
    assert taste(CONTENT, who, half_life_days=1.0)[0] == pytest.approx(np.array([1, -0.5]) / np.sqrt(1.25), abs=1e-6)
    assert not taste(CONTENT, person([(1, "disliked"), (0, "view")]), half_life_days=1.0)[0].any()
    assert not taste(CONTENT, person([(5, "complete")]), half_life_days=1.0)[0].any()
    assert taste(CONTENT, person([(0, "complete")], now=10**15), half_life_days=0.01)[0].tolist() == [1, 0]  # 2^-10⁶ is 0 to a float


def test_a_taste_is_of_the_last_hundred_events_that_say_something():
    events = [(1, "complete"), *[(0, "click")] * 100, *[(1, "view")] * 50]
    assert taste(CONTENT, person(events), half_life_days=30.0)[0].tolist() == [1, 0]


def test_content_proposes_what_points_the_same_way_and_nothing_without_content_or_already_known():
    content = Content(ContentTable(CONTENT, index.exact(CONTENT)))
    assert content.propose(ask(person([(0, "complete")])), 9).tolist() == [3, 2]
    assert content.propose(ask(person([(0, "complete")])), 1).tolist() == [3]
    assert content.propose(ask(person([(5, "complete")])), 9).tolist() == []
    assert content.propose(ask(), 9).tolist() == []


def decayed(counts, *, at=0, half_life_days=(2.0, 28.0)):
    """Counts of {item_row: (one number for each column)}."""
    values = np.array(list(counts.values()), np.float64).reshape(len(counts), len(half_life_days)).T
    return Decayed.of(np.array(list(counts), np.int64), values, at=at, half_life_days_C=half_life_days)


def test_what_is_always_popular_is_not_trending():
    # Σ short 220, Σ long 1100: a fifth of the long count is expected, 180 of item 7 and 20 of items 3 and 9 each
    counted = decayed({7: (175, 900), 3: (40, 100), 9: (5, 100)})
    short, long = counted.worth(0)
    z_N = (short - long / 5) / np.sqrt(long / 5 + 5)
    assert counted.item_row_N.tolist() == [3, 7, 9] and z_N == pytest.approx([4.0, -5 / np.sqrt(185), -3.0])
    assert trending(counted, 0).tolist() == [3]
    assert trending(decayed({7: (90, 900), 3: (10, 100)}), 0).tolist() == []  # everyone as always
    assert trending(decayed({}), 0).tolist() == []


def test_a_large_item_needs_more_for_a_trend_than_a_small_one():
    # expected 400, 25 and 175: up by 30 is 30 / √405 = 1.5 to the first and 30 / √30 = 5.5 to the second
    assert trending(decayed({0: (430, 800), 1: (55, 50), 2: (115, 350)}), 0).tolist() == [1, 0]


def test_trends_fade_at_two_speeds():
    counted = decayed({0: (16, 10), 1: (1, 10)}).add(np.array([1]), np.array([8 * DAY_MS]), np.ones((1, 2)))
    short, long = counted.worth(8 * DAY_MS)
    assert short == pytest.approx([1, 1 + 1 / 16]) and long == pytest.approx([10 * 2 ** (-8 / 28), 1 + 10 * 2 ** (-8 / 28)])


def test_time_of_day_decides_for_items_with_events_of_their_own_and_all_day_for_the_others():
    # κ = 20. Item 0: 200 in the morning of 240; item 1: 40 in each part; item 2: a single event, in part 1
    counted = decayed({0: (8, 200, 8, 8, 8, 8), 1: (40,) * 6, 2: (0, 1, 0, 0, 0, 0)}, half_life_days=(7.0,) * 6)
    tops = popular(counted, 0)
    share = np.array([49, 242, 49, 49, 49, 49]) / 487
    score = [[240 * (8 + 20 * share[c]) / 260, 240 * (40 + 20 * share[c]) / 260, 1 * ((c == 1) + 20 * share[c]) / 21] for c in range(2)]
    score[1][0] = 240 * (200 + 20 * share[1]) / 260
    assert tops[0].tolist() == np.argsort([-s for s in score[0]]).tolist() == [1, 0, 2]
    assert tops[1].tolist() == np.argsort([-s for s in score[1]]).tolist() == [0, 1, 2]
    # a thousand at other times count little at midnight, when hardly anybody is awake: 10·(5 + .12) / 30 against 1000·.12 / 1020
    night = decayed({0: (0, 1000, 0, 0, 0, 0), 1: (5, 5, 0, 0, 0, 0)}, half_life_days=(7.0,) * 6)
    assert [top.tolist() for top in popular(night, 0)[:2]] == [[1, 0], [0, 1]]
    nobody = decayed({5: (0,) * 6}, half_life_days=(7.0,) * 6)
    assert [top.tolist() for top in popular(nobody, 0)] == [[]] * 6


def test_the_pool_holds_the_new_and_the_least_exposed_least_first_and_newest_among_equals():
    # rows        0    1    2    3  4   5: none    6
    count = np.array([3, 0, 0, 9, 7, -1, 0])
    day = np.array([100, 10, 20, 99, 5, np.nan, np.nan])
    exposure = Exposure.of(count, day)
    at = 101 * DAY_MS
    assert explore(exposure, at, Pool(new_days=7, rare=2)).tolist() == [2, 1, 0, 3]
    assert explore(exposure, at, Pool(new_days=7, rare=0)).tolist() == [0, 3]
    assert explore(exposure, at, Pool(new_days=0, rare=9)).tolist() == [2, 1, 6, 0, 4, 3]
    posted = exposure.posted(np.array([8, 5, 0]), np.array([101.5, 101.0, 101.0]))
    assert explore(posted, at, Pool(new_days=7, rare=1)).tolist() == [8, 5, 0, 3]
    assert explore(posted.shown(np.array([8, 8, 5])), at, Pool(new_days=7, rare=0)).tolist() == [5, 8, 0, 3]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.open(write_release(tmp_path_factory.mktemp("release") / "v1", items=60, width=8, seed=3))


@pytest.fixture(scope="module")
def tops(release):
    return Tops.of(
        Trends.open(release.path, release.manifest, release_day_I=release.release_day_I, words=release.vocabulary.region.words),
        Pool(rare=3),
    )


def test_trends_are_those_of_the_request_then_of_the_user_then_of_everywhere(tops):
    source = Trending(lambda: tops, ("DE", "FR"))
    everywhere, there = list(range(59, 29, -1)), list(range(58, 29, -2))
    assert source.propose(ask(), 60).tolist() == everywhere
    assert source.propose(ask(region="DE"), 60).tolist() == there
    assert source.propose(ask(person(region_row=1)), 3).tolist() == there[:3]
    assert source.propose(ask(person(region_row=1), region="Atlantis"), 60).tolist() == everywhere
    assert source.propose(ask(person(region_row=2)), 60).tolist() == everywhere  # nothing is known of FR
    assert (source.where(ask(region="DE")), source.where(ask(region="FR"))) == ("DE", None)


def test_popular_goes_by_the_hour_on_the_wall(tops):
    early, late = np.array([4, 5]), np.array([6])
    told = Tops(tops.trending, (early, *[late] * 5), tops.explore, tops.trends, tops.pool)
    source = Popular(lambda: told, 7)
    assert source.propose(ask(timestamp=3 * DAY_MS + 4 * HOUR_MS - 1), 9).tolist() == [4, 5]
    assert source.propose(ask(timestamp=3 * DAY_MS + 4 * HOUR_MS), 9).tolist() == [6]
    assert Explore(lambda: told).propose(ask(), 2).tolist() == [0, 1]  # shown as often as their rows say


def test_every_source_has_a_budget_and_a_bit(release, tops):
    names = [source.name for source in usual(release, None, lambda: tops)]
    order = ["collaborative", "content", "trending", "popular", "editorial", "explore", "because", "similar", "begun"]
    assert names == order == list(BUDGETS)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 59), st.sampled_from(sorted(CODE))), max_size=30),
    st.integers(1, 80),
    st.integers(0, 59),
    st.sampled_from([None, "DE", "FR"]),
    st.integers(START_MS, START_MS + 3 * DAY_MS),
)
def test_no_source_proposes_more_than_it_may_or_an_item_twice_and_each_says_the_same_again(release, tops, events, count, row, region, now):
    asked = ask(person(events, now=now), release.items[[row], 8:].astype(np.float32), row, region, now)
    for source in usual(release, None, lambda: tops):
        proposed = source.propose(asked, count)
        assert proposed.dtype == np.int64 and len(proposed) <= count
        assert len(set(proposed.tolist())) == len(proposed)
        assert np.isin(proposed, np.arange(60)).all()
        assert proposed.tolist() == source.propose(asked, count).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_order_in_which_events_arrive_changes_no_top(tops, data):
    event = st.tuples(st.integers(0, 59), st.integers(1, 30 * 24 * 3_600), st.sampled_from([None, "DE", "FR", "Atlantis"]))
    events = data.draw(st.lists(event, min_size=1, max_size=30))
    shuffled = data.draw(st.permutations(events))
    split = data.draw(st.integers(0, len(events)))

    def counted(parts):
        trends = tops.trends
        for part in parts:
            rows, seconds = np.array([e[0] for e in part], np.int64), np.array([e[1] for e in part], np.int64)
            trends = trends.taken_up(rows, trends.log_end + 1000 * seconds, np.array([e[2] for e in part], object))
        return trends

    at_once = Tops.of(counted([events]), tops.pool)
    by_and_by = tops.after(counted([shuffled[:split]])).after(counted([shuffled[:split], shuffled[split:]]))
    assert {region: rows.tolist() for region, rows in at_once.trending.items()} == {
        region: rows.tolist() for region, rows in by_and_by.trending.items()
    }
    assert [rows.tolist() for rows in at_once.popular] == [rows.tolist() for rows in by_and_by.popular]


def test_where_nothing_happens_the_hour_still_moves_on(tops):
    # short 430, 5 and 366 of 801, expected 400, 1 and 400: 30 / √405 = 1.49 and 4 / √6 = 1.63, but after twenty days it is 30 against 4
    quiet = decayed({0: (430, 400), 1: (5, 1), 2: (366, 400)}, at=START_MS)
    day = START_MS // DAY_MS
    exposure = Exposure.of(np.array([0, 0]), np.array([day - 20.0, day - 5.0]))
    trends = dataclasses.replace(tops.trends, regions={None: decayed({}, at=START_MS), "DE": quiet}, exposure=exposure)
    before = Tops.of(trends, Pool(new_days=30, rare=0))
    assert before.trending["DE"].tolist() == [1, 0] and before.explore.tolist() == [1, 0]
    elsewhere = trends.taken_up(np.array([3]), np.array([START_MS + 20 * DAY_MS]), np.array([None], object))
    after = before.after(elsewhere)
    assert after.trending["DE"].tolist() == [0, 1] and after.explore.tolist() == [1]


def test_centuries_of_silence_leave_a_count_finite():
    counted = decayed({0: (5.0, 5.0), 1: (1.0, 1.0)})
    later = counted.add(np.array([1, 2]), np.array([10**13, 10**13 + 2 * DAY_MS]), np.ones((2, 2)))
    short, _ = later.worth(10**13 + 2 * DAY_MS)
    assert short == pytest.approx([0, 0.5, 1])


@given(st.integers(0, 2**32))
def test_the_best_are_the_same_whether_all_are_scored_or_only_those_that_can_be_among_them(seed):
    rng = np.random.default_rng(seed)
    count_CN = rng.gamma(0.3, 20, (6, 60)).round()  # many ties
    counted = Decayed.of(rng.permutation(100)[:60], count_CN, at=0, half_life_days_C=(7.0,) * 6)
    whole = [top[:9].tolist() for top in popular(counted, 0)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("serve.tops.DEEPEST", 9)
        assert [top.tolist() for top in popular(counted, 0)] == whole


OWN = """
import numpy as np


class Picks:
    def __init__(self, name, release, ids):
        self.name, self.rows, self.queries = name, release.catalogue.rows(ids), []

    def propose(self, ask, count):
        self.queries.append(ask.query_BD.shape)
        return self.rows[:count]


class Broken(Picks):
    def propose(self, ask, count):
        raise KeyError("nothing here")
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An engine with four sources of one's own, one of which is sound."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "their_sources.py").write_text(OWN)
    told = {
        "picks": "_target_:their_sources.Picks,candidates:2,ids:[i7,i8,i9]",
        "broken": "_target_:their_sources.Broken,candidates:9,ids:[]",
        "unmade": "_target_:their_sources.Picks,candidates:9,idds:[]",
        "unknown": "_target_:their_sources.Picks,candidates:9,ids:[nowhere]",
    }
    overrides = [f"+own_sources.{name}={{{what},timeout_ms:10000}}" for name, what in told.items()]
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        with started(published(folder / "releases", "v1"), folder / "state", *overrides, "~rules.explore") as engine:
            yield engine


@pytest.mark.parametrize("user", ["u5", "a stranger"])
def test_a_source_of_ones_own_joins_every_homepage_within_its_budget_and_says_so(own, user):
    slate, _ = own.recommend(Request(user, own.now_ms(), count=60))
    assert [one.item_id for one in slate.recommendations if "picks" in one.sources] in (["i7", "i8"], ["i8", "i7"])
    why = own.explain(Request(user, own.now_ms(), count=60), "i8")
    assert (why["sources"]["picks"], why["place"] is not None) == (2, True)
    with own.fleet.champion() as served:
        assert set(served.recommender.panel.source("picks").source.queries) == {(1, 8)}


def test_sources_of_ones_own_that_are_broken_fail_alone_and_by_name(own):
    failed = re.compile(r'towers_source_missing_total{source="broken",why="failed"} (.*)')
    before = float(failed.search(own.gauges.text().decode())[1])
    slate, _ = own.recommend(Request("u5", own.now_ms(), count=20))
    assert len(slate.recommendations) == 20
    assert {name: count for name, count in slate.dropped.items() if name.startswith("source ")} == {
        f"source {name}: failed": 1 for name in ("broken", "unmade", "unknown")
    }
    assert slate.answered_by == "personalised (without broken, unmade, unknown)"
    ready, told = own.readiness()
    parts = {name: said for name, said in told["parts"].items() if said != "ready"}
    assert not ready and parts == {f"source {name}": "failed" for name in ("broken", "unmade", "unknown")}
    assert told["parts"]["source picks"] == "ready"
    metrics = own.gauges.text().decode()
    assert 'towers_part_ready{part="source picks"} 1.0' in metrics and 'towers_part_ready{part="source unmade"} 0.0' in metrics
    assert 'towers_shown_total{source="picks"}' in metrics
    assert float(failed.search(metrics)[1]) == before + 1
    why = own.explain(Request("u5", own.now_ms(), count=20), "i8")
    assert {name: why["sources"][name] for name in ("broken", "unmade", "unknown")} == dict.fromkeys(
        ("broken", "unmade", "unknown"), "failed"
    )


def test_a_source_of_ones_own_is_asked_for_homepages_only(own):
    for context, item_id in (("item", "i7"), ("search-empty", None), ("continue", None)):
        slate, _ = own.recommend(Request("u5", own.now_ms(), count=60, context=context, item_id=item_id))
        assert not any("picks" in one.sources for one in slate.recommendations) and "(without" not in slate.answered_by


@pytest.mark.parametrize(
    ("proposed", "said"),
    [
        ([0, 1, 2, 3], "4 items; asked for were at most 3"),
        ([1, 1], "more than once"),
        ([60], "rows from 60 to 60; there are items at 0 to 59"),
        ([-1, 2], "rows from -1 to 2"),
        ([0.5], "float64"),
        ([[1], [2]], "shape"),
        (["i1"], "expected item rows"),
    ],
)
def test_what_cannot_be_proposed_is_refused_in_words(proposed, said):
    @dataclasses.dataclass(frozen=True)
    class Says:
        name: str = "says"

        def propose(self, ask, count):
            return proposed

    with pytest.raises(ProposalError, match=said):
        Checked(Says(), range(60), "says").propose(ask(), 3)


def test_proposals_may_be_any_whole_numbers_or_none():
    for rows in ([], [3, 1], np.array([3, 1], np.int32), np.zeros(0, np.float32)):
        proposed = Checked(Fixed(tuple(rows), "fixed"), range(60), "fixed").propose(ask(), 3)
        assert proposed.dtype == np.int64 and proposed.tolist() == list(rows)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+own_sources.awards={candidates:5,timeout_ms:9}", "own_sources.awards: expected _target_"),
        ("+own_sources.awards={_target_:nowhere.Awards,candidates:5,timeout_ms:9}", "own_sources.awards._target_=nowhere.Awards"),
        ("+own_sources.awards={_target_:serve.sources.Awards,candidates:5,timeout_ms:9}", "own_sources.awards._target_"),
        ("+own_sources.awards={_target_:serve.panel.LIMIT,candidates:5,timeout_ms:9}", "expected a class"),
        ("+own_sources.awards={_target_:serve.sources.Explore,timeout_ms:9}", "own_sources.awards.candidates"),
        ("+own_sources.awards={_target_:serve.sources.Explore,candidates:0,timeout_ms:9}", "own_sources.awards.candidates=0"),
        ("+own_sources.popular={_target_:serve.sources.Explore,candidates:5,timeout_ms:9}", "own_sources.popular: popular is the name"),
        ("+sources.awards={candidates:5,timeout_ms:9}", "belongs to own_sources"),
    ],
)
def test_settings_of_a_source_that_cannot_be_are_refused_by_key(override, said):
    with pytest.raises(SettingsError, match=said):
        serving([override])
