"""How sure an estimate is: laws of the intervals, by hand and by worlds that are known."""

import math

import numpy as np
import pytest

from towers.intervals import bootstrap, bootstrap_difference, empirical_bernstein
from towers.off_policy import Terms, best_share_weight, ips, snips


def test_against_a_world_that_is_known():
    """Ten items clicked with probability .05, .10, …, .50, drawn evenly 40,000 times. Best half by the truth: .4 on average; by its
    opposite: .15. Both are found, and the interval of the difference holds .25."""
    rng = np.random.default_rng(0)
    truth = 0.05 * np.arange(1, 11)
    drawn = rng.integers(0, 10, 40_000)
    reward = (rng.random(len(drawn)) < truth[drawn]).astype(float)
    good, bad = (np.array([best_share_weight(score, item, share=0.5) for item in range(10)])[drawn] for score in (truth, -truth))
    assert snips(reward, good).value == pytest.approx(0.40, abs=0.01) and ips(reward, bad).value == pytest.approx(0.15, abs=0.01)
    user = rng.integers(0, 500, len(drawn))
    found = bootstrap_difference(snips(reward, good), snips(reward, bad), user)
    assert found.low < 0.25 < found.high and found.high - found.low < 0.05
    assert bootstrap_difference(snips(reward, good), snips(reward, good), user) == (0.0, 0.0, 0.0)


def test_without_skewness_the_studentised_interval_is_the_textbook_one():
    value = np.random.default_rng(0).standard_normal(2_000)
    found, error = bootstrap(Terms(value, np.ones(2_000))), value.std() / math.sqrt(2_000)
    assert (found.high - found.low) / error == pytest.approx(2 * 1.96, rel=0.07)
    assert (found.high + found.low) / 2 == pytest.approx(value.mean(), abs=0.15 * error)


def test_it_leans_to_where_rare_heavy_terms_would_have_pulled():
    heavy = np.random.default_rng(0).lognormal(0, 1.5, 300)
    found = bootstrap(Terms(heavy, np.ones(300)))
    assert found.high - found.mean > 1.5 * (found.mean - found.low)


def test_one_user_or_no_weight_gives_no_interval():
    reward, weight = np.array([1.0, 0.0]), np.ones(2)
    assert math.isnan(bootstrap(snips(reward, weight), np.array(["u", "u"])).low)
    nowhere = bootstrap_difference(snips(reward, weight), snips(reward, np.zeros(2)), np.array(["u", "w"]))
    assert all(math.isnan(number) for number in nowhere)


def test_slots_without_weight_cost_nothing_and_change_nothing():
    rng = np.random.default_rng(2)
    reward, weight = rng.binomial(1, 0.2, 500).astype(float), rng.exponential(size=500)
    more = snips(np.concatenate([reward, np.ones(300)]), np.concatenate([weight, np.zeros(300)]))
    assert bootstrap(more) == pytest.approx(bootstrap(snips(reward, weight)), rel=0.02)


def test_users_that_are_alike_within_widen_the_interval():
    """100 users of some 25 slots with weight, each of whom clicks all or nothing: over users the interval is √25 times as wide."""
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(100), 50)
    reward = (rng.random(100) < 0.5)[user].astype(float)
    weight, other = rng.integers(0, 2, (2, 5000)).astype(float)
    weight *= user % 2 == 0
    other *= user % 2 == 1
    pair = snips(reward, weight), snips(reward, other)
    by_user, by_slot = bootstrap_difference(*pair, user), bootstrap_difference(*pair)
    assert 4 < (by_user.high - by_user.low) / (by_slot.high - by_slot.low) < 6


def test_empirical_bernstein_by_hand():
    """0 and 1, fifty times each: mean .5, variance 50·.25·2/99, ln(4/.05) = 4.382."""
    found = empirical_bernstein(Terms(np.tile([0.0, 1.0], 50), np.ones(100)), span=1.0)
    half = math.sqrt(2 * (25 / 99) * math.log(80) / 100) + 7 * math.log(80) / (3 * 99)
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    with pytest.raises(ValueError, match=r"apart, expected at least two within a span of 0\.5"):
        empirical_bernstein(Terms(np.tile([0.0, 1.0], 50), np.ones(100)), span=0.5)


def test_empirical_bernstein_of_a_ratio_holds_the_values_that_it_cannot_rule_out():
    rng = np.random.default_rng(3)
    weight, reward = rng.choice([0.0, 0.5, 4.0], 2_000), rng.binomial(1, 0.3, 2_000).astype(float)
    terms = snips(reward, weight)
    found = empirical_bernstein(terms, span=4.0)
    for end in (found.low, found.high):  # at each end 0 just leaves the interval of the mean residual
        about = empirical_bernstein(Terms(terms.top_N - end * terms.bottom_N, np.ones(2_000)), span=4.0)
        assert min(abs(about.low), abs(about.high)) < 1e-9
    assert found.low < terms.value < found.high
    alone = np.zeros(2_000)
    alone[0] = 4.0
    assert empirical_bernstein(snips(reward, alone), span=4.0)[1:] == (-math.inf, math.inf)


def test_coverage_of_a_hundred_logs():
    """Skewed weights and rare rewards; the bench has 2,000 logs of each setting. 95 less four standard errors of a hundred is 86."""
    rng, held, safe = np.random.default_rng(4), 0, 0
    value_A, target_A, logged_A = np.array([0.02, 0.05, 0.2, 0.1]), np.array([0.0, 0.2, 0.7, 0.1]), np.array([0.4, 0.3, 0.1, 0.2])
    for _ in range(100):
        shown = rng.choice(4, 1_000, p=logged_A)
        terms = snips(rng.binomial(1, value_A[shown]).astype(float), (target_A / logged_A)[shown])
        low, high = bootstrap(terms, resamples=200)[1:]
        held += low <= target_A @ value_A <= high
        low, high = empirical_bernstein(terms, span=7.0)[1:]
        safe += low <= target_A @ value_A <= high
    assert 86 <= held <= 100 and safe >= 98
