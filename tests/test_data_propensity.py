"""Propensities that cannot be divided by are refused by row; the weight is their inverse down to the floor."""

import numpy as np
import pytest

from data.frequency import log_in_batch, log_q
from data.impressions import Observed, Rows, Shown
from data.propensity import PropensityError, even, ips_weight, logged, popularity

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
    assert len(even(SEEN, holes)) == len(popularity(SEEN, holes)) == 4


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
