"""How long a caller still waits: told once at the outside, kept by every call within, and sent on with each attempt."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

LEAST_S = 0.001
"""Less is no time in which anything could be answered; X-Deadline-Ms counts whole milliseconds."""
LONGEST_MS = 600_000  # the most that X-Deadline-Ms says
WAY_S, WAY_SHARE = 0.02, 0.25
"""Kept back for the way of the answer: so long, and no more than this share of what is left. A server waits for its models until the time
that it was told, and only then answers without them: told all that is left, it would always answer too late."""

_end: ContextVar[float] = ContextVar("towers_deadline", default=math.inf)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Every call within ends before `seconds` from now, whatever it asks for itself; of two deadlines the nearer holds.

    It goes where context variables go: into tasks and `asyncio.to_thread`, not into threads that are started by hand.

    >>> with deadline(float(request.headers["X-Deadline-Ms"]) / 1000):  # what our own caller still waits
    ...     slate = towers.recommend("u42")

    Raises:
        ValueError: `seconds` is no number.
    """
    if math.isnan(seconds):
        raise ValueError("seconds is not a number; expected how long may still be waited, like 0.2.")
    token = _end.set(min(_end.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _end.reset(token)


def end_within(seconds: float) -> float:
    """When a call ends that may take `seconds`, by the monotonic clock: then, or where a deadline around it says."""
    return min(_end.get(), time.monotonic() + seconds)


def told_ms(left_s: float) -> int:
    """What X-Deadline-Ms says where `left_s` is left: whole milliseconds, at least 1, and never more than is left.

    >>> told_ms(1.0), told_ms(0.04), told_ms(0.001)
    (980, 30, 1)
    """
    return min(max(1, math.floor(1000 * (left_s - min(WAY_S, WAY_SHARE * left_s)))), LONGEST_MS)


class Left(Mapping[str, float]):
    """httpcore's timeouts of one attempt, each what is left of the call when it is asked for: not what was left when the attempt began."""

    def __init__(self, end: float) -> None:
        self._end = end

    def __getitem__(self, phase: str) -> float:
        if phase not in ("connect", "read", "write", "pool"):
            raise KeyError(phase)
        return max(self._end - time.monotonic(), LEAST_S)

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "read", "write", "pool"))

    def __len__(self) -> int:
        return 4
