"""Vectors on their way into an index: what can be ordered at all, and what is added to an index after it was built.

Shapes: I catalogue · B batch · D width · K candidates · S vectors of the segment · N vectors added.
"""

from typing import NamedTuple

import numpy as np


def vectors(vector: np.ndarray, what: str) -> np.ndarray:
    """Any floats as contiguous float32. Raises ValueError, which names `what`, unless they have two dimensions and are finite."""
    if vector.ndim != 2 or not vector.shape[1]:
        raise ValueError(f"{what} have shape {vector.shape}; expected two dimensions, one row each")
    if not np.isfinite(vector).all():
        raise ValueError(f"{what}: row {int(np.argmin(np.isfinite(vector).all(1)))} is not finite; the model that made it has diverged")
    return np.ascontiguousarray(vector, np.float32)


def catalogue(vector_ID: np.ndarray) -> np.ndarray:
    """Item vectors as `vectors` gives them. Raises ValueError likewise, and where there are none."""
    vector_ID = vectors(vector_ID, "item vectors")
    if not len(vector_ID):
        raise ValueError("no item vectors to index; the catalogue is empty")
    return vector_ID


def queries(query_BD: np.ndarray, width: int) -> np.ndarray:
    """Queries as `vectors` gives them. Raises ValueError likewise, and where they are not `width` wide."""
    query_BD = vectors(query_BD, "queries")
    if query_BD.shape[1] != width:
        raise ValueError(f"queries are {query_BD.shape[1]} wide, the index {width}; they come from different models")
    return query_BD


class Segment(NamedTuple):
    """What was added to an index, searched exactly: vectors float32 (S, D), rows int64 (S). It never changes: adding makes another."""

    vector_SD: np.ndarray
    row_S: np.ndarray

    @classmethod
    def empty(cls, width: int) -> "Segment":
        """Of vectors `width` wide there are none yet."""
        return cls(np.zeros((0, width), np.float32), np.zeros(0, np.int64))

    def with_rows(self, vector_ND: np.ndarray, row_N: np.ndarray) -> "Segment":
        """The segment and these vectors; a row that was there has the new vector."""
        stays_S = ~np.isin(self.row_S, row_N)
        return Segment(np.concatenate([self.vector_SD[stays_S], vector_ND]), np.concatenate([self.row_S[stays_S], row_N]))


def merged(
    score_BK: np.ndarray, row_BK: np.ndarray, other_BK: np.ndarray, other_row_BK: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of two answers to the same queries, best first; of equal scores those of the first. Row −1, nothing found, comes last."""
    score_BK = np.concatenate([np.where(row_BK < 0, np.float32(-np.inf), score_BK), other_BK], axis=1)
    row_BK = np.concatenate([row_BK, other_row_BK], axis=1)
    order_BK = np.argsort(-score_BK, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(score_BK, order_BK, 1), np.take_along_axis(row_BK, order_BK, 1)
