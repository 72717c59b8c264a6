"""What another policy would have earned, from rounds that chance decided. Pure functions of rewards, weights and predictions.

weight = target policy's probability of what was shown / probability with which it was shown: never `log_q`, never a training weight.
Every estimator returns `Terms`, one for each round, so that whoever wants an interval can resample them (`towers.intervals`).
Shapes: N rounds (drawn slots, shown items) · A actions · K items of one slot's pool.
"""

from typing import NamedTuple

import numpy as np


class Terms(NamedTuple):
    """An estimate as a ratio of sums over rounds, Σ top / Σ bottom; the bottom is one where the estimate is a plain mean."""

    top_N: np.ndarray
    bottom_N: np.ndarray

    @property
    def value(self) -> float:
        """Σ top / Σ bottom; NaN where nothing has weight."""
        total = self.bottom_N.sum()
        return float(self.top_N.sum() / total) if total > 0 else float("nan")

    def by(self, whose_N: np.ndarray) -> "Terms":
        """The sums of each owner (a user, a request): what is drawn together is resampled together."""
        _, place_N = np.unique(whose_N, return_inverse=True)
        return Terms(np.bincount(place_N, self.top_N), np.bincount(place_N, self.bottom_N))


class LoggedPropensityError(ValueError):
    """A propensity that cannot be divided by, or a policy that is none; the message names the row."""


def importance_weight(target_N: np.ndarray, propensity_N: np.ndarray) -> np.ndarray:
    """target / propensity, float64 (N,), of what was shown: how much oftener the target policy would have shown it.

    Raises:
        LoggedPropensityError: a propensity that is 0, above 1 or not a number, or a target outside [0, 1]; the first such row is named.
    """
    for name, value_N, bad_N in (
        ("propensity", propensity_N, ~((propensity_N > 0) & (propensity_N <= 1))),
        ("the target policy's probability", target_N, ~((target_N >= 0) & (target_N <= 1))),
    ):
        if bad_N.any():
            row = int(np.flatnonzero(bad_N)[0])
            expected = "(0, 1]" if name == "propensity" else "[0, 1]"
            raise LoggedPropensityError(
                f"row {row}: {name} is {value_N.flat[row]}, expected a probability in {expected} ({bad_N.sum():,} such rows)"
            )
    return np.asarray(target_N, np.float64) / propensity_N


def _mean(term_N: np.ndarray) -> Terms:
    return Terms(term_N, np.ones(len(term_N)))


def direct_method(expected_N: np.ndarray) -> Terms:
    """Σ E_π[q̂] / N: what a reward model expects of the target policy; as right as the model, whatever was logged (Beygelzimer & Langford,
    KDD 2009). `expected_N` = Σ_a π(a) q̂(a)."""
    return _mean(expected_N)


def ips(reward_N: np.ndarray, weight_N: np.ndarray) -> Terms:
    """Σ w·r / N: unbiased, whatever the rewards (Horvitz & Thompson 1952)."""
    return _mean(weight_N * reward_N)


def clipped_ips(reward_N: np.ndarray, weight_N: np.ndarray, *, cap: float) -> Terms:
    """Σ min(w, cap)·r / N: never above IPS where rewards are at least 0; steadier (Ionides 2008; Bottou et al., JMLR 2013)."""
    return _mean(np.minimum(weight_N, cap) * reward_N)


def snips(reward_N: np.ndarray, weight_N: np.ndarray) -> Terms:
    """Σ w·r / Σ w: a little biased, steadier, never beyond the rewards; NaN without weight (Swaminathan & Joachims, NeurIPS 2015)."""
    return Terms(weight_N * reward_N, weight_N)


def doubly_robust(reward_N: np.ndarray, weight_N: np.ndarray, predicted_N: np.ndarray, expected_N: np.ndarray) -> Terms:
    """Σ (E_π[q̂] + w·(r − q̂)) / N: right where the propensities or the reward model are (Dudík, Langford & Li, ICML 2011).

    `predicted_N` is q̂ of what was shown. The model must not have learnt from these very rounds: fit it on others, or crosswise.
    """
    return _mean(expected_N + weight_N * (reward_N - predicted_N))


def switch(reward_N: np.ndarray, weight_N: np.ndarray, beyond_N: np.ndarray, *, threshold: float) -> Terms:
    """Σ (1[w ≤ τ]·w·r + Σ_{a: w(a) > τ} π(a) q̂(a)) / N: weights where they are small, the model where not (Wang, Agarwal & Dudík,
    ICML 2017). `beyond_N` is the second sum (see `expected_beyond`)."""
    return _mean(np.where(weight_N <= threshold, weight_N * reward_N, 0.0) + beyond_N)


def switch_doubly_robust(
    reward_N: np.ndarray, weight_N: np.ndarray, predicted_N: np.ndarray, expected_N: np.ndarray, *, threshold: float
) -> Terms:
    """Σ (E_π[q̂] + 1[w ≤ τ]·w·(r − q̂)) / N: doubly robust, but for rounds of great weight, where the model is believed (Wang, Agarwal &
    Dudík, ICML 2017, section 4)."""
    return _mean(expected_N + np.where(weight_N <= threshold, weight_N * (reward_N - predicted_N), 0.0))


def expected(target_NA: np.ndarray, predicted_NA: np.ndarray) -> np.ndarray:
    """E_π[q̂] = Σ_a π(a) q̂(a), (N,)."""
    return (target_NA * predicted_NA).sum(1)


def expected_beyond(target_NA: np.ndarray, propensity_NA: np.ndarray, predicted_NA: np.ndarray, *, threshold: float) -> np.ndarray:
    """Σ_{a: π(a) > τ·p(a)} π(a) q̂(a), (N,): the part of `switch` that weights are too great for; what was never shown is in it."""
    return np.where(target_NA > threshold * propensity_NA, target_NA * predicted_NA, 0.0).sum(1)


def effective_size(weight_N: np.ndarray) -> float:
    """(Σ w)² / Σ w²: as many evenly weighted rounds would tell as much (Kish 1965)."""
    squares = (weight_N**2).sum()
    return float(weight_N.sum() ** 2 / squares) if squares > 0 else 0.0


def best_share_weight(score_K: np.ndarray, drawn: int, *, share: float) -> float:
    """The weight of item `drawn` of a pool that was drawn from evenly, under a policy that draws evenly from the ⌈share·K⌉ of best score.

    share = 1/K is "always the best one". Ties go by place in the pool. A NaN score is refused.

    Raises:
        ValueError: a share outside (0, 1], or NaN.
    """
    if not 0 < share <= 1 or np.isnan(score_K).any():
        raise ValueError(f"share {share} of {np.isnan(score_K).sum()} NaN among {len(score_K)} scores; expected (0, 1] and none")
    best = int(np.ceil(share * len(score_K) - 1e-9))
    return len(score_K) / best if drawn in np.argsort(-score_K, kind="stable")[:best] else 0.0
