"""How sure an estimate is: intervals of `Terms`, by resampling and by an inequality.

Shapes: N rounds · C owners (users, requests) of rounds · R resamples · T estimates of the same rounds.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

from towers.metrics import Interval
from towers.off_policy import Terms

_CELLS = 2**23  # of one block of resamples: 32 MiB of float32
_COUNT = np.searchsorted(np.cumsum(np.exp(-1) / np.cumprod([1, *range(1, 12)])), (np.arange(2**16) + 0.5) / 2**16).astype(np.float32)
"""How often a row is taken, by sixteen even bits: Poisson of mean 1. Ten times as fast as drawing rows."""


def bootstrap(
    terms: Terms, whose_N: np.ndarray | None = None, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The studentised bootstrap interval of one estimate: see `bootstrap_contrast`."""
    return bootstrap_contrast([terms], [1.0], whose_N, confidence=confidence, resamples=resamples, seed=seed)


def bootstrap_difference(
    terms: Terms, other: Terms, whose_N: np.ndarray | None = None, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Of `terms` less `other`, of the same rounds: what both share cancels."""
    return bootstrap_contrast([terms, other], [1.0, -1.0], whose_N, confidence=confidence, resamples=resamples, seed=seed)


def bootstrap_contrast(
    estimates: Sequence[Terms], contrast_T: Sequence[float], whose_N: np.ndarray | None = None, *,
    confidence: float = 0.95, resamples: int = 1000, seed: int = 0,
) -> Interval:  # fmt: skip
    """Σ_t contrast·value with its studentised bootstrap interval over owners (over rounds where `whose_N` is none).

    Each resample takes every owner Poisson(1) times (Chamandy et al., CIKM 2012) and tells its own standard error, by linearisation: the
    interval turns round the quantiles of (value* − value) / error*, which leans with the skewness of heavy weights and rare clicks as the
    percentile interval does not (Efron 1981; Hall, Annals of Statistics 1988). What heavy terms did not come is missing from every
    resample too, so the error is widened as Student's is, by the degrees of freedom that its own variance tells, 2 (Σ e²)² / Σ e⁴
    (Satterthwaite 1946): hardly where hundreds of terms carry it, by a twentieth where sixteen do.

    A resample in which an estimate has no weight says nothing and is left out; with half of them gone, or fewer than two owners, the ends
    are NaN. Without spread they are the value itself.
    """
    if whose_N is not None:
        estimates = [terms.by(whose_N) for terms in estimates]
    contrast_T = np.asarray(contrast_T, np.float64)
    value_T = np.array([terms.value for terms in estimates])
    value = float(contrast_T @ value_T)
    owners = len(estimates[0].top_N)
    if owners < 2 or np.isnan(value):
        return Interval(value, float("nan"), float("nan"))
    # Residuals and bottoms side by side: an estimate moves by Σ residual / Σ bottom, and errors follow from their squares and products.
    unit_T = np.array([terms.bottom_N.mean() for terms in estimates])
    residual_CT = np.stack([terms.top_N - at * terms.bottom_N for terms, at in zip(estimates, value_T, strict=True)], axis=1) / unit_T
    bottom_CT = np.stack([terms.bottom_N for terms in estimates], axis=1) / unit_T
    square_C = (residual_CT @ contrast_T) ** 2
    error = np.sqrt(square_C.sum()) / owners
    if error == 0:
        return Interval(value, value, value)
    column_C2T = np.concatenate([residual_CT, bottom_CT], axis=1)
    count = len(estimates)
    first, second = np.triu_indices(2 * count)
    product_CX = column_C2T[:, first] * column_C2T[:, second]
    sum_RX = _resampled_sums(np.concatenate([column_C2T, product_CX], axis=1), resamples, seed)
    total_RT, bottom_RT, square_RX = np.split(sum_RX, [count, 2 * count], axis=1)
    kept_R = (bottom_RT > 0).all(1)
    if kept_R.sum() < resamples / 2:
        return Interval(value, float("nan"), float("nan"))
    move_RT = total_RT[kept_R] / bottom_RT[kept_R]
    slope_RT = contrast_T / bottom_RT[kept_R]
    coefficient_R2T = np.concatenate([slope_RT, -slope_RT * move_RT], axis=1)
    both_X = np.where(first == second, 1.0, 2.0)
    variance_R = (both_X * coefficient_R2T[:, first] * coefficient_R2T[:, second] * square_RX[kept_R]).sum(1)
    move_R = move_RT @ contrast_T
    error_R = np.sqrt(np.maximum(variance_R, (1e-6 * error) ** 2))  # rows of one kind alone: no error of their own, so very far out
    low, high = np.quantile(move_R / error_R, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf").tolist()
    tail = (1 + confidence) / 2
    error *= t.ppf(tail, 2 * square_C.sum() ** 2 / (square_C**2).sum()) / norm.ppf(tail)
    return Interval(value, float(value - high * error), float(value - low * error))


def _resampled_sums(column_CX: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Σ_c count·column, float64 (R, X). Columns of all zero rows need no counts, so that slots without weight cost nothing."""
    told_CX = column_CX[(column_CX != 0).any(1)].astype(np.float32)
    rng, owners = np.random.default_rng(seed), len(told_CX)
    rows = max(1, _CELLS // max(owners, 1))
    blocks = []
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        bits = np.frombuffer(rng.bytes(2 * size * owners), np.uint16)
        blocks.append((_COUNT[bits].reshape(size, owners) @ told_CX).astype(np.float64))
    return np.concatenate(blocks)


def empirical_bernstein(terms: Terms, whose_N: np.ndarray | None = None, *, span: float, confidence: float = 0.95) -> Interval:
    """An interval that holds whatever the distribution, for terms of independent owners: |mean − truth| ≤ √(2 V ln(4/δ) / n) +
    7·span·ln(4/δ) / (3 (n − 1)), V their variance, δ = 1 − confidence, half of it on each side (Maurer & Pontil, COLT 2009, theorem 4).

    `span` is how far apart two terms *can* be (largest possible weight × range of rewards), not how far they were seen to be. Where the
    bottom is not one (SNIPS), the interval is of those values v for which 0 lies within that of mean(top − v·bottom), since E[w·r] =
    v·E[w]; `span` is then that of such a term. An end is infinite where the weights tell too little to bound it.

    Raises:
        ValueError: terms further apart than `span`, or fewer than two of them.
    """
    top_C, bottom_C = terms if whose_N is None else terms.by(whose_N)
    n, value = len(top_C), terms.value
    residual_C = top_C - value * bottom_C
    if n < 2 or np.ptp(residual_C) > span * (1 + 1e-9):
        raise ValueError(f"{n} terms that lie {np.ptp(residual_C) if n else 0:g} apart, expected at least two within a span of {span:g}")
    log_term = np.log(4 / (1 - confidence))
    slack = 7 * span * log_term / (3 * (n - 1))
    top, bottom = top_C.mean(), bottom_C.mean()
    moment = np.cov(np.stack([top_C, bottom_C])) * 2 * log_term / n
    square = bottom**2 - moment[1, 1]
    if square <= 0:
        return Interval(value, float("-inf"), float("inf"))
    ends = []
    for sign in (-1, 1):  # |top − v·bottom| − slack = √(moment of top − v·bottom), squared: a quadratic in v for each end
        shifted = top + sign * slack
        half = shifted * bottom - moment[0, 1]
        ends.append((half + sign * np.sqrt(max(half**2 - square * (shifted**2 - moment[0, 0]), 0.0))) / square)
    return Interval(value, float(ends[0]), float(ends[1]))
