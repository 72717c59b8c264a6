"""The tables of the SQLite store's file, and how a file of an earlier version becomes one of this."""

import sqlite3

APPLICATION_ID, VERSION = 0x544F5752, 2
FIRST = (
    """CREATE TABLE IF NOT EXISTS events (
      sequence INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL, item_id TEXT NOT NULL,
      event_type TEXT NOT NULL, timestamp INTEGER NOT NULL, watch_duration_seconds REAL, rating REAL,
      device TEXT, region TEXT, request_id TEXT)""",
    "CREATE TABLE IF NOT EXISTS histories (user_id TEXT NOT NULL UNIQUE, packed BLOB NOT NULL)",
    """CREATE TABLE IF NOT EXISTS users (
      user_id TEXT PRIMARY KEY, region TEXT, subscription_tier TEXT, birth_year INTEGER) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS loaded (release TEXT NOT NULL, history_length INTEGER NOT NULL)",
)
SECOND = (
    "ALTER TABLE histories ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0",
    """UPDATE histories SET sequence = told.last FROM (SELECT user_id, max(sequence) AS last FROM events GROUP BY user_id) AS told
      WHERE histories.user_id = told.user_id""",
    "CREATE TABLE precomputed (user_id TEXT NOT NULL UNIQUE, packed BLOB NOT NULL)",
    "CREATE TABLE answers (user_id TEXT PRIMARY KEY, packed BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE slates (
      sequence INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL, packed BLOB NOT NULL)""",
    # a row for each slate and not for each item: a read joins a handful of texts
    """CREATE TABLE shown (
      user_id TEXT NOT NULL, timestamp INTEGER NOT NULL, slate INTEGER NOT NULL, item_ids TEXT NOT NULL,
      PRIMARY KEY (user_id, timestamp, slate)) WITHOUT ROWID""",
    "CREATE TABLE items (sequence INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, item TEXT NOT NULL)",
    "CREATE TABLE forgotten (fingerprint BLOB PRIMARY KEY) WITHOUT ROWID",
)
STEPS = {0: FIRST + SECOND, 1: SECOND}  # from the version found to this one


def prepare(connection: sqlite3.Connection) -> bool:
    """Make the tables of an empty file, or those that a file of an earlier version lacks; False where it is no file of ours.

    One transaction, and whoever comes second finds it done.
    """
    if _found(connection) == (APPLICATION_ID, VERSION):
        return True
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        application_id, version = _found(connection)
        if (application_id != APPLICATION_ID and tables) or version > VERSION:
            return False
        if version < VERSION:
            for statement in STEPS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
    return True


def _found(connection: sqlite3.Connection) -> tuple[int, int]:
    return connection.execute("PRAGMA application_id").fetchone()[0], connection.execute("PRAGMA user_version").fetchone()[0]
