"""When a call is sent again, after how long, and when no more: a server that is down is not helped by more of the same."""

import math
import threading
from dataclasses import dataclass

from tenacity import RetryCallState, wait_random_exponential

from serve.client.errors import Refused, Unreachable

PASSING = (429, 503)
"""Statuses that mean "not now". Every call may be repeated: what is told carries the ids by which the server knows it again."""


@dataclass(frozen=True, slots=True)
class Retries:
    """At most `attempts` a call; before the n-th repetition a wait drawn uniformly from 0 to min(`cap_s`, `base_s`·2^(n−1)).

    Over all calls of a client, at most `reserve` repetitions at once and `share` of the calls in the long run.
    Full jitter: aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter.

    Raises:
        ValueError: a number that cannot be.
    """

    attempts: int = 4
    base_s: float = 0.05
    cap_s: float = 1.0
    share: float = 0.1
    reserve: int = 10

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.reserve < 0 or not (0 < self.base_s <= self.cap_s < math.inf) or not 0 <= self.share <= 1:
            raise ValueError(f"{self} cannot be; expected attempts ≥ 1, 0 < base_s ≤ cap_s, share from 0 to 1 and reserve ≥ 0.")

    def jitter(self) -> wait_random_exponential:
        """The wait after each attempt, as tenacity asks for it."""
        return wait_random_exponential(multiplier=self.base_s, max=self.cap_s)


NEVER = Retries(attempts=1)


class Budget:
    """A bucket of repetitions, full at first: each call puts in `share` of one, each repetition takes one out. Threads may share it."""

    def __init__(self, share: float, reserve: int) -> None:
        self._share, self._most, self._left = share, float(reserve), float(reserve)
        self._lock = threading.Lock()

    def called(self) -> None:
        """A call begins."""
        with self._lock:
            self._left = min(self._most, self._left + self._share)

    def take(self) -> bool:
        """Whether one call may be sent once more; if so, that is one less."""
        with self._lock:
            if self._left < 1 - 1e-9:  # ten times a tenth
                return False
            self._left -= 1
            return True


def passing(state: RetryCallState) -> bool:
    """Whether what went wrong may go well the next time."""
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status in PASSING)


def asked_s(state: RetryCallState) -> float:
    """How long the server asked to be left alone."""
    error = state.outcome.exception() if state.outcome else None
    return (error.retry_after_s or 0.0) if isinstance(error, Refused) else 0.0
