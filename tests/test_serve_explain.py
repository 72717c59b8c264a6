"""A reason is given only if it is one: without it, the item would have scored lower, and by more than without just anything."""

import numpy as np
import pytest

from data.features import DISLIKED, EVENT_TYPE_CODE
from serve.explain import Causes, most_missed, no_causes, say

TITLES = ["Zero", "One", "Two", "Three"]


@pytest.mark.parametrize(
    ("loss_X", "cause"),
    [
        ([0.0, 0.5, 0.0], 1),  # one item carries it
        ([0.2, 0.2, 0.2], -1),  # any item's absence costs as much: nobody's in particular
        ([0.049, 0.0, 0.0], -1),  # too little to notice
        ([-0.3, -0.2, -0.1], -1),  # without them it would have scored higher
        ([0.3], 0),  # the only item there is
        ([0.3, 0.3, 0.1], -1),  # no more than the median
        ([0.3, 0.3, 0.1, 0.1], 0),  # the median is .2
        ([0.04], -1),
        ([0.0, 0.1, 0.3, 0.0], 2),
    ],
)
def test_the_most_missed_item_is_a_cause_only_if_it_is_missed_noticeably_and_more_than_the_others(loss_X, cause):
    with_N = np.array([0.5])
    assert most_missed(with_N, with_N * (1 - np.array(loss_X)[:, None])).tolist() == [cause]


def test_an_item_that_cannot_score_lower_has_no_cause():
    assert most_missed(np.array([0.0]), np.array([[0.0], [0.0]])).tolist() == [-1]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (EVENT_TYPE_CODE["watch"], "Because you watched One"),
        (EVENT_TYPE_CODE["complete"], "Because you watched One"),
        (EVENT_TYPE_CODE["rate"], "Because you liked One"),
        (DISLIKED, "Because you did not like One"),
        (EVENT_TYPE_CODE["skip"], "Because you skipped One"),
    ],
)
def test_the_sentence_says_what_was_done(code, sentence):
    cause = Causes(np.array([1]), np.array([code]))
    assert say(cause, np.array([True]), TITLES, nobody=False) == [(sentence, "Picked for you")]


def test_three_items_of_one_cause_share_a_shelf():
    watch = EVENT_TYPE_CODE["watch"]
    said = say(Causes(np.array([2, 2, 1, 2, -1]), np.array([watch] * 4 + [-1])), np.array([False] * 4 + [True]), TITLES, nobody=False)
    shelf = "Because you watched Two"
    assert [row for _, row in said] == [shelf, shelf, "Picked for you", shelf, "Popular now"]


def test_for_nobody_in_particular_nothing_is_picked():
    assert say(no_causes(2), np.array([True, False]), TITLES, nobody=True) == [("Popular right now", "Popular now")] * 2
