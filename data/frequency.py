"""How often the sampler draws an item: the q of the logQ correction (Yi et al. 2019, doi:10.1145/3298689.3346996).

Uniform sampling needs no correction: its log q is the same for all items and falls out of the softmax.
"""

import numpy as np


def log_q(count_I: np.ndarray) -> np.ndarray:
    """log P(a random training row has this item), float32 (I,). An item without rows is never drawn; its value is log of half a row."""
    return np.log(np.maximum(count_I, 0.5) / max(count_I.sum(), 1.0)).astype(np.float32)


def log_in_batch(count_I: np.ndarray, *, batch_size: int, uniform: int = 0, mined_I: np.ndarray | float = 0.0) -> np.ndarray:
    """log P(the item stands at least once among the candidates), float32 (I,).

    A batch of `batch_size` rows, each of which may bring the item as one mined for it with probability `mined_I`, and `uniform` more items
    drawn evenly: log(1 − (1 − q − mined)^B · (1 − 1/I)^U), the correction for a softmax with one column per *distinct* candidate.
    """
    q_I = np.maximum(count_I, 0.5) / max(count_I.sum(), 1.0) + mined_I
    missed_I = batch_size * np.log1p(-np.minimum(q_I, 1 - 1e-12)) + uniform * np.log1p(-1 / max(len(count_I), 2))
    return np.log(-np.expm1(missed_I)).astype(np.float32)


def inclusion(weight_I: np.ndarray, count: int) -> np.ndarray:
    """P(drawn) of each item, float64 (I,), in proportion to its weight but at most 1, so that `count` are drawn on average.

    Where each is drawn or not by its own chance, none comes twice (Poisson sampling, Hájek 1964, doi:10.1214/aoms/1177700375). All are
    drawn for certain where `count` is their number.

    Raises:
        ValueError: a weight that is not positive, or a count below 1.
    """
    if count < 1 or not (weight_I > 0).all():
        raise ValueError(f"count is {count} and the least weight {weight_I.min()}; expected at least 1, and weights above 0")
    rising_I = np.sort(weight_I)
    certain = np.arange(len(rising_I))[::-1]  # with the heaviest so many drawn for certain, the others share what is left of `count`
    factor_I = (count - certain) / np.cumsum(rising_I)
    fits = np.flatnonzero((factor_I > 0) & (factor_I * rising_I <= 1))
    return np.minimum(1.0, weight_I * factor_I[fits[-1]]) if len(fits) and count < len(weight_I) else np.ones(len(weight_I))
