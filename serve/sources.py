"""Where candidates come from. Every source proposes item rows, best first, within its own budget of candidates and milliseconds.

Shapes: D width · I catalogue · K candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from data.features import EVENT_TYPE_CODE, HOUR_MS, ItemClock
from serve.index import Index
from serve.scoring import Person

DEEPEST = 1_000
HOURS_KEPT = 48


@dataclass(frozen=True, slots=True)
class Ask:
    """What a source may look at. `query_BD` is None while no model answers, `item_row` where no item was named."""

    who: Person
    query_BD: np.ndarray | None
    item_row: int | None


class Source(Protocol):
    """Anything with a name that proposes at most `count` item rows (int64), best first."""

    name: str

    def propose(self, ask: Ask, count: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Collaborative:
    """Items whose retrieval vectors lie nearest to the user's query."""

    index: Index
    name: str = "collaborative"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        _, item_row_BK = self.index.search(ask.query_BD, count)
        return item_row_BK[0]


@dataclass(frozen=True, slots=True)
class Similar:
    """Items whose retrieval vectors lie nearest to that of the item the request names. `vector_ID` may be a memory map."""

    index: Index
    vector_ID: np.ndarray
    name: str = "similar"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        _, item_row_BK = self.index.search(self.vector_ID[[ask.item_row]].astype(np.float32), count + 1)
        return item_row_BK[0][item_row_BK[0] != ask.item_row][:count]


@dataclass(frozen=True, slots=True)
class HalfWatched:
    """Items the user began (`watch`) and did not finish since, the newest first."""

    name: str = "half watched"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        newest_first = ask.who.item_row_E[::-1]
        item_row, last = np.unique(newest_first, return_index=True)
        begun = ask.who.event_code_E[::-1][last] == EVENT_TYPE_CODE["watch"]
        return item_row[begun][np.argsort(last[begun])][:count].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Popular:
    """What most people took up lately, as it stood before the hour of the request; never an item nobody took up."""

    top: Callable[[int], np.ndarray]
    last_hour: int
    name: str = "popular"

    @classmethod
    def of(cls, clock: ItemClock, item_count: int) -> "Popular":
        """Rank the catalogue by `clock` once for each hour asked about; the last hours asked are remembered.

        After the log's last hour every count decays by the same factor, so the order stands still: all later requests share
        the ranking made here, off the request path, and never find counts that have decayed below what a float can hold.
        """
        last_hour = int((clock.key & 0xFFFFFFFF).max(initial=-1)) + 1

        @lru_cache(maxsize=HOURS_KEPT)
        def top(hour: int) -> np.ndarray:
            popularity_I, _ = clock.before(np.arange(item_count), np.full(item_count, hour))
            deepest = np.argpartition(-popularity_I, min(DEEPEST, item_count) - 1)[:DEEPEST]
            ranked = deepest[np.lexsort((deepest, -popularity_I[deepest]))]
            return ranked[popularity_I[ranked] > 0]

        top(last_hour)
        return cls(top, last_hour)

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        return self.top(min(ask.who.now // HOUR_MS, self.last_hour))[:count]
