"""What a two-tower model has to beat: popularity, item neighbours, iALS and EASE, through the same evaluation door.

Each baseline is a frozen set of hyperparameters with `fit(interactions) -> scorer`. `interactions` is a SciPy CSR matrix
users × items of finite values of at least 0 (1 for "liked", or a count); a user's row is also the history that is scored.
A scorer answers `score(user_row_B) -> score_BI` with float32 on the CPU, as `towers.evaluation.rank` asks.

A user without history gets 0 for every item from all but `Popularity`: all tie, and ties hit nothing. That is what these
methods know of strangers. `PopularityFallback` shows the popular items to them instead; compare with that one, since it is
the strongest that a baseline can honestly be on cold users.

Shape letters: U users · I catalogue · B batch · D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits
from torch import Tensor

from towers.evaluation import DotProduct, Scorer

_NEIGHBOUR_BLOCK_CELLS = 2**24


class Baseline(Protocol):
    """Anything with hyperparameters and a fit: every class here."""

    def fit(self, interactions: sparse.csr_matrix) -> Scorer: ...


@dataclass(frozen=True, slots=True)
class PopularityScorer:
    """The same scores for everybody: count_I, float32."""

    count_I: Tensor

    def __call__(self, user_row_B: Tensor) -> Tensor:
        return self.count_I.expand(len(user_row_B), -1)


@dataclass(frozen=True, slots=True)
class SparseItemWeights:
    """Scores are the user's history times an item × item matrix with few entries a row."""

    history_UI: sparse.csr_matrix
    weight_II: sparse.csr_matrix

    def __call__(self, user_row_B: Tensor) -> Tensor:
        return torch.from_numpy((self.history_UI[user_row_B.cpu().numpy()] @ self.weight_II).toarray())


@dataclass(frozen=True, slots=True)
class DenseItemWeights:
    """Scores are the user's history times a dense item × item matrix."""

    history_UI: sparse.csr_matrix
    weight_II: np.ndarray

    def __call__(self, user_row_B: Tensor) -> Tensor:
        return torch.from_numpy(self.history_UI[user_row_B.cpu().numpy()] @ self.weight_II)


@dataclass(frozen=True, slots=True)
class FallbackScorer:
    """`score` for users with a history, `popularity` for the others; `fallback_user_count` says how many those are."""

    score: Scorer
    popularity: PopularityScorer
    stranger_U: Tensor
    fallback_user_count: int

    def __call__(self, user_row_B: Tensor) -> Tensor:
        stranger_B1 = self.stranger_U[user_row_B.cpu()][:, None]
        return torch.where(stranger_B1, self.popularity(user_row_B), self.score(user_row_B))


@dataclass(frozen=True, slots=True)
class Popularity:
    """The sum of an item's column. With values that decay by age it is recent popularity."""

    def fit(self, interactions: sparse.csr_matrix) -> PopularityScorer:
        checked = _checked(interactions)
        return PopularityScorer(torch.from_numpy(np.asarray(checked.sum(axis=0), dtype=np.float32).ravel()))


@dataclass(frozen=True, slots=True)
class PopularityFallback:
    """`baseline` for users with a history, popularity for users without one."""

    baseline: Baseline

    def fit(self, interactions: sparse.csr_matrix) -> FallbackScorer:
        checked = _checked(interactions)
        stranger_U = torch.from_numpy(np.diff(checked.indptr) == 0)
        return FallbackScorer(self.baseline.fit(checked), Popularity().fit(checked), stranger_U, int(stranger_U.sum()))


@dataclass(frozen=True, slots=True)
class Cosine:
    """Columns of unit length, so that the product of two is their cosine."""

    def __call__(self, interactions: sparse.csr_matrix) -> sparse.csr_matrix:
        norm_I = np.sqrt(np.asarray(interactions.multiply(interactions).sum(axis=0))).ravel()
        return _scaled(interactions, 1 / np.maximum(norm_I, np.finfo(np.float32).tiny)[interactions.indices])


@dataclass(frozen=True, slots=True)
class Bm25:
    """Okapi BM25 with an item as the document and its users as the terms. Robertson & Zaragoza 2009, section 3.

    weight = idf(user) · c (k1 + 1) / (c + k1 (1 - b + b · users of the item / their mean)); users of many items say less,
    and b = 1 takes the popularity of an item out of its weight, b = 0 leaves it in.
    """

    k1: float = 1.2
    b: float = 0.75

    def __call__(self, interactions: sparse.csr_matrix) -> sparse.csr_matrix:
        user_degree = np.diff(interactions.indptr)
        idf_U = np.log1p((interactions.shape[1] - user_degree + 0.5) / (user_degree + 0.5))
        length_I = np.asarray(interactions.sum(axis=0)).ravel()
        saturation_I = self.k1 * (1 - self.b + self.b * length_I / length_I.mean())
        return _scaled(
            interactions, np.repeat(idf_U, user_degree) * (self.k1 + 1) / (interactions.data + saturation_I[interactions.indices])
        )


