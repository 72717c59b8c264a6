"""Bias: what was shown and looked at, undone in one place; what cannot be divided by is refused by row."""

import functools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from data.bias import Bias, by_rows, by_weight, item_slope, own_slope
from data.examination import Examination, certain
from data.impressions import Observed, Rows, Shown, observed
from data.imputation import logistic
from data.propensity import PropensityError, even, logged
from tests.logs import small

SLOPES = np.array([1.0, 1.0, 0.5, 0.25])  # of a place unknown (0), then of places 1 to 3


def by_place(observed, rows):
    """A curve of our own, that a test may know."""
    return Examination(SLOPES[rows.position_N], np.zeros(len(rows.position_N)))


def says(column, value):
    """An estimator that answers `value` in one row, and what is right in the others."""

    def estimator(observed, rows):
        answer = np.full(len(rows.item_row_N), 0.5)
        answer[2] = value
        return (
            answer
            if column == "exposure"
            else Examination(*(answer if name == column else np.full(len(answer), 0.5) for name in ("slope", "offset")))
        )

    return estimator


def shown(item_row, position):
    count = len(item_row)
    nothing = np.zeros(count, np.int64)
    unknown = np.full(count, np.nan)
    return Shown(nothing, nothing, np.array(item_row), np.array(position), nothing, nothing, ("",), unknown, unknown, nothing)


def rows(item_row, position, logged=None):
    count = len(item_row)
    return Rows(
        np.array(item_row), np.full(count, 0.5) if logged is None else np.array(logged), np.array(position), np.zeros(count, np.int64)
    )


SEEN = Observed(np.array([5, 5, 5]), shown([0, 0, 0, 1], [1, 2, 3, 3]))
ASKED = rows([0, 0, 1, 2], [1, 3, 3, 2])


def test_exposure_and_examination_are_undone_together():
    bias = Bias(logged, by_place, floor=0.2)
    assert bias.click_weight(SEEN, ASKED).tolist() == [2.0, 5.0, 5.0, 4.0]  # 1/(0.5·1), then 1/(0.5·0.25) down to the floor, 1/(0.5·0.5)


def test_an_item_s_mean_slope_divides_alike_wherever_it_was_clicked():
    bias = Bias(even, by_place, floor=0.01, divisor=item_slope)
    mean = (1 + 0.5 + 0.25) / 3
    assert bias.click_weight(SEEN, ASKED).tolist() == pytest.approx([1 / mean, 1 / mean, 4.0, 2.0])  # item 2 was never shown: its own slope
    chances = bias.chances(SEEN, ASKED)
    assert chances.slope_N.tolist() == [1.0, 0.25, 0.25, 0.5] and chances.expected_N.tolist() == pytest.approx([mean, mean, 0.25, 0.5])


def test_both_divisors_add_up_to_the_same():
    """Of an item that is wanted by 0.4 of those who look, shown 200,000 times: each weighs its clicks to 0.4 of the showings."""
    rng = np.random.default_rng(0)
    place = rng.integers(1, 4, 200_000)
    clicked = rng.random(200_000) < 0.4 * SLOPES[place]
    seen = Observed(np.array([1]), shown(np.zeros(200_000, np.int64), place))
    clicks = rows(np.zeros(clicked.sum(), np.int64), place[clicked])
    sums = [
        Bias(even, by_place, floor=0.01, divisor=divisor).click_weight(seen, clicks).astype(float) for divisor in (own_slope, item_slope)
    ]
    assert [weight.sum() / 200_000 for weight in sums] == pytest.approx([0.4, 0.4], abs=0.005)
    assert sums[1].std() < 1e-5 < sums[0].std()


@pytest.mark.parametrize("bad", [0.0, 1.5, float("nan"), -0.1])
@pytest.mark.parametrize("column", ["exposure", "slope"])
def test_what_is_no_probability_is_refused_by_row(column, bad):
    """By itself: an exposure of 2 and a slope of 0.5 are no propensity of 1."""
    wrong = says(column, bad)
    bias = Bias(wrong, certain, floor=0.1) if column == "exposure" else Bias(even, wrong, floor=0.1)
    for weigh in (bias.click_weight, bias.chances):
        with pytest.raises(PropensityError, match=r"row 2: .* \(1 such rows\)"):
            weigh(SEEN, ASKED)


