"""How often the sampler draws an item: the q of the logQ correction (Yi et al. 2019, doi:10.1145/3298689.3346996).

Uniform sampling needs no correction: its log q is the same for all items and falls out of the softmax.
"""

import numpy as np


def log_q(count_I: np.ndarray) -> np.ndarray:
    """log P(a random training row has this item), float32 (I,). An item without rows is never drawn; its value is log of half a row."""
    return np.log(np.maximum(count_I, 0.5) / max(count_I.sum(), 1.0)).astype(np.float32)


def log_in_batch(count_I: np.ndarray, *, batch_size: int, uniform: int = 0) -> np.ndarray:
    """log P(the item stands at least once among the candidates), float32 (I,).

    A batch of `batch_size` rows and `uniform` more items drawn evenly: log(1 − (1 − q)^B · (1 − 1/I)^U), the correction
    for a softmax with one column per *distinct* candidate.
    """
    q_I = np.maximum(count_I, 0.5) / max(count_I.sum(), 1.0)
    missed_I = batch_size * np.log1p(-np.minimum(q_I, 1 - 1e-12)) + uniform * np.log1p(-1 / max(len(count_I), 2))
    return np.log(-np.expm1(missed_I)).astype(np.float32)
