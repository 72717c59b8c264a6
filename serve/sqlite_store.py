"""What is remembered of each user, in one SQLite file: histories that change with every event, and the events themselves.

An event and the history it changes are one transaction, flushed to the disk before `append` returns (WAL, `synchronous=FULL`): what was
acknowledged survives a kill and a power cut, and a half-written event never existed. The flush is most of the price: .6 ms an `append` at
the median on a virtual disk, .06 without; so send events in batches where they come in batches.

A history is the union of what the release knew at export and of every event appended since, the last `history_length` of it, ordered by
(timestamp, arrival); a release's events arrived before all others, and an event told twice counts once (`serve.histories`).
"""

import itertools
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from data.schema import EVENTS, USERS, check_table
from serve.contract import MAX_HISTORY, History, UserFields
from serve.histories import NOTHING, Seen, StoreError, pack, read_histories, read_parquet, remembered, union, unpack
from serve.store import EVENT_COLUMNS, Event

BUSY_TIMEOUT_SECONDS = 60
APPLICATION_ID, VERSION = 0x544F5752, 1
RESTORE = "restore a copy, or move the file away: a new one starts from the release's histories without the events since"
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS events (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL, item_id TEXT NOT NULL,
  event_type TEXT NOT NULL, timestamp INTEGER NOT NULL, watch_duration_seconds REAL, rating REAL,
  device TEXT, region TEXT, request_id TEXT);
