"""The paired t-test against textbook numbers and SciPy, over users alone and over seeds too; Holm by hand; and how often each errs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from towers import significance
from towers.significance import holm, paired_t

NAN = float("nan")


def one(*value_U: float) -> torch.Tensor:
    return torch.tensor([value_U], dtype=torch.float64)


@pytest.fixture
def few(monkeypatch) -> None:
    """Worked by hand means worked on few."""
    monkeypatch.setattr(significance, "LEAST_USERS", 2)


@pytest.mark.usefixtures("few")
def test_a_paired_t_by_hand():
    """Differences 1, 2, 3, 2: mean 2, s² = 2/3, error √(2/3/4) = .40825, t = 4.89898 on 3 degrees of freedom; the table says 3.18245."""
    tested = paired_t(one(2, 4, 6, 5), one(1, 2, 3, 3))
    assert (tested.mean, tested.degrees) == (2, 3)
    assert tested.high - 2 == pytest.approx(3.18245 * math.sqrt(1 / 6), rel=1e-5) and 2 - tested.low == pytest.approx(tested.high - 2)
    assert tested.p == pytest.approx(0.01628, rel=1e-3)


@given(st.integers(0, 10_000), st.floats(-0.2, 0.2))
def test_it_is_scipys_paired_t(seed, shift):
    rng = np.random.default_rng(seed)
    first, other = rng.random(50) < 0.3, rng.random(50) < 0.3 + shift
    if (first == other).all():
        return
    known = stats.ttest_rel(first.astype(float), other.astype(float))
    tested, ends = paired_t(*(torch.as_tensor(of)[None] for of in (first, other))), known.confidence_interval(0.95)
    assert tested == pytest.approx((first.mean() - other.mean(), ends.low, ends.high, known.pvalue, 49), abs=1e-12)


@pytest.mark.usefixtures("few")
def test_seeds_add_what_they_vary_by():
    """Users' differences of the means 1, 3 (variance 2, over 2 users: 1); the first's seeds reach 2 and 4 (variance 2, over 2: 1), the
    other's one seed 1: variance 2, mean 2, degrees 2²/(1²/1 + 1²/1) = 2; p of t = √2 on 2 degrees is 1 - t/√(2 + t²) = 1 - √.5."""
    tested = paired_t(torch.tensor([[1.0, 3.0], [3.0, 5.0]]), one(1.0, 1.0))
    assert (tested.mean, tested.degrees) == (2, pytest.approx(2))
    assert tested.p == pytest.approx(1 - math.sqrt(0.5)) and tested.high - 2 == pytest.approx(4.30265 * math.sqrt(2), rel=1e-5)
    assert paired_t(one(1.0, 1.0), torch.tensor([[1.0, 3.0], [3.0, 5.0]])).p == pytest.approx(tested.p)


def test_what_cannot_be_tested_is_not():
    same, other = torch.rand(1, 40), torch.rand(1, 40)
    assert paired_t(same, same) == (0, 0, 0, 1, 39)
    assert paired_t(same, same + 1)[1:] == pytest.approx((NAN,) * 4, nan_ok=True)  # everybody the same: nothing tells how it varies
    assert paired_t(same[:, :29], other[:, :29])[1:] == pytest.approx((NAN,) * 4, nan_ok=True)
    with pytest.raises(ValueError, match="40 and 39 users"):
        paired_t(same, other[:, 1:])


def test_holm_by_hand():
    """Four tests at .01, .04, .03 and .005: times 2, 1, 2 and 4 in their order give .03, .06, .06 and .02; what is no test counts none."""
    adjusted = holm({"a": 0.01, "b": 0.04, "none": NAN, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "none": NAN, "c": 0.06, "d": 0.02}, nan_ok=True)
    assert holm({"a": 0.4, "b": 0.9}) == {"a": 0.8, "b": 0.9} and holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


@given(st.dictionaries(st.integers(0, 30), st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_by_name):
    adjusted = holm(p_by_name)
    assert all(p <= adjusted[name] <= min(1, len(p_by_name) * p) + 1e-15 for name, p in p_by_name.items())
    order = sorted(p_by_name, key=p_by_name.get)
    assert [adjusted[name] for name in order] == sorted(adjusted.values())


# --- How often a difference is told where there is none ------------------------------------------------------------------

DRAWS = 2000  # of which 5 % come within 1 % nineteen times in twenty


def hits(rng: np.random.Generator, users: int, seeds: int, *, spread: float) -> torch.Tensor:
    """(S, U): whether each user was hit, by seeds that are `spread` apart in their chance."""
    chance_U = rng.beta(0.3, 2.7, users)
    chance_SU = (chance_U + spread * rng.standard_normal((seeds, 1))).clip(0, 1)
    return torch.as_tensor(rng.random((seeds, users)) < chance_SU, dtype=torch.float64)


def share_told(rng: np.random.Generator, *, users: int, seeds: int, spread: float, families: int = 1) -> float:
    """How often any of so many tests, corrected, finds two settings apart that are the same."""
    told, draws = 0, DRAWS // families**0.5
    for _ in range(int(draws)):
        tests = (hits(rng, users, 2 * seeds, spread=spread) for _ in range(families))
        told += min(holm({place: paired_t(of[:seeds], of[seeds:]).p for place, of in enumerate(tests)}).values()) < 0.05
    return told / draws


@pytest.mark.parametrize("users", [60, 1000])
def test_two_that_are_the_same_are_told_apart_once_in_twenty(users):
    assert 0.035 < share_told(np.random.default_rng(0), users=users, seeds=1, spread=0) < 0.065


def test_of_fifteen_tests_at_once_any_errs_once_in_twenty():
    assert share_told(np.random.default_rng(1), users=200, seeds=1, spread=0, families=15) < 0.065


@pytest.mark.parametrize("seeds", [2, 3])
def test_seeds_that_lie_apart_are_no_difference_of_settings(seeds):
    """Where seeds vary as much as a sample of users lets the mean, one training each tells a difference three times as often as it may."""
    spread = math.sqrt(0.09 / 500)
    assert share_told(np.random.default_rng(2), users=500, seeds=seeds, spread=spread) < 0.065
    assert share_told(np.random.default_rng(3), users=500, seeds=1, spread=spread) > 0.1
