"""Propensities that cannot be divided by are refused by row; the weight is their inverse down to the floor."""

from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.frequency import log_in_batch, log_q
from data.impressions import Observed, Rows, Shown
from data.overlap import OverlapError, effective_size, overlap
from data.propensity import PropensityError, counted, even, ips_weight, logged, popularity, randomised
from tests.worlds import SMALL_MILD, SMALL_STRONG, simulated

NOTHING = Shown(*(np.zeros(0, np.int64) for _ in range(6)), (), *(np.zeros(0) for _ in range(3)))
SEEN = Observed(np.array([1, 4, 0]), NOTHING)
ROWS = Rows(np.array([0, 1, 1, 2]), np.array([0.5, 0.1, 1.0, 0.2]), np.zeros(4, np.int64), np.zeros(4, np.int64))


def test_weights_by_hand():
    assert ips_weight(np.array([1.0, 0.5, 0.01]), floor=0.1).tolist() == [1.0, 2.0, 10.0]


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_what_is_no_propensity_is_refused_by_row(bad):
    with pytest.raises(PropensityError, match="row 2"):
        ips_weight(np.array([1.0, 0.5, bad]), floor=0.1)


def test_a_floor_is_a_probability():
    for floor in (0, -1, 1.5, float("nan")):
        with pytest.raises(PropensityError, match="floor"):
            ips_weight(np.array([1.0]), floor=floor)


def test_estimators_by_hand():
    assert even(SEEN, ROWS).tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(popularity(SEEN, ROWS, power=0.5), [0.5, 1.0, 1.0, 0.5])
    np.testing.assert_allclose(popularity(SEEN, ROWS, power=0), 1)
    assert logged(SEEN, ROWS).tolist() == [0.5, 0.1, 1.0, 0.2]
    with pytest.raises(PropensityError, match="power is 2"):
        popularity(SEEN, ROWS, power=2)


def test_only_the_logged_estimator_refuses_a_missing_one():
    holes = ROWS._replace(logged_N=np.array([0.5, np.nan, 1.0, np.nan]))
    with pytest.raises(PropensityError, match=r"training row 1 has no logged propensity \(2 of 4 rows\)"):
        logged(SEEN, holes)
    seen = Observed(SEEN.count_I, impressions([0, 1], [0, 0], [0, 1]))
    for estimate in (even, popularity, counted, partial(randomised, arms=["uniform"])):
        assert ips_weight(estimate(seen, holes), floor=0.01).shape == (4,)


def test_propensities_of_one_everywhere_are_no_overlap_and_say_so(caplog):
    assert logged(SEEN, ROWS._replace(logged_N=np.ones(4))).tolist() == [1, 1, 1, 1]
    assert "all 4 logged propensities are 1" in caplog.text


def test_log_q_is_the_share_of_rows():
    np.testing.assert_allclose(np.exp(log_q(np.array([1, 3]))), [0.25, 0.75], rtol=1e-6)


def test_log_in_batch_is_the_frequency_of_being_drawn():
    count = np.array([1, 3, 6])
    rng = np.random.default_rng(0)
    drawn = rng.choice(3, size=(40_000, 4), p=count / 10)
    uniform = rng.integers(0, 3, size=(40_000, 2))
    there = [((drawn == item).any(1) | (uniform == item).any(1)).mean() for item in range(3)]
    np.testing.assert_allclose(np.exp(log_in_batch(count, batch_size=4, uniform=2)), there, atol=0.01)
    np.testing.assert_allclose(np.exp(log_in_batch(count, batch_size=1)), count / 10, rtol=1e-5)


def impressions(item: list[int], request: list[int], arm: list[int]) -> Shown:
    P = len(item)
    empty = np.full(P, np.nan)
    request_P, item_P, arm_P = (np.array(column) for column in (request, item, arm))
    return Shown(request_P, request_P, item_P, np.ones(P, int), request_P, arm_P, ("policy", "uniform"), empty, empty, request_P)


def test_counted_is_the_share_of_requests_that_showed_the_item():
    observed = Observed(np.zeros(3), impressions([0, 1, 0, 0], [0, 0, 3, 5], [0, 0, 0, 0]))
    np.testing.assert_allclose(counted(observed, ROWS), [1, 1 / 3, 1 / 3, 1 / 3])  # item 2, never shown, counts as shown once
    with pytest.raises(OverlapError, match="no impressions to count"):
        counted(SEEN, ROWS)


def test_randomised_is_how_much_more_the_log_shows_an_item_than_chance_does():
    policy, chance = [0] * 5 + [1], [0, 1, 1]
    observed = Observed(np.zeros(3), impressions(policy + chance, list(range(9)), [0] * 6 + [1] * 3))
    favour = np.array([(6 + 1) / (1 + 1), (3 + 1) / (2 + 1), 1 / 1])
    np.testing.assert_allclose(randomised(observed, ROWS, arms=["uniform"]), (favour / 3.5)[ROWS.item_row_N])
    with pytest.raises(OverlapError, match="no randomised arm 'test'; its arms: 'policy', 'uniform'"):
        randomised(observed, ROWS, arms=["test"])
    empty = Observed(np.zeros(3), impressions([0], [0], [0]))
    with pytest.raises(OverlapError, match="'uniform' showed nothing"):
        randomised(empty, ROWS, arms=["uniform"])


@pytest.mark.parametrize("world", [SMALL_MILD, SMALL_STRONG], ids=["mild", "strong"])
def test_logged_weights_add_up_to_what_might_have_been_shown(world):
    """Σ 1/p over an arm's slates is unbiased for how many items were eligible, if the logged propensities are true."""
    rows = simulated(world)[0].impressions
    by_arm = rows.group_by("arm", "request_id").agg((1 / pl.col("propensity")).sum().alias("propensity")).group_by("arm").agg(
        pl.col("propensity").mean().alias("mean"), (pl.col("propensity").std() / pl.len().sqrt()).alias("error")
    )  # fmt: skip
    policy, uniform = by_arm.sort("arm").iter_rows(named=True)
    assert abs(policy["mean"] - uniform["mean"]) < 4 * np.hypot(policy["error"], uniform["error"])


def test_overlap_by_hand():
    found = overlap(np.array([1.0, 0.5, 0.01]), floor=0.1)
    assert found.effective == pytest.approx(13**2 / (1 + 4 + 100)) and found.share == pytest.approx(found.effective / 3)
    assert (found.largest, found.at_floor, found.calibration) == pytest.approx((10 / 13, 1 / 3, 13 / 3))
    assert set(found.numbers()) == {"rows", "effective", "share", "largest", "at_floor", "calibration"}
    assert overlap(np.zeros(0), floor=0.1).effective == 0


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_effective_size_is_at_most_the_rows_and_knows_no_scale(weights, factor):
    weight = np.array(weights)
    assert 1 - 1e-9 <= effective_size(weight) <= len(weight) + 1e-9
    assert effective_size(factor * weight) == pytest.approx(effective_size(weight))
    assert effective_size(np.full(len(weight), factor)) == pytest.approx(len(weight))
