"""The online gauge of the index: a sample of live queries is searched exactly too, off the request path.

What the index finds of the exact search is a number of operations, not of faith: a catalogue drifts, trained queries move, and recall with
them.
"""

import queue
import random
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from serve.release import Release

DEPTH, BLOCK = 100, 32_768


class Judge:
    """Samples queries and tells the share of the exact `DEPTH` nearest that the index finds, one query at a time.

    `tell` is called with that share; at most one query waits, and others are passed over meanwhile.
    """

    def __init__(self, release: Release, *, share: float, tell: Callable[[float], None]) -> None:
        """`share` of the live queries are judged."""
        self._release, self._share, self._tell = release, share, tell
        self._waiting: queue.Queue[np.ndarray | None] = queue.Queue(1)
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self._thread.start()

    def offer(self, query_BD: np.ndarray) -> None:
        """Maybe judge this query, later. Never waits. One that is no numbers has no neighbours to be judged by."""
        if random.random() < self._share and self._waiting.empty() and np.isfinite(query_BD[:1]).all():
            try:
                self._waiting.put_nowait(query_BD[:1].copy())
            except queue.Full:
                return  # another thread's query was first

    def close(self) -> None:
        """End after the query at hand."""
        self._share = 0.0
        with suppress(queue.Empty):
            self._waiting.get_nowait()  # nobody is left to be told of it
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (query_BD := self._waiting.get()) is not None:
            self._tell(share_found(self._release, query_BD))


def share_found(release: Release, query_BD: np.ndarray) -> float:
    """The share of the `DEPTH` items of the largest inner product with the query (1, D) that the index finds among its own `DEPTH`.

    Items that tie with the last count as found alike.
    """
    depth = min(DEPTH, len(release.catalogue))
    _, found_BK = release.index.search(query_BD, depth)
    width, count = release.manifest.width, len(release.catalogue)  # after the search: it may have found what was added meanwhile
    rows = np.asarray(release.items)
    score_I = np.concatenate(
        [rows[start : min(start + BLOCK, count), width:].astype(np.float32) @ query_BD[0] for start in range(0, count, BLOCK)]
    )
    least = np.partition(score_I, count - depth)[count - depth]
    return float((score_I[found_BK[0]] >= least - 1e-6).sum() / depth)
