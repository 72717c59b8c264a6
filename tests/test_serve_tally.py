"""A request's account: stages add up, losses are counted, the deadline is the start and what it may take."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.tally import Tally


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)), max_size=8))
def test_losses_add_up_and_none_is_not_told(counts):
    tally = Tally()
    for one in counts:
        tally.drop(one)
    assert tally.dropped == {why: total for why in "abc" if (total := sum(one.get(why, 0) for one in counts))}


def test_a_stage_entered_again_goes_on_and_one_that_fails_is_told():
    tally = Tally()
    with tally.stage("ranker"):
        first = dict(tally.stage_ms)
    before = tally.stage_ms["ranker"]
    with pytest.raises(ZeroDivisionError), tally.stage("ranker"):
        sum(range(1000)) / 0
    assert first == {} and tally.stage_ms["ranker"] > before >= 0
    with tally.stage("outer"), tally.stage("inner"):
        pass
    assert tally.stage_ms["outer"] >= tally.stage_ms["inner"] and set(tally.stage_ms) == {"ranker", "outer", "inner"}


def test_the_deadline_is_the_start_and_what_it_may_take():
    assert Tally(within_ms=250.0, start=100.0).deadline == 100.25
    assert Tally().deadline == math.inf
    assert Tally(start=0.0).elapsed_ms > Tally().elapsed_ms >= 0


def test_two_requests_share_no_account():
    one, other = Tally(), Tally()
    one.drop({"a": 1})
    with one.stage("x"):
        pass
    assert other.dropped == {} == other.stage_ms
