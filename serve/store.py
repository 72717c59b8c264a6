"""What is remembered of users: one contract for every store. `serve.sqlite_store` keeps it in a file, `serve.redis_store` in a server.

What a store promises, whichever it is (`tests/test_serve_store.py` holds them all to it):

- An event and the history it changes are one step, on the disk before `append` returns: kill -9 at any moment loses no acknowledged event
  and doubles none. An `event_id` seen before is left as it first was.
- A history is the union of what the release knew at export and of every event appended since, ordered by (timestamp, arrival).
- `read` is one round trip, and sees every event that any process appended before it.
- Nothing but `StoreError` comes out of a store that is away, slow beyond its deadline, or damaged.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from data.features import EVENT_TYPE_CODE
from serve.contract import MAX_HISTORY, MAX_ID_BYTES, Known, LoggedSlate, Precomputed
from serve.histories import StoreError

__all__ = ["EVENT_COLUMNS", "SHOWN_DAYS", "Event", "Store", "StoreError", "check_limits", "open_store", "wall_clock_ms"]
SHOWN_DAYS, TIMEOUT_MS = 7.0, 100.0
SERVERS = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class Event:
    """Something a user did. `event_id` is the sender's and makes sending twice harmless; `timestamp` is ms UTC.

    Raises:
        ValueError: an id that is empty, too long or holds a NUL, an unknown type, a number out of range, or a `rate` without a rating.
    """

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    timestamp: int
    watch_duration_seconds: float | None = None
    rating: float | None = None
    device: str | None = None
    region: str | None = None
    request_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("event_id", "user_id", "item_id"):
            text = getattr(self, name)
            if not 0 < len(text.encode()) <= MAX_ID_BYTES or "\0" in text:
                raise ValueError(f"{name} is {text[:40]!r}; expected 1 to {MAX_ID_BYTES} bytes of text without NUL")
        if self.event_type not in EVENT_TYPE_CODE:
            raise ValueError(f"event_type is {self.event_type!r}; expected one of {', '.join(EVENT_TYPE_CODE)}")
        if not 0 <= self.timestamp < 2**63:
            raise ValueError(f"timestamp is {self.timestamp}; expected milliseconds since 1970 UTC")
        if self.watch_duration_seconds is not None and not 0 <= self.watch_duration_seconds < math.inf:
            raise ValueError(f"watch_duration_seconds is {self.watch_duration_seconds}; expected a finite number of at least 0")
        if not (math.isfinite(self.rating) if self.rating is not None else self.event_type != "rate"):
            raise ValueError(f"rating of a {self.event_type!r} event is {self.rating}; expected a finite number")


EVENT_COLUMNS = tuple(field.name for field in dataclasses.fields(Event))


class Store(Protocol):
    """Safe from any number of threads and, for the same place, from several processes. Every method may raise `StoreError`.

    `history_length` is how many events a history keeps, `shown_days` how many days back `Known.shown` counts: from the clock that the store
    was opened with, which is the wall's unless another was given.
    """

    history_length: int
    shown_days: float

    def read(self, user_id: str) -> Known:
        """All that is known of a user, in one round trip. A stranger has an empty history and no fields."""
        ...

    def append(self, events: Sequence[Event]) -> int:
        """Write events and the histories they change; the number that were new. All or none, durable before this returns."""
        ...

    def events_since(self, sequence: int = 0, *, limit: int = 1_000_000) -> pl.DataFrame:
        """Up to `limit` appended events after number `sequence`, in order: the column `sequence`, then those of `Event`.

        Numbers rise in the order of commits and are never used again: the last one read is where the next call goes on.
        """
        ...

    def load_histories(self, histories: Path | str, users: Path | str, *, version: str) -> bool:
        """Make a release's histories and users the base, and replay on it every event ever appended. Whether there was anything to do."""
        ...

    def user_ids(self, *, after: str = "", limit: int = 1_000) -> list[str]:
        """The next users that have a history or stand in the user table, in order of their ids (by UTF-8 bytes), after `after`."""
        ...

    def put_precomputed(self, slates: Mapping[str, Precomputed]) -> None:
        """Keep a slate for each of these users, in place of an earlier one."""
        ...

    def put_answers(self, user_id: str, answers: Sequence[tuple[str, bool]]) -> None:
        """Keep what a user answered in the quiz (item_id, liked), in place of earlier answers."""
        ...

    def log_slates(self, slates: Sequence[LoggedSlate]) -> None:
        """Append slates to the log of what was shown, and count their items as shown to their users at their timestamps.

        A `request_id` logged before is left as it first was, and not counted again. Each slate and its counts are one step; where
        writing fails, those before it may stay: log them again.
        """
        ...

    def slates_since(self, sequence: int = 0, *, limit: int = 100_000) -> list[tuple[int, LoggedSlate]]:
        """Up to `limit` logged slates after number `sequence`, in order, each with its number."""
        ...

    def put_items(self, items: Mapping[str, str]) -> None:
        """Keep posted items: item_id → the item as JSON. Posted again, the newer takes the place of the earlier under a new number."""
        ...

    def items_since(self, sequence: int = 0, *, limit: int = 1_000) -> list[tuple[int, str, str]]:
        """Up to `limit` posted items after number `sequence`, in order: (number, item_id, JSON)."""
        ...

    def forget(self, user_id: str) -> dict[str, int]:
        """Erase a user: how many of each were erased (events, history, fields, answers, precomputed, slates, shown).

        A SHA-256 of the id stays, so that no release loaded later brings the history or the fields back. An event appended afterwards
        starts the user anew, from nothing but what is appended; an event erased and sent again is such an event.
        """
        ...

    def ping(self) -> None:
        """Raises StoreError where the store cannot answer now."""
        ...

    def close(self) -> None:
        """Let go of connections. Any use afterwards raises `StoreError`."""
        ...


def wall_clock_ms() -> int:
    """Now, ms UTC."""
    return time.time_ns() // 1_000_000


def check_limits(history_length: int, shown_days: float) -> None:
    """Raises ValueError where a store could not keep to them."""
    if history_length < 1:
        raise ValueError(f"history_length is {history_length}; expected at least 1")
    if not 0 < shown_days < math.inf:
        raise ValueError(f"shown_days is {shown_days}; expected a finite number above 0")


def open_store(
    place: str | Path,
    *,
    history_length: int = MAX_HISTORY,
    shown_days: float = SHOWN_DAYS,
    timeout_ms: float = TIMEOUT_MS,
    now_ms: Callable[[], int] = wall_clock_ms,
) -> Store:
    """The store at a place: a redis://, rediss:// or unix:// url is a Redis server's, anything else the path of an SQLite file.

    `timeout_ms` is what a read from a server may take.

    Raises:
        StoreError: it cannot be opened; or redis-py, which only the first kind needs, is not installed.
        ValueError: `history_length` is below 1, or `shown_days` not above 0.
    """
    if not str(place).startswith(SERVERS):
        from serve.sqlite_store import SqliteStore

        return SqliteStore(place, history_length=history_length, shown_days=shown_days, now_ms=now_ms)
    try:
        from serve.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise StoreError(f"{place}: {error}; install it: pip install 'towers[redis]'") from error
    return RedisStore(str(place), history_length=history_length, shown_days=shown_days, timeout_ms=timeout_ms, now_ms=now_ms)
