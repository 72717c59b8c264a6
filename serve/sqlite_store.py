"""What is remembered of each user, in one SQLite file: the store of one machine.

An event and the history it changes are one transaction, flushed to the disk before `append` returns (WAL, `synchronous=FULL`): what was
acknowledged survives a kill and a power cut, and a half-written event never existed. The flush is most of the price: .6 ms an `append` at
the median on a virtual disk, .06 without; so send events in batches where they come in batches. Logged slates are flushed alike, though
nobody waits for them: `synchronous` belongs to a connection, and one way of writing is simpler than two.

A history is kept as it is read, and told of every event (`serve.histories`); so a read is a look-up in each table, in one statement.
"""

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from data.features import DAY_MS
from data.schema import EVENTS, USERS, check_table
from serve import packing
from serve.contract import MAX_HISTORY, Known, LoggedSlate, Precomputed, UserFields
from serve.histories import NOTHING, Seen, StoreError, pack, read_histories, read_parquet, remembered, union, unpack
from serve.sqlite_schema import prepare
from serve.store import EVENT_COLUMNS, SHOWN_DAYS, Event, check_limits, wall_clock_ms

BUSY_TIMEOUT_SECONDS = 60
RESTORE = "restore a copy, or move the file away: a new one starts from the release's histories without the events since"
READ = """
SELECT history.packed, history.sequence, users.region, users.subscription_tier, users.birth_year,
  (SELECT group_concat(item_ids, char(0)) FROM shown WHERE user_id = asked.user_id AND timestamp > ?2),
  (SELECT packed FROM answers WHERE user_id = asked.user_id),
  (SELECT packed FROM precomputed WHERE user_id = asked.user_id)
FROM (SELECT ?1 AS user_id) AS asked
LEFT JOIN histories AS history ON history.user_id = asked.user_id LEFT JOIN users ON users.user_id = asked.user_id
"""
USER_IDS = """
SELECT user_id FROM histories WHERE user_id > ?1 UNION SELECT user_id FROM users WHERE user_id > ?1 ORDER BY user_id LIMIT ?2
"""
NAMES, MARKS = ", ".join(EVENT_COLUMNS), ", ".join("?" * len(EVENT_COLUMNS))
INSERT = f"INSERT INTO events ({NAMES}) VALUES ({MARKS}) ON CONFLICT (event_id) DO NOTHING"
TELL = """
INSERT INTO histories (user_id, packed, sequence) VALUES (?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET packed = excluded.packed, sequence = excluded.sequence
"""
LOG = "INSERT INTO slates (request_id, user_id, packed) VALUES (?, ?, ?) ON CONFLICT (request_id) DO NOTHING"
LOGS = ("events", "slates")
OF_A_USER = ("histories", "users", "answers", "precomputed", "shown")


