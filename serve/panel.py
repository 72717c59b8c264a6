"""Several sources asked at once: each within its own budget of candidates and milliseconds, each failing alone.

Shapes: K candidates.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from serve.contract import Candidates
from serve.sources import Ask, Source

logger = logging.getLogger(__name__)
THREADS_EACH = 8
LIMIT = 1_000  # candidates of one request


@dataclass(frozen=True, slots=True)
class Budget:
    """What a source may cost: how many candidates it may propose, and how long it may take."""

    candidates: int
    timeout_ms: float


BUDGETS: Mapping[str, Budget] = {
    "collaborative": Budget(300, 250),
    "content": Budget(200, 250),
    "trending": Budget(100, 250),
    "popular": Budget(100, 250),
    "editorial": Budget(50, 250),
    "explore": Budget(50, 250),
    "because": Budget(200, 250),
    "similar": Budget(500, 250),
    "begun": Budget(20, 250),
}
"""What each of `serve.sources.usual` may cost unless the configuration says otherwise."""


class Asked(NamedTuple):
    """Sources that were asked, since when (of `time.monotonic`), and what they may say."""

    start: float
    futures: Mapping[str, Future]


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
        self.missing: dict[str, str] = {}  # why each source was, the last time it was asked; none that was there

    @property
    def names(self) -> tuple[str, ...]:
        """The sources there are, in the order of their bits."""
        return tuple(self._sources)

    @property
    def own(self) -> tuple[str, ...]:
        """Those of them that are none of the usual ones."""
        return tuple(name for name in self._sources if name not in BUDGETS)

    def source(self, name: str) -> Source:
        """The source of this name."""
        return self._sources[name]

    def propose(
        self, names: Sequence[str], ask: Ask, share_of: Mapping[str, float] = MappingProxyType({})
    ) -> tuple[Candidates, dict[str, str], int]:
        """(what the sources `names` proposed, merged; why a source is missing, by its name; how many candidates were too many).

        `share_of` says what part of its budget of candidates a source may spend, all where it says nothing. A source that is late is left
        behind, one that fails is logged; neither stops the others.
        """
        return self.gather(self.begin(names, ask, share_of))

    def begin(self, names: Sequence[str], ask: Ask, share_of: Mapping[str, float] = MappingProxyType({})) -> "Asked":
        """Ask these sources and wait for none; their time runs from now. See `propose`."""
        start = time.monotonic()
        count_of = {name: self._count(name, share_of) for name in names}
        return Asked(
            start, {name: self._threads[name].submit(self._sources[name].propose, ask, count) for name, count in count_of.items() if count}
        )

    def gather(self, *asked: "Asked") -> tuple[Candidates, dict[str, str], int]:
        """What the sources asked have to say, as `propose` has it, whoever was asked first."""
        proposals, missing = [], {}
        for start, name, future in ((one.start, name, future) for one in asked for name, future in one.futures.items()):
            left_s = self._budgets[name].timeout_ms / 1000 - (time.monotonic() - start)
            try:
                error = future.exception(timeout=max(left_s, 0))
            except TimeoutError:
                future.cancel()
                missing[name] = self.missing[name] = "late"
                continue
            if error is not None:
                logger.error("source %s failed: %r", name, error, exc_info=error)
                missing[name] = self.missing[name] = "failed"
                continue
            self.missing.pop(name, None)
            proposals.append((self._bit[name], future.result()))
        candidates, cut = merge(sorted(proposals, key=lambda proposal: proposal[0]))
        return candidates, {name: missing[name] for name in self.names if name in missing}, cut

    def alone(self, name: str, ask: Ask, share_of: Mapping[str, float]) -> np.ndarray:
        """What one source proposes, best first, asked without others and waited for: int64 item rows."""
        count = self._count(name, share_of)
        return self._sources[name].propose(ask, count) if count else np.zeros(0, np.int64)

    def _count(self, name: str, share_of: Mapping[str, float]) -> int:
        return round(self._budgets[name].candidates * share_of.get(name, 1.0))

    def names_of(self, source: int) -> tuple[str, ...]:
        """The sources whose bits are set."""
        return tuple(name for name, bit in self._bit.items() if source >> bit & 1)

    def proposed_by(self, candidates: Candidates, name: str) -> np.ndarray:
        """Which candidates the source `name` proposed: bool (K)."""
        return candidates.source_K >> self._bit[name] & 1 == 1

    def counts(self, candidates: Candidates) -> dict[str, int]:
        """How many candidates each source proposed, of those that proposed any."""
        found = ((name, int(self.proposed_by(candidates, name).sum())) for name in self._bit)
        return {name: count for name, count in found if count}

    def close(self) -> None:
        """Take no more work. Threads of a source that hangs are left to end by themselves."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)


def merge(proposals: Sequence[tuple[int, np.ndarray]], limit: int = LIMIT) -> tuple[Candidates, int]:
    """(every proposed item once, in the order of first sight, remembering in `source_K` by which bits it was proposed; how many were cut).

    Of more than `limit` items those stay that a source put nearest to its top, in rounds: every source's first, then every source's
    second, and so on, an earlier source before a later one within a round. So no source is cut because it was asked last.
    """
    nothing = np.zeros(0, np.int64)
    item_row = np.concatenate([nothing, *(rows for _, rows in proposals)])
    bit = np.concatenate([nothing, *(np.full(len(rows), 1 << bit) for bit, rows in proposals)])
    rank = np.concatenate([nothing, *(np.arange(len(rows)) for _, rows in proposals)])
    item_row_K, first_K, position = np.unique(item_row, return_index=True, return_inverse=True)
    source_K = np.zeros(len(item_row_K), np.int64)
    np.bitwise_or.at(source_K, position, bit)
    order = np.argsort(first_K)
    if len(order) > limit:
        _, turn_K = np.unique(item_row[np.argsort(rank, kind="stable")], return_index=True)
        stays = np.argsort(turn_K)[:limit]
        order = stays[np.argsort(first_K[stays])]
    return Candidates(item_row_K[order], source_K[order]), len(item_row_K) - len(order)
