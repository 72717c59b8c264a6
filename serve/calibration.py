"""A slate whose genres are mixed as the user's history is: seven parts drama and three of comedy stay seven to three.

Steck, Calibrated recommendations, RecSys 2018.

Shapes: K candidates · G genres · N slate · P how many genres an item bears, from 1.
"""

import numpy as np

from serve.mmr import Selection, checked

SMOOTHING = 0.01
"""Steck's α: q̃ = (1 − α)·q + α·p, so that a genre the slate has not yet does not make the divergence infinite."""


def calibrated(relevance_K: np.ndarray, genre_KG: np.ndarray, share_G: np.ndarray, *, count: int, mmr_lambda: float) -> np.ndarray:
    """The order alone of `select`: int64 (N,), N = min(count, K)."""
    return select(relevance_K, genre_KG, share_G, count=count, mmr_lambda=mmr_lambda).order_N


def select(relevance_K: np.ndarray, genre_KG: np.ndarray, share_G: np.ndarray, *, count: int, mmr_lambda: float) -> Selection:
    """Grow the slate I each time by the candidate that makes λ·Σ relevance − (1 − λ)·KL(p ‖ q̃(I)) largest.

    λ is `mmr_lambda` and weighs relevance, as elsewhere in serving: Steck's λ, which weighs calibration, is 1 − λ. p is `share_G`, how
    the user's history is spread over genres (`data.features.genre_share`); q(I) the mean over I of each item's genres in equal parts,
    `genre_KG` being 0 or 1; q̃ as in `SMOOTHING`. KL = Σ p·log(p/q̃) in nats. An item without genres takes a place and gives no genre its
    share. Ties go to the lower position. A user without genres (`share_G` all 0) has nothing to be true to: plain order by relevance. λ =
    1 is that order too.

    Of the result, `similarity_N` is KL(p ‖ q̃) of the slate up to this item (0 for a user without genres), `score_N` what this item was
    chosen by, λ·relevance − (1 − λ)·KL: the relevance of those before it is the same for every candidate and left out.

    Raises:
        ValueError: λ outside [0, 1], a negative count, shapes that do not agree, a relevance that is not finite, or a share that is neither
            all 0 nor a distribution.
    """
    relevance_K = checked(relevance_K, genre_KG, count, mmr_lambda)
    if share_G.shape != genre_KG.shape[1:] or not (share_G >= 0).all() or not (share_G.any() <= np.isclose(share_G.sum(), 1, atol=1e-3)):
        raise ValueError(f"share {share_G.shape} sums to {share_G.sum():.4g} over {genre_KG.shape[1]} genres; expected 1, or 0 for none")
    count, wanted_K = min(count, len(relevance_K)), relevance_K * np.float32(mmr_lambda)
    bears = np.flatnonzero(share_G)
    if not len(bears):
        order_N = np.argsort(-relevance_K, kind="stable")[:count]
        return Selection(order_N, np.zeros(count, np.float32), wanted_K[order_N])

    p_G = (share_G[bears] / share_G.sum()).astype(np.float32)
    parts_K = genre_KG.sum(1).astype(np.int64)
    genre_KG = np.ascontiguousarray(genre_KG[:, bears], np.float32)  # genres without a share in the history add nothing to KL
    part_P = np.float32(1 - SMOOTHING) / np.arange(1, parts_K.max(initial=1) + 1, dtype=np.float32)
    entry_K = np.arange(len(parts_K)) * len(part_P) + np.maximum(parts_K, 1) - 1
    order_N, divergence_N, score_N = np.empty(count, np.int64), np.empty(count, np.float32), np.empty(count, np.float32)
    sum_G = np.zeros_like(p_G)
    for step in range(count):
        q_G = sum_G + np.float32(SMOOTHING * (step + 1)) * p_G  # of the slate before this step; like part_P, times the new length
        # a candidate changes the shares of its own few genres alone, by the same for all that bear as many: logarithms of one small table
        gain_GP = p_G[:, None] * np.log(1 + part_P / q_G[:, None])
        divergence_K = p_G @ np.log(p_G * np.float32(step + 1) / q_G) - (genre_KG @ gain_GP).ravel()[entry_K]
        score_K = wanted_K - np.float32(1 - mmr_lambda) * divergence_K
        chosen = int(score_K.argmax())
        order_N[step], divergence_N[step], score_N[step] = chosen, divergence_K[chosen], score_K[chosen]
        wanted_K[chosen] = -np.inf  # once is enough
        sum_G += genre_KG[chosen] * np.float32((1 - SMOOTHING) / max(parts_K[chosen], 1))
    return Selection(order_N, divergence_N, score_N)
