"""What is remembered of each user, in a Redis server: the store of a fleet.

The server must write every command to its append-only file and flush it before it answers (`appendonly yes`, `appendfsync always`); so what
`append` acknowledged survives a kill of either side. One script logs a batch of events and tells them to the users' live histories, all or
none. What a release knows is loaded beside it, and the two are joined by whoever reads (`serve.histories.joined`): one round trip.

Nothing is tried twice: a server that is away costs a millisecond, one that hangs its deadline, and the next call tries again by itself.
"""

import itertools
import json
import logging
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from data.features import DAY_MS
from data.schema import EVENTS
from serve import packing, redis_base, redis_scripts
from serve.contract import MAX_HISTORY, Known, LoggedSlate, Precomputed, UserFields
from serve.histories import NOTHING, Seen, StoreError, joined, unpack
from serve.store import EVENT_COLUMNS, SHOWN_DAYS, TIMEOUT_MS, Event, check_limits, wall_clock_ms

logger = logging.getLogger(__name__)
WRITE_DEADLINES = 10
PATIENT_MS = 30_000
ENTRIES_AT_ONCE, SLATES_AT_ONCE = 10_000, 100
TIME, SEEN, LIVE = struct.Struct(">Q"), struct.Struct(">fB"), struct.Struct(">QQfB")
STAMP_BYTES = 16  # of a timestamp and a number, before what was shown
LONGEST_MS = 2**40  # of an expiry, which a slate from a far future could otherwise make larger than the server takes
DURABLE = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
REMEDY = "see that redis-server is up and reached from here, and has memory and disk; nothing needs to be restarted on this side"
TOLD = EVENT_COLUMNS[1:]


