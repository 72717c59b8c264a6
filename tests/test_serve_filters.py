"""What must not be shown is not shown, and every drop is counted once, under its reason."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.features import EVENT_TYPE_CODE
from serve.contract import Candidates
from serve.filters import keep, not_the_same, not_watched


def test_every_event_but_a_view_makes_an_item_watched():
    codes = np.array(list(EVENT_TYPE_CODE.values()))
    stays = not_watched(np.arange(len(codes) + 1), item_row_E=np.arange(len(codes)), event_code_E=codes)
    assert np.arange(len(codes) + 1)[stays].tolist() == [EVENT_TYPE_CODE["view"] - 1, len(codes)]


def test_an_item_viewed_after_it_was_watched_stays_watched():
    code = np.array([EVENT_TYPE_CODE["watch"], EVENT_TYPE_CODE["view"]])
    assert not_watched(np.array([7]), item_row_E=np.array([7, 7]), event_code_E=code).tolist() == [False]


def test_the_item_looked_at_is_not_shown_beside_itself():
    assert not_the_same(np.array([1, 2]), item_row=2).tolist() == [True, False]
    assert not_the_same(np.array([1, 2]), item_row=None).all()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_the_counts_and_what_is_kept_add_up_and_order_and_sources_stay(stays):
    first, second = (np.array([pair[side] for pair in stays], bool) for side in (0, 1))
    candidates = Candidates(np.arange(len(stays)), np.arange(len(stays)) + 100)
    kept, dropped = keep(candidates, {"first": first, "second": second})
    assert kept.item_row_K.tolist() == [row for row, pair in enumerate(stays) if all(pair)]
    assert (kept.source_K - kept.item_row_K == 100).all()
    assert dropped.get("first", 0) == sum(not pair[0] for pair in stays)
    assert sum(dropped.values()) + len(kept.item_row_K) == len(stays)
