"""A slate by a determinantal point process: the set of items that is wanted and spans the most, not only free of pairs that are alike.

Chen, Zhang and Zhou, Fast greedy MAP inference for determinantal point process to improve recommendation diversity, NeurIPS 2018.

The probability of a set Y is proportional to det L_Y, L = diag(q) S diag(q). S = (1 + cosine)/2: of the matrix of ones and the Gram
matrix of unit vectors, both positive semidefinite, so is their mean; no entry is negative, so an opposite is worth more than a stranger.
The quality is q = exp(α·relevance), α = λ/(2(1 − λ)), with which (1 − λ)·log det L_Y = λ·Σ relevance + (1 − λ)·log det S_Y. The greedy
step therefore needs S alone, no exponential, and λ = 1, where α is infinite, is sorting.

Shapes: K candidates · D width · N slate.
"""

import numpy as np

from serve.likeness import unit
from serve.mmr import Selection, checked

COPY = np.float32(1e-5)
"""The residual variance below which an item lies in the span of those chosen before it: float32 cosines tell no less apart."""


def dpp(relevance_K: np.ndarray, vector_KD: np.ndarray, *, count: int, mmr_lambda: float) -> np.ndarray:
    """The order alone of `select`: int64 (N,), N = min(count, K)."""
    return select(relevance_K, vector_KD, count=count, mmr_lambda=mmr_lambda).order_N


def select(relevance_K: np.ndarray, vector_KD: np.ndarray, *, count: int, mmr_lambda: float) -> Selection:
    """Choose again and again the candidate of the largest λ·relevance + (1 − λ)·log d², by which (1 − λ)·log det L_Y grows.

    d² = det S_{Y∪i} / det S_Y is what of candidate i the chosen set Y does not span: 1 for the first, 0 for a copy. It is kept by an
    incremental Cholesky decomposition, N·K·(D + N) multiplications in all. When nothing is left but what is spanned (d² below `COPY`), the
    rest follows by relevance, with log `COPY` in its score. Ties go to the lower position. Vectors and `count` as in `mmr.select`; a zero
    vector has cosine 0 with all others.

    Of the result, `similarity_N` is the cosine to the most alike item chosen before, `score_N` λ·relevance + (1 − λ)·log d² when chosen.

    Raises:
        ValueError: λ outside [0, 1], a negative count, shapes that do not agree, or a relevance or vector that is not finite.
    """
    relevance_K = checked(relevance_K, vector_KD, count, mmr_lambda)
    unit_KD = unit(vector_KD)
    order_N, score_N = np.empty(min(count, len(relevance_K)), np.int64), np.empty(min(count, len(relevance_K)), np.float32)
    chosen_count = _greedy(relevance_K, unit_KD, mmr_lambda, order_N, score_N) if mmr_lambda < 1 else 0
    left_K = relevance_K.copy()
    left_K[order_N[:chosen_count]] = -np.inf
    order_N[chosen_count:] = rest = np.argsort(-left_K, kind="stable")[: len(order_N) - chosen_count]
    score_N[chosen_count:] = np.float32(mmr_lambda) * relevance_K[rest] + np.float32(1 - mmr_lambda) * np.log(COPY)
    cosine_NN = unit_KD[order_N] @ unit_KD[order_N].T
    similarity_N = cosine_NN.max(1, initial=-1, where=np.tri(len(order_N), k=-1, dtype=bool))
    similarity_N[:1] = 0
    return Selection(order_N, similarity_N, score_N)


def _greedy(relevance_K: np.ndarray, unit_KD: np.ndarray, mmr_lambda: float, order_N: np.ndarray, score_N: np.ndarray) -> int:
    """Choose into `order_N` and `score_N` until they are full or the chosen set spans what is left; how many were chosen.

    Row 0 of `factor` is of ones, row t + 1 the column of Cholesky's factor that choice t adds, over all candidates. S's constant ½ thus
    goes the way of the factor's rows, one product for all.
    """
    weight = np.float32(1 - mmr_lambda)
    wanted_K = relevance_K * np.float32(mmr_lambda / (1 - mmr_lambda))  # scores are weighed by 1 − λ when all is done
    residual_K, score_K = np.ones_like(relevance_K), np.empty_like(relevance_K)
    factor = np.empty((len(order_N) + 1, len(relevance_K)), np.float32)
    factor[0] = 1
    for step in range(len(order_N)):
        np.log(np.maximum(residual_K, COPY, out=score_K), out=score_K)
        score_K += wanted_K
        chosen = int(score_K.argmax())
        if residual_K[chosen] <= COPY:
            wanted_K[residual_K <= COPY] = score_K[residual_K <= COPY] = -np.inf
            chosen = int(score_K.argmax())
        if score_K[chosen] == -np.inf:  # all that is left is copies, and the residual of what was chosen is not always rounded to one
            return step
        order_N[step], score_N[step] = chosen, weight * score_K[chosen]
        inverse = 1 / np.sqrt(residual_K[chosen])
        column_K = np.matmul(unit_KD, unit_KD[chosen] * (inverse / 2), out=factor[step + 1])
        known = factor[: step + 1, chosen] * inverse
        known[0] = -inverse / 2
        column_K -= known @ factor[: step + 1]
        residual_K -= np.multiply(column_K, column_K, out=score_K)
        wanted_K[chosen] = -np.inf  # once is enough
    return len(order_N)