@pytest.mark.parametrize("bad", [1.0, -1.0, float("nan")])
def test_an_offset_is_a_difference_of_probabilities(bad):
    with pytest.raises(PropensityError, match="row 2: offset"):
        Bias(even, says("offset", bad), floor=0.1).click_weight(SEEN, ASKED)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.floats(0.001, 1))
def test_no_weight_exceeds_the_inverse_of_the_floor(propensity, floor):
    asked = rows([0] * len(propensity), [1] * len(propensity), propensity)
    weight = Bias(logged, certain, floor=floor).click_weight(SEEN, asked)
    np.testing.assert_allclose(weight, 1 / np.maximum(propensity, floor), rtol=1e-6)


def test_what_a_sum_of_losses_is_divided_by():
    weight = torch.tensor([2.0, 0.0, 0.5])
    assert by_weight(weight).item() == 2.5 and by_rows(weight).item() == 2.0


def test_an_imputation_explains_clicks_by_relevance_and_not_by_place():
    """Good items stand at the bottom, so that clicks alone would learn the wrong sign."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(4_000), 3)
    feature = rng.standard_normal((12_000, 2))
    relevance = 1 / (1 + np.exp(-(feature[:, 0] - 1)))
    place = np.argsort(np.argsort(feature[:, 0].reshape(-1, 3), axis=1), axis=1).ravel() + 1
    slope, offset = np.array([0, 1.0, 0.3, 0.08])[place], np.full(12_000, 0.02)
    click = (rng.random(12_000) < slope * relevance + offset).astype(float)
    click[::50] = np.nan
    guess = logistic(feature, click, slope, offset, np.ones(12_000), group)
    assert np.corrcoef(guess, relevance)[0, 1] > 0.99 and abs(guess.mean() - relevance.mean()) < 0.03
    naive = logistic(feature, click, slope * 0 + 1, offset, np.ones(12_000), group)
    assert np.corrcoef(naive, relevance)[0, 1] < 0


def test_no_label_knows_itself():
    """Where clicks are chance, what others taught says nothing of one's own."""
    rng = np.random.default_rng(2)
    group, feature, click = np.arange(300), rng.standard_normal((300, 40)), (rng.random(300) < 0.5).astype(float)
    ones, zeros = np.ones(300), np.zeros(300)
    guess = logistic(feature, click, ones, zeros, ones, group, penalty=1e-6)
    assert np.corrcoef(guess, click)[0, 1] < 0.2
    with pytest.raises(ValueError, match="1 group"):
        logistic(feature, click, ones, zeros, ones, group * 0)
    assert partial(logistic, folds=2)(feature, click, ones, zeros, ones, group).shape == (300,)


@functools.cache
def seen_of_small():
    """What an estimator may look at, the same object for all, so that each estimate is made once."""
    return observed(small()[1], before=1)


SLOW = ("position_em", "trust")  # regression-EM has tests of its own


@pytest.mark.parametrize(
    "path", [path for path in sorted(Path("conf/bias").glob("*.yaml")) if path.stem not in SLOW], ids=lambda path: path.stem
)
def test_every_choice_weighs_a_log_of_slates_by_its_own_estimates(path):
    """On the simulated world, which has all that any estimator asks for; `none` weighs all alike, and no other does."""
    bias = instantiate(OmegaConf.load(path))
    log = small()[1]
    seen = seen_of_small()
    event = log.before(1).liked(0)
    asked = Rows(log.item_row_E[event], log.propensity_E[event], log.position_E[event], log.moment_EC[event, 2])
    weight = bias.click_weight(seen, asked)
    assert np.isfinite(weight).all() and weight.min() > 0 and (len(np.unique(weight)) == 1) == (path.stem == "none")
    left = bias.diagnosed(seen, asked)
    assert left.rows == len(event) and 0 < left.share <= 1 and (left.share == 1) == (path.stem == "none")
