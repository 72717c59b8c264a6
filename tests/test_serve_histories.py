"""A history is the union of what was told, whether kept event by event, built at once, or joined by whoever reads it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve.histories import NOTHING, Seen, joined, pack, union, unpack
from tests.stores import CLICK, RATE, told

SEEN = st.builds(Seen, st.integers(0, 6), st.sampled_from("abc"), st.sampled_from([CLICK, RATE]), st.sampled_from([1.0, 2.0]))
SEEN_LISTS = st.lists(SEEN, max_size=12)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(SEEN_LISTS, SEEN_LISTS, SEEN_LISTS, st.integers(1, 6))
def test_a_history_kept_event_by_event_is_the_union_of_all(base, old, new, length):
    at_once = union(base, [*old, *new], length=length)
    stepwise = union(base, [], length=length)
    for seen in (*old, *new):
        stepwise = union(stepwise, [seen], length=length)
    assert stepwise == at_once == union(union(base, old, length=length), new, length=length)
    assert [seen.timestamp for seen in stepwise] == sorted(seen.timestamp for seen in stepwise)


@given(SEEN_LISTS)
def test_what_was_told_twice_counts_once(twice):
    assert {seen[:3] for seen in twice} == {seen[:3] for seen in union([], twice, length=99)}
    assert len({seen[:3] for seen in twice}) == len(union([], twice, length=99))
    base = sorted(twice, key=lambda seen: seen.timestamp)
    assert [seen[:3] for seen in union(base, [], length=99)] == [seen[:3] for seen in base]
    assert sorted(seen[:3] for seen in union(base, twice, length=99)) == sorted(seen[:3] for seen in base)


@given(SEEN_LISTS, SEEN_LISTS, st.integers(1, 6))
def test_a_base_joined_with_what_was_told_is_their_union(base, live, length):
    base, live = union(base, [], length=length), union([], live, length=length)
    history = joined(unpack(pack(base)) if base else NOTHING, live, length=length)
    assert told(history) == union(base, live, length=length)
    assert (history.event_type_L.dtype, history.rating_L.dtype, history.timestamp_L.dtype) == (np.int64, np.float32, np.int64)


@given(st.lists(st.builds(Seen, st.integers(0, 2**63 - 1), TEXT, st.integers(1, 6), st.floats(width=32)), min_size=1, max_size=60))
def test_unpacks_what_was_packed(seen):
    history = unpack(pack(seen))
    assert history.item_ids == tuple(event.item_id for event in seen)
    assert history.timestamp_L.tolist() == [event.timestamp for event in seen]
    assert history.event_type_L.tolist() == [event.code for event in seen]
    np.testing.assert_array_equal(history.rating_L, np.array([event.rating for event in seen], np.float32))