CREATE TABLE IF NOT EXISTS histories (user_id TEXT NOT NULL UNIQUE, packed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, region TEXT, subscription_tier TEXT, birth_year INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (sequence INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, item TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS loaded (release TEXT NOT NULL, history_length INTEGER NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""
PUT = "INSERT INTO histories VALUES (?, ?) ON CONFLICT (user_id) DO UPDATE SET packed = excluded.packed"


NAMES, MARKS = ", ".join(EVENT_COLUMNS), ", ".join("?" * len(EVENT_COLUMNS))
INSERT = f"INSERT INTO events ({NAMES}) VALUES ({MARKS}) ON CONFLICT (event_id) DO NOTHING"


class SqliteStore:
    """Safe from any number of threads (a connection each; writers take turns) and from several processes on one machine.

    `history_length` is how many events a history keeps. A new value takes effect for everyone at the next `load_histories`.
    """

    def __init__(self, path: Path | str, *, history_length: int = MAX_HISTORY) -> None:
        """Open or create the file.

        Raises:
            StoreError: the file is no database, not one of ours, or damaged, or cannot be opened or created.
            ValueError: `history_length` is below 1.
        """
        if history_length < 1:
            raise ValueError(f"history_length is {history_length}; expected at least 1")
        self.path, self.history_length = Path(path), history_length
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._opening, self._writing, self._closed = threading.Lock(), threading.Lock(), False
        try:
            self._prepare(self._connection())
        except sqlite3.DatabaseError as error:
            self.close()
            raise self._error(error) from error
        except StoreError:
            self.close()
            raise

    def history(self, user_id: str) -> History:
        """What the user did, oldest first; empty if nothing is known. The arrays are read-only."""
        row = self._one("SELECT packed FROM histories WHERE user_id = ?", user_id)
        return self._unpacked(user_id, row[0]) if row else NOTHING

    def fields(self, user_id: str) -> UserFields | None:
        """What the release's user table says, or None if it does not list the user."""
        row = self._one("SELECT region, subscription_tier, birth_year FROM users WHERE user_id = ?", user_id)
        return UserFields(*row) if row else None

    def known(self, user_id: str) -> bool:
        """Whether the user has a history or stands in the user table."""
        either = "EXISTS (SELECT 1 FROM histories WHERE user_id = ?1) OR EXISTS (SELECT 1 FROM users WHERE user_id = ?1)"
        return bool(self._one(f"SELECT {either}", user_id)[0])

    def append(self, events: Sequence[Event]) -> int:
        """Write events and the histories they change; the number that were new. All or none, on the disk before this returns.

        An `event_id` seen before is left as it first was. Late events find their place in time.

        Raises:
            StoreError: the file cannot be written (damaged, disk full, locked for a minute); nothing of the batch was.
        """
        new: dict[str, list[Seen]] = {}
        with self._transaction() as connection:
            for event in events:
                if connection.execute(INSERT, [getattr(event, name) for name in EVENT_COLUMNS]).rowcount:
                    seen = Seen.of(event.timestamp, event.item_id, event.event_type, event.rating)
                    new.setdefault(event.user_id, []).append(seen)
            for user_id, seen in new.items():
                self._tell(connection, user_id, seen)
        return sum(map(len, new.values()))

    def load_histories(self, histories: Path | str, users: Path | str, *, version: str) -> bool:
        """Make a release's histories and users the base, and replay on it every event ever appended. Whether there was anything to do.

        The release that was loaded last is not loaded again. A reader sees the old state until all of the new is there; writers wait.
        A release that is older than the last one may be loaded (a rollback): the base is exchanged, the events stay. About 25 s for a
        million users with 50 events each.

        Raises:
            StoreError: a file is missing or unreadable, or its lists disagree or are not in order of time; the old state stays.
            data.schema.SchemaError: a column of the user table is wrong; the old state stays.
        """
        with self._transaction() as connection:
            if connection.execute("SELECT * FROM loaded").fetchall() == [(version, self.history_length)]:
                return False
            for table in ("histories", "users", "loaded"):
                connection.execute(f"DELETE FROM {table}")
            for batch in read_histories(Path(histories), length=self.history_length):
                _insert(connection, "INSERT INTO histories VALUES (?, ?)", batch, histories)
            table = check_table(read_parquet(Path(users)), USERS, table="users", source=str(users))
            _insert(connection, "INSERT INTO users VALUES (?, ?, ?, ?)", table.select(*USERS).iter_rows(), users)
            # sorted here and not by an index, which every append would pay for
            live = connection.execute("SELECT user_id, timestamp, item_id, event_type, rating FROM events ORDER BY user_id, sequence")
            for user_id, rows in itertools.groupby(live, key=lambda row: row[0]):
                self._tell(connection, user_id, (Seen.of(*row[1:]) for row in rows))
            connection.execute("INSERT INTO loaded VALUES (?, ?)", (version, self.history_length))
        self._all("PRAGMA wal_checkpoint(TRUNCATE)", ())  # the log is by now as large as the histories
        return True

    def events_since(self, sequence: int = 0, *, limit: int = 1_000_000) -> pl.DataFrame:
        """Up to `limit` appended events after number `sequence`, in order: the column `sequence`, then those of `Event`.

        Numbers rise in the order of commits and are never used again: the last one read is where the next call goes on.
        """
        query = f"SELECT sequence, {NAMES} FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
        schema = {"sequence": pl.Int64()} | {name: EVENTS[name].dtype for name in EVENT_COLUMNS}
        return pl.DataFrame(self._all(query, (sequence, limit)), schema=schema, orient="row")

    # TO BE REPLACED by the store's own: the least that new items need.
    def put_items(self, items: Mapping[str, str]) -> None:
        """Keep posted items: item_id → the item as JSON. Posted again, the newer takes the place of the earlier under a new number."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO items (item_id, item) VALUES (?, ?)", items.items())

    def items_since(self, sequence: int = 0, *, limit: int = 1_000) -> list[tuple[int, str, str]]:
        """Up to `limit` posted items after number `sequence`, in order: (number, item_id, JSON)."""
        return self._all("SELECT sequence, item_id, item FROM items WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit))

    def close(self) -> None:
        """Close every thread's connection. Any use afterwards raises `StoreError`."""
        with self._writing, self._opening:
            self._closed = True
            while self._connections:
                self._connections.pop().close()

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            with self._opening:
                if self._closed:
                    raise StoreError(f"{self.path}: the store was closed; open it again")
                connection = sqlite3.connect(
                    self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
                )  # `close` comes from another thread
                self._connections.append(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        with self._writing:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.executescript(SCHEMA)
        found = (connection.execute("PRAGMA application_id").fetchone()[0], connection.execute("PRAGMA user_version").fetchone()[0])
        if found != (APPLICATION_ID, VERSION):
            raise StoreError(f"{self.path}: a database of something else or of another version of this store; give another path")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._writing, self._connection() as connection:  # the connection commits, or rolls back what failed
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error

    def _one(self, query: str, user_id: str) -> tuple | None:
        try:
            return self._connection().execute(query, (user_id,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error

    def _all(self, query: str, values: tuple) -> list[tuple]:
        try:
            return self._connection().execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error

    def _tell(self, connection: sqlite3.Connection, user_id: str, seen: Iterable[Seen]) -> None:
        row = connection.execute("SELECT packed FROM histories WHERE user_id = ?", (user_id,)).fetchone()
        known = remembered(self._unpacked(user_id, row[0])) if row else ()
        connection.execute(PUT, (user_id, pack(union(known, seen, length=self.history_length))))

    def _unpacked(self, user_id: str, packed: bytes) -> History:
        try:
            return unpack(packed)
        except ValueError as error:  # SQLite has no checksum of its own for what lies in a page
            raise StoreError(f"{self.path}: the history of user {user_id!r} is damaged ({error}); {RESTORE}") from error

    def _error(self, error: sqlite3.DatabaseError) -> StoreError:
        if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError):
            return StoreError(f"{self.path}: {error}; see that the path is right, the disk has room and nobody holds the file for long")
        return StoreError(f"{self.path}: {error}; {RESTORE}")


def _insert(connection: sqlite3.Connection, statement: str, rows: Iterable[tuple], source: Path | str) -> None:
    try:
        connection.executemany(statement, rows)
    except sqlite3.IntegrityError as error:
        raise StoreError(f"{source}: a user without an id or one that stands twice ({error}); export the release again") from error
