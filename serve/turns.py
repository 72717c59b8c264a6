"""First come, first served: how many answers are made at a time.

All that come together would be done no sooner, and each of them as late as the last. `threading.Semaphore` keeps no order: whoever comes
while a turn is free takes it from those who wait, and of sixteen that ask at once a sixth then waits for half a second.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from serve.tally import Tally
from serve.triton import TritonError


class Turns:
    """`at_once` turns, given in the order in which they are asked for. Safe from any number of threads."""

    def __init__(self, at_once: int) -> None:
        """Raises ValueError where nobody could have a turn."""
        if at_once < 1:
            raise ValueError(f"at_once is {at_once}; expected at least 1")
        self._free, self._waiting, self._lock = at_once, deque(), threading.Lock()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def turn(self, tally: Tally) -> Iterator[None]:
        """Hold a turn for as long as the block lasts; the time until it came is the tally's stage "waiting".

        Raises:
            TritonError: it did not come before the request's time was up.
        """
        with tally.stage("waiting"):
            self._take(min(tally.deadline - time.monotonic(), threading.TIMEOUT_MAX))
        try:
            yield
        finally:
            self._give()

    def _take(self, within_s: float) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(max(within_s, 0)):
            return
        with self._lock:
            if mine.is_set():  # it came while we gave up
                return
            self._waiting.remove(mine)
        raise TritonError("the models were not asked: too many asked before, and the request's time was up")

    def _give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
