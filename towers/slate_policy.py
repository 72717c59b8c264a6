"""What other slates would have earned, from slates that chance decided. Pure functions, one term for each request.

A ratio is π(item at this position) / p(item at this position), of what was shown there. The estimators differ in what they let a click
depend on: the whole slate (`standard`), what stands above (`cascade`), the item and its position alone (`item_position`), or nothing but
that the slate's reward is a sum over its positions (`pseudo_inverse`). The less is allowed, the smaller the weights.

Shapes: N requests · S positions, the top first · M items that may stand at a position.
"""

import numpy as np

from towers.off_policy import Terms


def _requests(term_N: np.ndarray) -> Terms:
    return Terms(term_N, np.ones(len(term_N)))


def standard(reward_NS: np.ndarray, weight_N: np.ndarray) -> Terms:
    """Σ_n w(slate)·Σ_s r / N, w = π(slate) / p(slate): a click may depend on all of the slate, so hardly anything has weight (Horvitz &
    Thompson 1952, of slates)."""
    return _requests(weight_N * reward_NS.sum(1))


def item_position(reward_NS: np.ndarray, ratio_NS: np.ndarray) -> Terms:
    """Σ_n Σ_s ratio·r / N: a click depends on its own item and position alone (Li et al., KDD 2018, the item-position click model).

    With ratio = 1[item is in the target's slate] / inclusion probability it is Horvitz & Thompson's total over what was shown.
    """
    return _requests((ratio_NS * reward_NS).sum(1))


def item_position_snips(reward_NS: np.ndarray, ratio_NS: np.ndarray) -> Terms:
    """Σ ratio·r / Σ ratio: what a position of the target's slate earns, the mean over positions; self-normalised `item_position`.

    The weights of a request are summed with its rewards, so that requests are what is resampled.
    """
    return Terms((ratio_NS * reward_NS).sum(1), ratio_NS.sum(1))


def cascade(reward_NS: np.ndarray, prefix_weight_NS: np.ndarray) -> Terms:
    """Σ_n Σ_s w(1..s)·r_s / N, w(1..s) = π(items 1..s) / p(items 1..s): a click depends on what stands above it and on nothing below
    (reward-interaction IPS; McInerney et al., KDD 2020)."""
    return _requests((prefix_weight_NS * reward_NS).sum(1))


def prefix_weight(ratio_NS: np.ndarray) -> np.ndarray:
    """Π_{t ≤ s} ratio_t, (N, S), where each ratio is of probabilities given what stands above; the last column is the whole slate's."""
    return np.cumprod(ratio_NS, axis=1)


def pseudo_inverse(reward_NS: np.ndarray, ratio_NS: np.ndarray) -> Terms:
    """Σ_n (Σ_s ratio − S + 1)·Σ_s r / N: the slate's reward is a sum of unknown parts by item and position, of which only the total is
    known; for policies that fill their positions independently (Swaminathan et al., NeurIPS 2017).

    Slates without repeats are not such: see `pseudo_inverse_weight`. A weight may be below 0.
    """
    return _requests((ratio_NS.sum(1) - ratio_NS.shape[1] + 1) * reward_NS.sum(1))


def pseudo_inverse_weight(target_SM: np.ndarray, pair_SMSM: np.ndarray, shown_S: np.ndarray) -> float:
    """q_π' Γ⁺ 1_slate: the weight of one slate of which any logging policy drew it (Swaminathan et al., NeurIPS 2017).

    `target_SM` is q_π, the target's probability of item m at position s; `pair_SMSM` is Γ = E_p[1_slate 1_slate'], the probability that the
    log's slate holds m at s and m' at s'; `shown_S` the items that were shown. Multiply by the slate's reward and take the mean.
    """
    positions, items = target_SM.shape
    slate_SM = np.zeros((positions, items))
    slate_SM[np.arange(positions), shown_S] = 1
    gamma = pair_SMSM.reshape(positions * items, positions * items)
    return float(target_SM.ravel() @ np.linalg.pinv(gamma, hermitian=True) @ slate_SM.ravel())
