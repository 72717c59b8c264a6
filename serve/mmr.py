"""Maximal marginal relevance: a slate of items that are wanted and not all alike.

Carbonell and Goldstein, The use of MMR, diversity-based reranking for reordering documents and producing summaries, SIGIR 1998.

Shapes: K candidates · D width · N slate.
"""

from typing import NamedTuple

import numpy as np

from serve.likeness import unit


class Selection(NamedTuple):
    """What was chosen, first to last, and why in that order.

    `order_N` int64 positions among the candidates; `similarity_N` float32, the cosine to the most alike item chosen before it (0 for
    the first); `score_N` float32, what was largest when it was chosen: λ·relevance − (1 − λ)·similarity for MMR. `dpp` and `calibration`
    return the same type and say what differs.
    """

    order_N: np.ndarray
    similarity_N: np.ndarray
    score_N: np.ndarray


def mmr(relevance_K: np.ndarray, vector_KD: np.ndarray, *, count: int, mmr_lambda: float) -> np.ndarray:
    """The order alone of `select`: int64 (N,), N = min(count, K)."""
    return select(relevance_K, vector_KD, count=count, mmr_lambda=mmr_lambda).order_N


def select(relevance_K: np.ndarray, vector_KD: np.ndarray, *, count: int, mmr_lambda: float) -> Selection:
    """Choose again and again the candidate of the largest λ·relevance − (1 − λ)·max over the chosen of their cosine.

    Relevance and cosine are weighed against one another as they come, so relevance should be a probability. The first choice has nothing
    to resemble: its similarity counts as 0. Ties go to the lower position. λ = 1 is sorting by relevance, λ = 0 looks at likeness alone.
    `vector_KD` (fp16 or fp32) need not have length one; a zero vector resembles nothing. With fewer candidates than `count`, all are
    ordered.

    Each step costs one K×D by D product, as only the newest choice can raise a candidate's largest similarity.

    Raises:
        ValueError: λ outside [0, 1], a negative count, shapes that do not agree, or a relevance or vector that is not finite.
    """
    left_K = checked(relevance_K, vector_KD, count, mmr_lambda) * np.float32(mmr_lambda)
    unit_KD = unit(vector_KD)
    count = min(count, len(left_K))
    order_N, similarity_N, score_N = np.empty(count, np.int64), np.zeros(count, np.float32), np.empty(count, np.float32)
    weight = np.float32(1 - mmr_lambda)
    closest_K, score_K, cosine_K = np.zeros_like(left_K), np.empty_like(left_K), np.empty_like(left_K)
    for step in range(count):
        np.subtract(left_K, np.multiply(closest_K, weight, out=score_K), out=score_K)
        chosen = int(score_K.argmax())
        order_N[step], similarity_N[step], score_N[step] = chosen, closest_K[chosen], score_K[chosen]
        left_K[chosen] = -np.inf  # once is enough
        np.matmul(unit_KD, unit_KD[chosen], out=cosine_K)
        closest_K = np.maximum(closest_K, cosine_K) if step else cosine_K.copy()
    return Selection(order_N, similarity_N, score_N)


def checked(relevance_K: np.ndarray, other_KX: np.ndarray, count: int, mmr_lambda: float) -> np.ndarray:
    """`relevance_K` as float32, where the arguments of a selection can be meant; `other_KX` has a row for each candidate.

    Raises:
        ValueError: λ outside [0, 1], a negative count, shapes that do not agree, or a relevance that is not finite.
    """
    if not 0 <= mmr_lambda <= 1:
        raise ValueError(f"mmr_lambda is {mmr_lambda}; expected a number from 0 (only diversity) to 1 (only relevance)")
    if count < 0:
        raise ValueError(f"count is {count}; expected at least 0")
    if relevance_K.ndim != 1 or other_KX.ndim != 2 or len(relevance_K) != len(other_KX):
        raise ValueError(f"relevance {relevance_K.shape} and rows {other_KX.shape} do not agree; expected (K,) and one row for each")
    relevance_K = relevance_K.astype(np.float32)
    if not np.isfinite(relevance_K).all():
        raise ValueError("a relevance is not finite; it has no place in an order")
    return relevance_K