class SqliteStore:
    """A `serve.store.Store`: safe from any number of threads (a connection each; writers take turns) and from several processes on one
    machine. A new `history_length` takes effect for everyone at the next `load_histories`. `now_ms` is the clock that `shown_days` go by.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        history_length: int = MAX_HISTORY,
        shown_days: float = SHOWN_DAYS,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """Open or create the file; one of an earlier version becomes one of this.

        Raises:
            StoreError: the file is no database, not one of ours, or damaged, or cannot be opened or created.
            ValueError: `history_length` is below 1, or `shown_days` not above 0.
        """
        check_limits(history_length, shown_days)
        self.path, self.history_length, self.shown_days, self._now_ms = Path(path), history_length, shown_days, now_ms
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._opening, self._writing, self._closed = threading.Lock(), threading.Lock(), False
        try:
            with self._writing:
                ours = prepare(self._connection())
        except sqlite3.DatabaseError as error:
            self.close()
            raise self._error(error) from error
        if not ours:
            self.close()
            raise StoreError(f"{self.path}: a database of something else or of another version of this store; give another path")

    def read(self, user_id: str) -> Known:
        """One statement; the arrays are read-only."""
        found = self._all(READ, (user_id, self._shown_since()))
        packed, sequence, *fields, shown, answers, precomputed = found[0]
        try:
            return Known(
                unpack(packed) if packed else NOTHING,
                UserFields(*fields),
                sequence or 0,
                packing.count_ids(shown),
                packing.unpack_answers(answers) if answers else (),
                packing.unpack_precomputed(precomputed) if precomputed else None,
            )
        except ValueError as error:  # SQLite has no checksum of its own for what lies in a page
            raise self._damaged(f"what is kept of user {user_id!r}", error) from error

    def append(self, events: Sequence[Event]) -> int:
        """Late events find their place in time.

        Raises:
            StoreError: the file cannot be written (damaged, disk full, locked for a minute); nothing of the batch was.
        """
        new: dict[str, list[Seen]] = {}
        last: dict[str, int] = {}
        with self._transaction() as connection:
            for event in events:
                written = connection.execute(INSERT, [getattr(event, name) for name in EVENT_COLUMNS])
                if written.rowcount:
                    seen = Seen.of(event.timestamp, event.item_id, event.event_type, event.rating)
                    new.setdefault(event.user_id, []).append(seen)
                    last[event.user_id] = written.lastrowid
            for user_id, seen in new.items():
                self._tell(connection, user_id, seen, last[user_id])
        return sum(map(len, new.values()))

    def events_since(self, sequence: int = 0, *, limit: int = 1_000_000) -> pl.DataFrame:
        """As the contract says."""
        query = f"SELECT sequence, {NAMES} FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
        schema = {"sequence": pl.Int64()} | {name: EVENTS[name].dtype for name in EVENT_COLUMNS}
        return pl.DataFrame(self._all(query, (sequence, limit)), schema=schema, orient="row")

    def load_histories(self, histories: Path | str, users: Path | str, *, version: str) -> bool:
        """The release that was loaded last is not loaded again. A reader sees the old state until all of the new is there; writers wait.

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
            connection.execute("DELETE FROM shown WHERE timestamp <= ?", (self._shown_since(),))
            gone = {row[0] for row in connection.execute("SELECT fingerprint FROM forgotten")}
            for batch in read_histories(Path(histories), length=self.history_length):
                _insert(connection, "INSERT INTO histories (user_id, packed) VALUES (?, ?)", packing.without(gone, batch), histories)
            table = check_table(read_parquet(Path(users)), USERS, table="users", source=str(users))
            rows = packing.without(gone, table.select(*USERS).iter_rows())
            _insert(connection, "INSERT INTO users VALUES (?, ?, ?, ?)", rows, users)
            # sorted here and not by an index, which every append would pay for
            live = connection.execute(
                "SELECT user_id, sequence, timestamp, item_id, event_type, rating FROM events ORDER BY user_id, sequence"
            )
            for user_id, told in itertools.groupby(live, key=lambda row: row[0]):
                told = list(told)
                self._tell(connection, user_id, [Seen.of(*row[2:]) for row in told], told[-1][1])
            connection.execute("INSERT INTO loaded VALUES (?, ?)", (version, self.history_length))
        self._all("PRAGMA wal_checkpoint(TRUNCATE)", ())  # the log is by now as large as the histories
        return True

    def user_ids(self, *, after: str = "", limit: int = 1_000) -> list[str]:
        """As the contract says."""
        return [row[0] for row in self._all(USER_IDS, (after, limit))]

    def put_precomputed(self, slates: Mapping[str, Precomputed]) -> None:
        """One transaction, however many they are."""
        rows = [(user_id, packing.pack_precomputed(slate)) for user_id, slate in slates.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO precomputed VALUES (?, ?)", rows)

    def put_answers(self, user_id: str, answers: Sequence[tuple[str, bool]]) -> None:
        """As the contract says."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (user_id, packing.pack_answers(answers)))

    def log_slates(self, slates: Sequence[LoggedSlate]) -> None:
        """One transaction. What its users were shown too long ago to count is cleared away by the way.

        Raises:
            ValueError: an item id is empty or holds a NUL; nothing is logged.
        """
        rows = [(slate, packing.join_ids(slate.item_ids), packing.pack_slate(slate)) for slate in slates]
        since = self._shown_since()
        with self._transaction() as connection:
            for slate, item_ids, packed in rows:
                written = connection.execute(LOG, (slate.request_id, slate.user_id, packed))
                if written.rowcount and item_ids:
                    connection.execute("DELETE FROM shown WHERE user_id = ? AND timestamp <= ?", (slate.user_id, since))
                    connection.execute(
                        "INSERT INTO shown VALUES (?, ?, ?, ?)", (slate.user_id, slate.timestamp, written.lastrowid, item_ids)
                    )

    def slates_since(self, sequence: int = 0, *, limit: int = 100_000) -> list[tuple[int, LoggedSlate]]:
        """As the contract says."""
        found = self._all("SELECT sequence, packed FROM slates WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit))
        try:
            return [(number, packing.unpack_slate(packed)) for number, packed in found]
        except ValueError as error:
            raise self._damaged(f"a slate after number {sequence}", error) from error

    def put_items(self, items: Mapping[str, str]) -> None:
        """As the contract says; durable before this returns."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO items (item_id, item) VALUES (?, ?)", items.items())

    def items_since(self, sequence: int = 0, *, limit: int = 1_000) -> list[tuple[int, str, str]]:
        """As the contract says."""
        return self._all("SELECT sequence, item_id, item FROM items WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit))

    def forget(self, user_id: str) -> dict[str, int]:
        """The logs are searched from end to end before anybody is made to wait. What is erased is overwritten in the file; what an earlier
        version of a row left in its free pages goes when they are used again, or at once with SQLite's `VACUUM`.
        """
        found, last = {}, {}
        for log in LOGS:
            found[log] = self._all(f"SELECT sequence FROM {log} WHERE user_id = ?", (user_id,))
            last[log] = max((row[0] for row in found[log]), default=0)
        with self._transaction() as connection:
            counts = packing.count_known(self.read(user_id))
            for log in LOGS:
                later = connection.execute(f"SELECT sequence FROM {log} WHERE sequence > ? AND user_id = ?", (last[log], user_id))
                erased = [*found[log], *later.fetchall()]
                counts[log] = connection.executemany(f"DELETE FROM {log} WHERE sequence = ?", erased).rowcount if erased else 0
            for table in OF_A_USER:
                connection.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
            connection.execute("INSERT OR IGNORE INTO forgotten VALUES (?)", (packing.fingerprint(user_id),))
        self._all("PRAGMA wal_checkpoint(TRUNCATE)", ())
        return counts

    def ping(self) -> None:
        """As the contract says."""
        self._all("SELECT count(*) FROM loaded", ())

    def close(self) -> None:
        """Close every thread's connection. Any use afterwards raises `StoreError`."""
        with self._writing, self._opening:
            self._closed = True
            while self._connections:
                self._connections.pop().close()

    def _shown_since(self) -> int:
        return self._now_ms() - round(self.shown_days * DAY_MS)

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
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")  # who is forgotten leaves no bytes behind
            self._local.connection = connection
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._writing, self._connection() as connection:  # the connection commits, or rolls back what failed
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error

    def _all(self, query: str, values: tuple) -> list[tuple]:
        try:
            return self._connection().execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error

    def _tell(self, connection: sqlite3.Connection, user_id: str, seen: Iterable[Seen], sequence: int) -> None:
        row = connection.execute("SELECT packed FROM histories WHERE user_id = ?", (user_id,)).fetchone()
        try:
            known = remembered(unpack(row[0])) if row else ()
        except ValueError as error:
            raise self._damaged(f"what is kept of user {user_id!r}", error) from error
        connection.execute(TELL, (user_id, pack(union(known, seen, length=self.history_length)), sequence))

    def _damaged(self, what: str, error: ValueError) -> StoreError:
        return StoreError(f"{self.path}: {what} is damaged ({error}); {RESTORE}")

    def _error(self, error: sqlite3.DatabaseError) -> StoreError:
        if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError):
            return StoreError(f"{self.path}: {error}; see that the path is right, the disk has room and nobody holds the file for long")
        return StoreError(f"{self.path}: {error}; {RESTORE}")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """WAL, which several may ask of one file at once: SQLite refuses all but the first of them without waiting, whatever the timeout."""
    give_up = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.005)


def _insert(connection: sqlite3.Connection, statement: str, rows: Iterable[tuple], source: Path | str) -> None:
    try:
        connection.executemany(statement, rows)
    except sqlite3.IntegrityError as error:
        raise StoreError(f"{source}: a user without an id or one that stands twice ({error}); export the release again") from error