@dataclass(frozen=True, slots=True)
class ItemNeighbours:
    """Score = Σ over the history of the similarity to the item, each history item speaking for its nearest `neighbours`.

    Deshpande & Karypis, TOIS 2004. `weight` makes the similarity, the product of two weighted columns: `Cosine()` or
    `Bm25()`. `shrinkage` multiplies it by n / (n + shrinkage), n the users in common: few users in common prove little
    (Bell & Koren, ICDM 2007).
    """

    neighbours: int = 100
    shrinkage: float = 0.0
    weight: Callable[[sparse.csr_matrix], sparse.csr_matrix] = field(default_factory=Cosine)

    def fit(self, interactions: sparse.csr_matrix) -> SparseItemWeights:
        history_UI = _checked(interactions)
        item_count = history_UI.shape[1]
        weighted_UI, once_UI = self.weight(history_UI), _scaled(history_UI, 1 / history_UI.data)
        weighted_IU, once_IU = weighted_UI.T.tocsr(), once_UI.T.tocsr()
        kept = min(self.neighbours, item_count)
        block = max(1, _NEIGHBOUR_BLOCK_CELLS // item_count)
        value_IN, row_IN = np.empty((item_count, kept), np.float32), np.empty((item_count, kept), np.int64)
        for start in range(0, item_count, block):
            similarity = (weighted_IU[start : start + block] @ weighted_UI).toarray()
            if self.shrinkage:
                common = (once_IU[start : start + block] @ once_UI).toarray()
                similarity *= common / (common + self.shrinkage)
            np.fill_diagonal(similarity[:, start:], 0.0)  # an item is no evidence for itself
            best = torch.from_numpy(similarity).topk(kept, dim=1)
            value_IN[start : start + block], row_IN[start : start + block] = best.values.numpy(), best.indices.numpy()
        offset = np.arange(item_count + 1) * kept
        weight_II = sparse.csr_matrix((value_IN.ravel(), row_IN.ravel(), offset), shape=(item_count, item_count))
        weight_II.eliminate_zeros()
        return SparseItemWeights(history_UI, weight_II)


@dataclass(frozen=True, slots=True)
class ImplicitALS:
    """iALS: Σ c (1 - q·i)² with confidence c = alpha · value where there was an interaction, 1 · (0 - q·i)² elsewhere.

    Hu, Koren & Volinsky, ICDM 2008, by the `implicit` package; the same seed gives the same factors. How much the
    regularization matters: Rendle et al., RecSys 2022.
    """

    factors: int = 64
    regularization: float = 0.1
    alpha: float = 10.0
    iterations: int = 15
    seed: int = 0

    def fit(self, interactions: sparse.csr_matrix) -> DotProduct:
        checked = _checked(interactions)
        # It runs its own threads; a threaded BLAS under each of them makes it up to ten times slower, and it warns.
        with threadpool_limits(1, user_api="blas"):
            model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                random_state=self.seed,
            )
            model.fit(checked, show_progress=False)
        return DotProduct(torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors))


@dataclass(frozen=True, slots=True)
class Ease:
    """A linear autoencoder in closed form: P = (XᵀX + λ)⁻¹, weight = 1 - P / diag P with a zero diagonal. Steck, WWW 2019.

    Raises:
        MemoryError: more than `max_items` items, before anything is allocated; it needs three I × I float32 matrices.
    """

    regularization: float = 250.0
    max_items: int = 20_000

    def fit(self, interactions: sparse.csr_matrix) -> DenseItemWeights:
        history_UI = _checked(interactions)
        item_count = history_UI.shape[1]
        if item_count > self.max_items:
            raise MemoryError(
                f"EASE on {item_count:,} items inverts a dense matrix and needs about {3 * 4 * item_count**2 / 2**30:.1f} GiB;"
                f" max_items is {self.max_items:,}. Raise it if the machine has the memory, or compare with ItemNeighbours."
            )
        if self.regularization <= 0:
            raise ValueError(f"Ease: regularization is {self.regularization}, expected above 0; XᵀX alone need not have an inverse.")
        gram_II = torch.from_numpy((history_UI.T @ history_UI).toarray())
        gram_II.diagonal().add_(self.regularization)
        weight_II = torch.cholesky_inverse(torch.linalg.cholesky(gram_II))
        weight_II.div_(-weight_II.diagonal().clone())  # B = I - P diag(1 / diag P): column j is divided by P_jj
        weight_II.fill_diagonal_(0.0)
        return DenseItemWeights(history_UI, weight_II.numpy())


def _scaled(matrix: sparse.csr_matrix, factor: np.ndarray) -> sparse.csr_matrix:
    """The same entries, each multiplied by its factor (one per stored entry), float32."""
    return sparse.csr_matrix(((matrix.data * factor).astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _checked(interactions: sparse.csr_matrix) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(interactions, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise ValueError("interactions holds a value that is negative or not finite; expected 1, a count or a weight of at least 0.")
    matrix.eliminate_zeros()
    if not matrix.nnz:
        raise ValueError(f"interactions {matrix.shape} holds no interaction, so a baseline has nothing to learn from; look at the split.")
    return matrix