class RedisStore:
    """A `serve.store.Store`: safe from any number of threads, processes and machines. `now_ms` is the clock that `shown_days` go by.

    A read or a ping has `timeout_ms`; what is written waits for the server's disk, and has ten times as long; loading, forgetting, bulk
    writes and reading a log half a minute for each step. Of a user's live events the last 5,000 are told (or `history_length`, where that
    is more); the log keeps all.
    """

    def __init__(
        self,
        url: str,
        *,
        history_length: int = MAX_HISTORY,
        shown_days: float = SHOWN_DAYS,
        timeout_ms: float = TIMEOUT_MS,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """Connect, and see that the server would not lose what it acknowledges.

        Raises:
            StoreError: the url is none, the server does not answer, or is not set to flush every command, or may evict keys.
            ValueError: `history_length` is below 1, or `shown_days` not above 0.
        """
        check_limits(history_length, shown_days)
        self.history_length, self.shown_days, self._now_ms, self._closed = history_length, shown_days, now_ms, False
        try:
            self.url = _without_password(url)
            self._reading, self._writing, self._patient = (
                _client(url, timeout_ms=milliseconds) for milliseconds in (timeout_ms, WRITE_DEADLINES * timeout_ms, PATIENT_MS)
            )
        except ValueError as error:
            raise StoreError(f"{url!r} is no url of a Redis server ({error}); expected redis://host:6379/0") from error
        self._read = self._reading.register_script(redis_scripts.READ)
        self._append = self._writing.register_script(redis_scripts.APPEND)
        self._log_slates = self._writing.register_script(redis_scripts.LOG_SLATES)
        self._put_items = self._writing.register_script(redis_scripts.PUT_ITEMS)
        self._items_since = self._reading.register_script(redis_scripts.ITEMS_SINCE)
        self._user_ids = self._reading.register_script(redis_scripts.USER_IDS)
        self._forget = self._patient.register_script(redis_scripts.FORGET)
        try:
            self._check_durable()
        except StoreError:
            self.close()
            raise

    def read(self, user_id: str) -> Known:
        """One script."""
        with self._answering():
            found = self._read(args=(user_id, self.history_length, TIME.pack(self._shown_from())))
        base, fields, live, sequence, shown, answers, precomputed = found
        try:
            return Known(
                joined(unpack(base) if base else NOTHING, [_seen(member) for member in live], length=self.history_length),
                packing.unpack_fields(fields) if fields else UserFields(),
                int(sequence or 0),
                packing.count_ids(b"\0".join(member[STAMP_BYTES:] for member in shown).decode()),
                packing.unpack_answers(answers) if answers else (),
                packing.unpack_precomputed(precomputed) if precomputed else None,
            )
        except (ValueError, struct.error) as error:
            raise StoreError(f"{self.url}: what is kept of user {user_id!r} is damaged ({error}); restore a copy") from error

    def append(self, events: Sequence[Event]) -> int:
        """One script. Where it timed out the events may be written or not: send them again."""
        arguments: list[str | bytes | int] = [max(self.history_length, MAX_HISTORY)]
        for event in events:
            seen = Seen.of(event.timestamp, event.item_id, event.event_type, event.rating)
            packed = SEEN.pack(np.float32(seen.rating), seen.code) + seen.item_id.encode()
            told = json.dumps([getattr(event, name) for name in TOLD], ensure_ascii=False)
            arguments += (event.event_id, event.user_id, TIME.pack(event.timestamp), packed, told)
        with self._answering():
            return self._append(args=arguments)

    def events_since(self, sequence: int = 0, *, limit: int = 1_000_000) -> pl.DataFrame:
        """As the contract says."""
        rows = [(number, event_id.decode(), *json.loads(told)) for number, event_id, told in self._entries("events", sequence, limit)]
        schema = {"sequence": pl.Int64()} | {name: EVENTS[name].dtype for name in EVENT_COLUMNS}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def load_histories(self, histories: Path | str, users: Path | str, *, version: str) -> bool:
        """The release that was loaded last is not loaded again. A reader sees the old state until all of the new is there; nobody waits
        but another process that loads or forgets. For as long as it takes the server holds both.

        A release that is older than the last one may be loaded (a rollback): the base is exchanged, the events stay.

        Raises:
            StoreError: a file is missing or unreadable, or its lists disagree or are not in order of time; the old state stays.
            data.schema.SchemaError: a column of the user table is wrong; the old state stays.
        """
        with self._answering(), redis_base.locked(self._patient) as lock:
            return redis_base.load(self._patient, lock, Path(histories), Path(users), version=version, length=self.history_length)

    def user_ids(self, *, after: str = "", limit: int = 1_000) -> list[str]:
        """As the contract says."""
        with self._answering():
            live, based = self._user_ids(args=(after, limit))
        return [user_id.decode() for user_id in sorted({*live, *based})[:limit]]

    def put_precomputed(self, slates: Mapping[str, Precomputed]) -> None:
        """One command, however many they are."""
        if slates:
            packed = {f"towers:precomputed:{user_id}": packing.pack_precomputed(slate) for user_id, slate in slates.items()}
            with self._answering():
                self._patient.mset(packed)

    def put_answers(self, user_id: str, answers: Sequence[tuple[str, bool]]) -> None:
        """As the contract says."""
        with self._answering():
            self._writing.set(f"towers:answers:{user_id}", packing.pack_answers(answers))

    def log_slates(self, slates: Sequence[LoggedSlate]) -> None:
        """A script for every hundred, as nobody else is answered meanwhile. What its users were shown too long ago to count is cleared away
        by the way, and of those who stay away by expiry.

        Raises:
            ValueError: an item id is empty or holds a NUL, or a timestamp is below 0; nothing is logged.
        """
        since, told = self._shown_from(), []
        for slate in slates:
            if not 0 <= slate.timestamp < 2**63:
                raise ValueError(f"timestamp of slate {slate.request_id!r} is {slate.timestamp}; expected milliseconds since 1970 UTC")
            items, counts_ms = packing.join_ids(slate.item_ids), slate.timestamp - since + 1
            keep_ms = 0 if counts_ms <= 0 else min(counts_ms + DAY_MS, LONGEST_MS)  # a day more, for the server's clock need not be ours
            told.append((slate.request_id, slate.user_id, TIME.pack(slate.timestamp), items, keep_ms, packing.pack_slate(slate)))
        for start in range(0, len(told), SLATES_AT_ONCE):
            with self._answering():
                self._log_slates(args=[TIME.pack(since), *itertools.chain(*told[start : start + SLATES_AT_ONCE])])

    def slates_since(self, sequence: int = 0, *, limit: int = 100_000) -> list[tuple[int, LoggedSlate]]:
        """As the contract says."""
        try:
            return [(number, packing.unpack_slate(told)) for number, _, told in self._entries("slates", sequence, limit)]
        except ValueError as error:
            raise StoreError(f"{self.url}: a slate after number {sequence} is damaged ({error}); restore a copy") from error

    def put_items(self, items: Mapping[str, str]) -> None:
        """As the contract says; durable before this returns."""
        with self._answering():
            self._put_items(args=[text for item in items.items() for text in item])

    def items_since(self, sequence: int = 0, *, limit: int = 1_000) -> list[tuple[int, str, str]]:
        """As the contract says."""
        with self._answering():
            found = self._items_since(args=(sequence, limit))
        return [(int(number), item_id.decode(), item.decode()) for number, item_id, item in found]

    def forget(self, user_id: str) -> dict[str, int]:
        """The append-only file holds what was erased until it is rewritten, which the server does as it grows, or at `BGREWRITEAOF`."""
        with self._answering(), redis_base.locked(self._patient):
            counts = packing.count_known(self.read(user_id))
            counts["events"], counts["slates"] = self._forget(args=(user_id, packing.fingerprint(user_id)))
        return counts

    def ping(self) -> None:
        """As the contract says."""
        with self._answering():
            self._reading.ping()

    def close(self) -> None:
        """As the contract says."""
        self._closed = True
        for client in (self._reading, self._writing, self._patient):
            client.close()

    def _shown_from(self) -> int:
        """The first ms that counts."""
        return max(self._now_ms() - round(self.shown_days * DAY_MS) + 1, 0)

    def _entries(self, log: str, sequence: int, limit: int) -> Iterator[tuple[int, bytes, bytes]]:
        while limit > 0:
            with self._answering():
                found = self._patient.xrange(f"towers:{log}", f"({sequence}-0", count=min(limit, ENTRIES_AT_ONCE))
            for entry, fields in found:
                sequence = int(entry.partition(b"-")[0])
                yield sequence, fields[b"id"], fields[b"told"]
            limit = limit - len(found) if found else 0

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if self._closed:
            raise StoreError(f"{self.url}: the store was closed; open it again")
        try:
            yield
        except redis.RedisError as error:
            raise StoreError(f"{self.url}: {error}; {REMEDY}") from error

    def _check_durable(self) -> None:
        self.ping()
        try:
            with self._answering():
                found = {name: value for pattern in (*DURABLE, "maxmemory*") for name, value in self._reading.config_get(pattern).items()}
        except StoreError as error:
            if not isinstance(error.__cause__, redis.ResponseError):
                raise
            logger.warning(
                "%s does not say how it is set (%s); events are safe only with %s and without eviction", self.url, error.__cause__, DURABLE
            )
            return
        for name, value in DURABLE.items():
            if found[name] != value:
                raise StoreError(f"{self.url}: {name} is {found[name]!r}, so acknowledged events could be lost; set it to {value!r}")
        if found["maxmemory"] != "0" and found["maxmemory-policy"] != "noeviction":
            raise StoreError(f"{self.url}: maxmemory-policy {found['maxmemory-policy']!r} would evict histories; set it to 'noeviction'")


def _client(url: str, *, timeout_ms: float) -> redis.Redis:
    seconds = timeout_ms / 1000
    return redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0), protocol=2)


def _without_password(url: str) -> str:
    password = urlsplit(url).password
    return url if password is None else url.replace(f":{password}@", ":…@")


def _seen(member: bytes) -> Seen:
    timestamp, _, rating, code = LIVE.unpack_from(member)
    return Seen(timestamp, member[LIVE.size :].decode(), code, rating)
