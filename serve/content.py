"""What items are made of, as directions, and a taste among them.

Shapes: I catalogue · C content width · E events of one user.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from data.features import DAY_MS, DISLIKED, EVENT_CODES, EVENT_TYPE_CODE
from serve.index import Index
from serve.manifest import Manifest, ReleaseError

if TYPE_CHECKING:
    from serve.scoring import Person

LAST = 100
WEIGHT = {"complete": 1.0, "rate": 1.0, "watch": 0.7, "click": 0.3, "view": 0.0, "skip": -0.1, "not_interested": -0.2}
"""What an event says for or against its item's content; a rating below liked says what `not_interested` does.

Finishing says more than beginning, and beginning more than opening. Seeing says nothing. What is turned down pushes the taste away, but
much less than a liking pulls it, as in Rocchio's relevance feedback (Manning, Raghavan, Schütze, Introduction to Information Retrieval,
2008, §9.1.1: .75 and .15): an item is skipped for many reasons, most of them not its genre.
"""
WEIGHT_OF_CODE = np.zeros(EVENT_CODES)
WEIGHT_OF_CODE[[EVENT_TYPE_CODE[name] for name in WEIGHT]] = list(WEIGHT.values())
WEIGHT_OF_CODE[DISLIKED] = WEIGHT["not_interested"]


@dataclass(frozen=True, slots=True)
class ContentTable:
    """Every item's content vector, fp16 of length one or zero, memory-mapped (rows, C) with room beyond the catalogue's I rows, and the
    index that finds the nearest of them. What is added is this process's own."""

    vector_IC: np.ndarray
    index: Index

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, index: Index, *, rows: int) -> Self:
        """Read content.f16 of a release, beside its `index`; its item table has so many `rows`, those with room among them.

        Raises:
            ReleaseError: it is missing, cut short, or does not go with the catalogue.
        """
        try:
            flat = np.memmap(folder / "content.f16", np.float16, "c")
        except (OSError, ValueError) as error:
            raise ReleaseError(folder, "content.f16", f"cannot be read ({error})") from error
        if index.item_count != manifest.item_count:
            raise ReleaseError(folder, "content.faiss", f"holds {index.item_count} vectors of {manifest.item_count} items")
        if len(flat) != rows * index.width:
            raise ReleaseError(folder, "content.f16", f"holds {len(flat)} numbers, expected {rows} rows of {index.width}")
        return cls(np.asarray(flat).reshape(rows, index.width), index)

    def add(self, vector_NC: np.ndarray, row_N: np.ndarray) -> None:
        """Have these vectors, float32 of length one or zero, found under their item rows. One thread at a time; readers need not wait."""
        self.vector_IC[row_N] = vector_NC
        self.index.add(vector_NC, row_N)

    def nearest(self, taste_C: np.ndarray, count: int, *, without: np.ndarray) -> np.ndarray:
        """At most `count` items whose content points the way of `taste_C`, best first; none of `without`, none without content, and none
        at a right angle to it or beyond."""
        score_BK, item_row_BK = self.index.search(taste_C[None, :], count + len(without))
        item_row_K = item_row_BK[0]
        stays_K = (score_BK[0] > 0) & self.vector_IC[item_row_K].any(1) & ~np.isin(item_row_K, without)
        return item_row_K[stays_K][:count]


def taste(vector_IC: np.ndarray, who: "Person", *, half_life_days: float) -> tuple[np.ndarray, np.ndarray]:
    """(Σ w·2^(−age / half-life)·v over the last `LAST` events that say something, at length one, float32 (C,); the distinct item rows of
    these events). The zero vector where nothing was liked, or likings and dislikings cancel."""
    weight_E = WEIGHT_OF_CODE[who.event_code_E]
    telling_E = np.flatnonzero(weight_E)[-LAST:]
    item_row_E = who.item_row_E[telling_E]
    age_days_E = (who.now - who.timestamp_E[telling_E]).clip(0) / DAY_MS
    weight_E = weight_E[telling_E] * np.exp2(-(age_days_E - age_days_E.min(initial=np.inf)) / half_life_days)  # the newest at full weight
    taste_C = weight_E @ vector_IC[item_row_E].astype(np.float64)
    length = np.linalg.norm(taste_C)
    if not (weight_E > 0).any() or length < 1e-6:
        return np.zeros(vector_IC.shape[1], np.float32), np.unique(item_row_E)
    return (taste_C / length).astype(np.float32), np.unique(item_row_E)
