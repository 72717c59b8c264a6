"""What another policy would have earned, by hand, and against a world where it is known."""

import math

import numpy as np
import pytest

from towers.off_policy import best_share_weight, effective_size, ips, snips, snips_difference


def test_estimates_by_hand():
    reward, weight = np.array([1.0, 0.0, 1.0, 0.0]), np.array([2.0, 2.0, 0.0, 4.0])
    assert ips(reward, weight) == pytest.approx(2 / 4)
    assert snips(reward, weight) == pytest.approx(2 / 8)
    assert effective_size(weight) == pytest.approx(64 / 24)
    assert math.isnan(snips(reward, np.zeros(4))) and effective_size(np.zeros(4)) == 0.0


def test_the_policy_that_drew_is_weighed_by_one():
    assert [best_share_weight(np.array([0.1, 0.9, 0.5, 0.2]), drawn, share=1.0) for drawn in range(4)] == [1.0] * 4
    reward = np.array([1.0, 0.0, 0.0])
    assert ips(reward, np.ones(3)) == snips(reward, np.ones(3)) == pytest.approx(1 / 3)


def test_weights_of_the_best_share_by_hand():
    score = np.array([0.1, 0.9, 0.5, -np.inf])
    assert [best_share_weight(score, drawn, share=0.25) for drawn in range(4)] == [0.0, 4.0, 0.0, 0.0]
    assert [best_share_weight(score, drawn, share=0.3) for drawn in range(4)] == [0.0, 2.0, 2.0, 0.0]
    assert best_share_weight(np.array([0.5, 0.5]), 1, share=0.5) == 0.0  # a tie goes to the first
    for score, share in (([np.nan, 1.0], 0.5), ([1.0], 0.0), ([1.0], 1.1)):
        with pytest.raises(ValueError, match="NaN among"):
            best_share_weight(np.array(score), 0, share=share)


def test_against_a_world_that_is_known():
    """Ten items clicked with probability .05, .10, …, .50, drawn evenly 40,000 times. Best half by the truth: .4 on average; by its
    opposite: .15. Both are found, and the interval of the difference holds .25."""
    rng = np.random.default_rng(0)
    truth = 0.05 * np.arange(1, 11)
    drawn = rng.integers(0, 10, 40_000)
    reward = (rng.random(len(drawn)) < truth[drawn]).astype(float)
    good, bad = (np.array([best_share_weight(score, item, share=0.5) for item in range(10)])[drawn] for score in (truth, -truth))
    assert snips(reward, good) == pytest.approx(0.40, abs=0.01) and ips(reward, bad) == pytest.approx(0.15, abs=0.01)
    found = snips_difference(reward, good, bad, rng.integers(0, 500, len(drawn)))
    assert found.low < 0.25 < found.high and found.high - found.low < 0.05
    same = snips_difference(reward, good, good, np.arange(len(drawn)))
    assert same == (0.0, 0.0, 0.0)


def test_one_user_or_no_weight_gives_no_interval():
    reward, weight = np.array([1.0, 0.0]), np.ones(2)
    assert math.isnan(snips_difference(reward, weight, weight, np.array(["u", "u"])).low)
    nowhere = snips_difference(reward, weight, np.zeros(2), np.array(["u", "w"]))
    assert all(math.isnan(number) for number in nowhere)


def test_users_that_are_alike_within_widen_the_interval():
    """100 users of some 25 slots with weight, each of whom clicks all or nothing: over users the interval is √25 times as wide."""
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(100), 50)
    reward = (rng.random(100) < 0.5)[user].astype(float)
    weight, other = rng.integers(0, 2, (2, 5000)).astype(float)
    weight *= user % 2 == 0
    other *= user % 2 == 1
    by_user, by_slot = snips_difference(reward, weight, other, user), snips_difference(reward, weight, other, np.arange(5000))
    assert 4 < (by_user.high - by_user.low) / (by_slot.high - by_slot.low) < 6
