"""What another policy would have earned, from slots that chance had filled. Pure functions of rewards, weights and users.

weight = target policy's probability of what was drawn / probability with which it was drawn: never `log_q`, never a training weight.
Shapes: N drawn slots · K items of one slot's pool · U users.
"""

import numpy as np

from towers.metrics import Interval


def ips(reward_N: np.ndarray, weight_N: np.ndarray) -> float:
    """Σ w·r / N: unbiased, whatever the rewards (Horvitz & Thompson 1952)."""
    return float((weight_N * reward_N).mean())


def snips(reward_N: np.ndarray, weight_N: np.ndarray) -> float:
    """Σ w·r / Σ w: a little biased, steadier, never beyond the rewards; NaN without weight (Swaminathan & Joachims, NeurIPS 2015)."""
    total = weight_N.sum()
    return float((weight_N * reward_N).sum() / total) if total > 0 else float("nan")


def effective_size(weight_N: np.ndarray) -> float:
    """(Σ w)² / Σ w²: as many evenly weighted slots would tell as much (Kish 1965)."""
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


def snips_difference(
    reward_N: np.ndarray, weight_N: np.ndarray, other_N: np.ndarray, user_N: np.ndarray, *, confidence: float = 0.95,
    resamples: int = 1000, seed: int = 0,
) -> Interval:  # fmt: skip
    """SNIPS by `weight_N` less SNIPS by `other_N`, with a percentile bootstrap interval over users, who draw many slots each.

    A resample in which either policy has no weight says nothing and is left out; with half of them gone, so is the interval (NaN).
    """
    _, place_N = np.unique(user_N, return_inverse=True)
    users = int(place_N.max(initial=-1)) + 1
    sums_US = np.stack(
        [np.bincount(place_N, values, users) for values in (weight_N * reward_N, weight_N, other_N * reward_N, other_N)], axis=1
    )
    mean = snips(reward_N, weight_N) - snips(reward_N, other_N)
    if users < 2:
        return Interval(mean, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn_RS = np.stack([sums_US[rng.integers(0, users, users)].sum(0) for _ in range(resamples)])
    kept_RS = drawn_RS[(drawn_RS[:, 1] > 0) & (drawn_RS[:, 3] > 0)]
    if len(kept_RS) < resamples / 2:
        return Interval(mean, float("nan"), float("nan"))
    difference_R = kept_RS[:, 0] / kept_RS[:, 1] - kept_RS[:, 2] / kept_RS[:, 3]
    low, high = np.quantile(difference_R, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(mean, low, high)
