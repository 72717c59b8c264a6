"""The clock that requests are answered by: the wall's, or one that stood at the end of the log when serving began."""

import logging
import threading
import time
from typing import Literal

from data.features import DAY_MS, HOUR_MS

logger = logging.getLogger(__name__)
STALE_DAYS = 30


class Clock:
    """ms UTC. `kind` is now, or log-end: then time runs on from the first log's end that the clock is told."""

    def __init__(self, kind: Literal["now", "log-end"]) -> None:
        self._kind, self._offset, self._told = kind, 0, False
        self._turn = threading.Lock()

    def log_ended(self, last_hour: int) -> None:
        """A release's log ended before this hour (since 1970 UTC). Only the first one told sets the clock."""
        with self._turn:
            if self._told:
                return
            self._told = True
            began, log_end = _wall_ms(), last_hour * HOUR_MS
            if self._kind == "log-end":
                self._offset = log_end - began
            elif (stale_days := (began - log_end) // DAY_MS) > STALE_DAYS:
                logger.warning(
                    "the log ended %s days ago and its popularity has faded; time=log-end serves as if it had just ended", f"{stale_days:,}"
                )

    def now_ms(self) -> int:
        """The time now."""
        return _wall_ms() + self._offset


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
