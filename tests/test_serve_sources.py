"""Sources propose within their budgets, and none can hold up or spoil the others."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features import EVENT_TYPE_CODE, HOUR_MS, ItemClock
from serve import index
from serve.panel import Budget, Panel, merge
from serve.scoring import Person
from serve.sources import Ask, Collaborative, HalfWatched, Popular, Similar


def person(events=(), now=0):
    """A person of (item_row, event type) events, a minute apart."""
    rows = np.array([row for row, _ in events], np.int64)
    codes = np.array([EVENT_TYPE_CODE[name] for _, name in events], np.int64)
    return Person(rows, codes, np.arange(len(events)) * 60_000, np.zeros((1, 6), np.int64), now)


@dataclass(frozen=True)
class Fixed:
    """Proposes the same rows, after `wait` is set."""

    rows: tuple[int, ...]
    name: str
    wait: threading.Event | None = None

    def propose(self, ask, count):
        if self.wait is not None:
            self.wait.wait(10)
        return np.array(self.rows[:count], np.int64)


@dataclass(frozen=True)
class Broken:
    """Fails."""

    name: str = "broken"

    def propose(self, ask, count):
        raise KeyError("nothing here")


ASK = Ask(person(), None, None)


@given(st.lists(st.lists(st.integers(0, 20), unique=True), max_size=4))
def test_merging_shows_every_item_once_in_order_of_first_sight_and_remembers_all_who_proposed_it(proposals):
    merged = merge([(bit, np.array(rows, np.int64)) for bit, rows in enumerate(proposals)])
    assert merged.item_row_K.tolist() == list(dict.fromkeys(row for rows in proposals for row in rows))
    for row, mask in zip(merged.item_row_K, merged.source_K, strict=True):
        assert mask == sum(1 << bit for bit, rows in enumerate(proposals) if row in rows)


def test_a_source_that_hangs_or_fails_is_left_out_by_name_and_the_others_answer_in_time():
    never = threading.Event()
    sources = (Fixed((1, 2), "good"), Fixed((3,), "hanging", never), Broken())
    panel = Panel(sources, {"good": Budget(5, 2_000), "hanging": Budget(5, 100), "broken": Budget(5, 2_000)})
    try:
        for _ in range(20):  # more often than the hanging source has threads
            began = time.monotonic()
            candidates, missing = panel.propose(["hanging", "good", "broken"], ASK)
            assert time.monotonic() - began < 1
            assert candidates.item_row_K.tolist() == [1, 2]
            assert missing == {"hanging": "late", "broken": "failed"}
            assert panel.proposed_by(candidates, "good").all() and not panel.proposed_by(candidates, "hanging").any()
    finally:
        never.set()
        panel.close()


def test_a_source_proposes_no_more_than_its_budget():
    panel = Panel((Fixed(tuple(range(9)), "good"),), {"good": Budget(4, 2_000)})
    assert panel.propose(["good"], ASK)[0].item_row_K.tolist() == [0, 1, 2, 3]
    panel.close()


@pytest.mark.parametrize("budgets", [{}, {"good": Budget(1, 1), "goods": Budget(1, 1)}])
def test_a_budget_of_no_source_or_a_source_without_one_is_refused(budgets):
    with pytest.raises(ValueError, match="good"):
        Panel((Fixed((1,), "good"),), budgets)


def test_nearest_first_and_never_the_item_itself():
    angle = np.linspace(0, 1, 6, dtype=np.float32)
    vector_ID = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    built = index.exact(vector_ID)
    assert Collaborative(built).propose(Ask(person(), vector_ID[[0]], None), 3).tolist() == [0, 1, 2]
    assert Similar(built, vector_ID.astype(np.float16)).propose(Ask(person(), None, 0), 3).tolist() == [1, 2, 3]


def test_half_watched_is_what_was_begun_and_not_finished_since_newest_first():
    events = [(1, "watch"), (2, "watch"), (3, "watch"), (2, "complete"), (1, "watch"), (4, "view")]
    assert HalfWatched().propose(Ask(person(events), None, None), 9).tolist() == [1, 3]


def clock_of(entries):
    """A clock of (item_row, hour, popularity), half-life one hour."""
    entries = sorted(entries)
    key = np.array([(row << 32) + hour for row, hour, _ in entries], np.int64)
    ones = np.ones(len(entries))
    return ItemClock(key, np.array([count for *_, count in entries], np.float64), ones, ones, 1.0, 3.0)


def test_popular_counts_only_what_was_before_the_hour_and_never_an_item_nobody_took_up():
    popular = Popular.of(clock_of([(0, 10, 1.0), (1, 10, 2.0), (0, 12, 9.0)]), item_count=4)

    def at(hour):
        return popular.propose(Ask(person(now=hour * HOUR_MS), None, None), 9).tolist()

    assert at(10) == []
    assert at(11) == [1, 0]
    assert at(12) == [1, 0]  # hour 12 itself is not yet known
    assert at(13) == [0, 1]
    assert at(100_000) == [0, 1]  # though 2^-99987 of anything is 0 to a float


def test_a_log_without_events_makes_nothing_popular():
    assert Popular.of(clock_of([]), item_count=3).propose(ASK, 5).tolist() == []
