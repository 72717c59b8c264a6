"""What must not be shown is not shown, and every drop is counted once, under its reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import DISLIKED, EVENT_TYPE_CODE
from serve.contract import Candidates
from serve.filters import keep, not_blocked, not_the_same, not_too_often, not_watched, of_age

CODE = EVENT_TYPE_CODE | {"disliked": DISLIKED}


def did(*events):
    """(item row, what was done) of each event, as filters are told."""
    return {
        "item_row_E": np.array([row for row, _ in events], np.int64),
        "event_code_E": np.array([CODE[name] for _, name in events], np.int64),
    }


@pytest.mark.parametrize(
    ("name", "watched", "blocked"),
    [
        ("view", False, False),
        ("click", True, False),
        ("watch", True, False),
        ("complete", True, False),
        ("skip", False, False),
        ("rate", True, False),
        ("not_interested", False, True),
        ("disliked", True, False),
    ],
)
def test_what_one_event_says_of_its_item(name, watched, blocked):
    item_row_K = np.array([3, 7])
    assert not_watched(item_row_K, **did((7, name))).tolist() == [True, not watched]
    assert not_blocked(item_row_K, **did((7, name))).tolist() == [True, not blocked]


def test_an_item_viewed_or_skipped_after_it_was_watched_stays_watched():
    assert not_watched(np.array([7]), **did((7, "watch"), (7, "view"), (7, "skip"))).tolist() == [False]


def test_an_item_skipped_twice_is_not_wanted_and_two_items_skipped_once_are():
    events = did((1, "skip"), (2, "skip"), (2, "complete"), (1, "view"), (3, "skip"), (2, "skip"))
    assert not_blocked(np.arange(5), **events).tolist() == [True, True, False, True, True]


def test_nothing_done_leaves_everything():
    assert not_watched(np.arange(3), **did()).all() and not_blocked(np.arange(3), **did()).all()
    assert len(not_watched(np.arange(0), **did((1, "watch")))) == len(not_blocked(np.arange(0), **did((1, "skip")))) == 0


@pytest.mark.parametrize(
    ("age", "may"),
    [
        (None, [True, True, True, True, False]),
        (17, [True, True, True, False, False]),
        (21, [True] * 5),
        (0, [True, False, False, False, False]),
    ],
)
def test_maturity_against_age_where_an_unknown_one_is_of_age(age, may):
    assert of_age(np.array([0, 6, 16, 18, 21]), age=age).tolist() == may


def test_the_item_looked_at_is_not_shown_beside_itself():
    assert not_the_same(np.array([1, 2]), item_row=2).tolist() == [True, False]
    assert not_the_same(np.array([1, 2]), item_row=None).all()


def test_an_item_rests_after_it_was_shown_often_enough():
    assert not_too_often(np.array([0, 9, 10, 11]), most=10).tolist() == [True, True, False, False]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_the_counts_and_what_is_kept_add_up_and_order_and_sources_stay(stays):
    first, second = (np.array([pair[side] for pair in stays], bool) for side in (0, 1))
    candidates = Candidates(np.arange(len(stays)), np.arange(len(stays)) + 100)
    kept, dropped = keep(candidates, {"first": first, "second": second})
    assert kept.item_row_K.tolist() == [row for row, pair in enumerate(stays) if all(pair)]
    assert (kept.source_K - kept.item_row_K == 100).all()
    assert dropped.get("first", 0) == sum(not pair[0] for pair in stays)
    assert sum(dropped.values()) + len(kept.item_row_K) == len(stays) and 0 not in dropped.values()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(sorted(CODE))), max_size=40))
def test_the_order_of_events_changes_no_filter(events):
    for filter_of in (not_watched, not_blocked):
        there, back = (filter_of(np.arange(10), **did(*order)).tolist() for order in (events, events[::-1]))
        assert there == back
        assert all(there[row] for row in set(range(10)) - {row for row, _ in events})
