"""A slate by a determinantal point process: the set of items that is wanted and spans the most, not only free of pairs that are alike.

Chen, Zhang and Zhou, Fast greedy MAP inference for determinantal point process to improve recommendation diversity, NeurIPS 2018.

The probability of a set Y is proportional to det L_Y, L = diag(q) S diag(q). S = (1 + cosine)/2: of the matrix of ones and the Gram
matrix of unit vectors, both positive semidefinite, so is their mean; no entry is negative, so an opposite is worth more than a stranger.
The quality is q = exp(α·relevance), α = λ/(2(1 − λ)), with which (1 − λ)·log det L_Y = λ·Σ relevance + (1 − λ)·log det S_Y. The greedy
step therefore needs S alone, no exponential, and λ = 1, where α is infinite, is sorting.

Shapes: K candidates · D width · N slate · R the rest of it, once all is spanned.
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
    count = min(count, len(relevance_K))
    found = Selection(np.empty(count, np.int64), np.zeros(count, np.float32), np.empty(count, np.float32))
    order_N, similarity_N, score_N = found
    weight, wanted_K = np.float32(1 - mmr_lambda), relevance_K * np.float32(mmr_lambda)
    residual_K, score_K, closest_K = np.ones_like(relevance_K), np.empty_like(relevance_K), np.full_like(relevance_K, -1)
    factor_NK = np.empty((count, len(relevance_K)), np.float32)  # row t: column t of Cholesky's factor, over all candidates
    for step in range(count):
        np.log(np.maximum(residual_K, COPY, out=score_K), out=score_K)
        score_K *= weight
        score_K += wanted_K
        np.putmask(score_K, residual_K <= COPY, -np.inf)
        chosen = int(score_K.argmax())
        if mmr_lambda == 1 or score_K[chosen] == -np.inf:
            _go_on(step, relevance_K, unit_KD, closest_K, mmr_lambda, found)
            break
        order_N[step], similarity_N[step], score_N[step] = chosen, closest_K[chosen] if step else 0, score_K[chosen]
        column_K = np.matmul(unit_KD, unit_KD[chosen], out=factor_NK[step])
        np.maximum(closest_K, column_K, out=closest_K)
        column_K += 1
        column_K *= np.float32(0.5)
        if step:
            column_K -= factor_NK[:step, chosen] @ factor_NK[:step]
        column_K *= 1 / np.sqrt(residual_K[chosen])
        residual_K -= column_K * column_K
        residual_K[chosen] = wanted_K[chosen] = -np.inf  # once is enough
    return found


def _go_on(step: int, relevance_K: np.ndarray, unit_KD: np.ndarray, closest_K: np.ndarray, mmr_lambda: float, found: Selection) -> None:
    """Fill `found` from `step` on with what is left, by relevance: the chosen set spans it all, or nobody asks what it spans."""
    left_K = relevance_K.copy()
    left_K[found.order_N[:step]] = -np.inf
    rest_R = np.argsort(-left_K, kind="stable")[: len(found.order_N) - step]
    before_RR = np.tri(len(rest_R), k=-1, dtype=bool)
    cosine_RR = unit_KD[rest_R] @ unit_KD[rest_R].T
    found.order_N[step:] = rest_R
    found.similarity_N[step:] = np.maximum(closest_K[rest_R], cosine_RR.max(1, initial=-1, where=before_RR))
    found.similarity_N[:1] = 0
    found.score_N[step:] = np.float32(mmr_lambda) * relevance_K[rest_R] + np.float32(1 - mmr_lambda) * np.log(COPY)
