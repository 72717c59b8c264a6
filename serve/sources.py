"""Where candidates come from. Every source proposes item rows, best first, within its own budget of candidates and milliseconds.

Shapes: D width · I catalogue · K candidates.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from data.features import EVENT_TYPE_CODE, HOUR_MS, ItemClock
from serve.contract import Candidates
from serve.index import Index
from serve.scoring import Person

logger = logging.getLogger(__name__)
DEEPEST = 1_000
HOURS_KEPT = 48
THREADS_EACH = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """What a source may cost: how many candidates it may propose, and how long it may take."""

    candidates: int
    timeout_ms: float


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


class Panel:
    """Asks several sources at once. Each has threads of its own, so that one that hangs takes none from the others."""

    def __init__(self, sources: Sequence[Source], budgets: Mapping[str, Budget]):
        unknown = sorted(set(budgets) - {source.name for source in sources})
        missing = sorted({source.name for source in sources} - set(budgets))
        if unknown or missing:
            raise ValueError(f"budgets for sources {sorted(budgets)}: there is no source {unknown}, and no budget for {missing}")
        self._bit = {source.name: bit for bit, source in enumerate(sources)}
        self._sources = {source.name: source for source in sources}
        self._budgets = dict(budgets)
        self._threads = {source.name: ThreadPoolExecutor(THREADS_EACH, f"source-{source.name}") for source in sources}

    def propose(self, names: Sequence[str], ask: Ask) -> tuple[Candidates, dict[str, str]]:
        """(what the sources `names` proposed, merged; why a source is missing, by its name).

        A source that is late is left behind, one that fails is logged; neither stops the others.
        """
        start = time.monotonic()
        futures = {
            name: self._threads[name].submit(self._sources[name].propose, ask, self._budgets[name].candidates) for name in names
        }  # fmt: skip
        proposals, missing = [], {}
        for name, future in futures.items():
            left_s = self._budgets[name].timeout_ms / 1000 - (time.monotonic() - start)
            try:
                error = future.exception(timeout=max(left_s, 0))
            except TimeoutError:
                future.cancel()
                missing[name] = "late"
                continue
            if error is not None:
                logger.error("source %s failed: %r", name, error, exc_info=error)
                missing[name] = "failed"
                continue
            proposals.append((self._bit[name], future.result()))
        return merge(proposals), missing

    def proposed_by(self, candidates: Candidates, name: str) -> np.ndarray:
        """Which candidates the source `name` proposed: bool (K)."""
        return candidates.source_K >> self._bit[name] & 1 == 1

    def close(self) -> None:
        """Take no more work. Threads of a source that hangs are left to end by themselves."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)


def merge(proposals: Sequence[tuple[int, np.ndarray]]) -> Candidates:
    """Every proposed item once, in the order of first sight, remembering in `source_K` by which bits it was proposed."""
    item_row = np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in proposals)])
    bit = np.concatenate([np.zeros(0, np.int64), *(np.full(len(rows), 1 << bit) for bit, rows in proposals)])
    item_row_K, first_K, position = np.unique(item_row, return_index=True, return_inverse=True)
    source_K = np.zeros(len(item_row_K), np.int64)
    np.bitwise_or.at(source_K, position, bit)
    order = np.argsort(first_K)
    return Candidates(item_row_K[order], source_K[order])
