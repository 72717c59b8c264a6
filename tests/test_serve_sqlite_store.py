"""The SQLite store's file: an earlier version's becomes this one's, and what is no store or damaged is named."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data.features import DAY_MS
from serve.contract import LoggedSlate
from serve.histories import Seen, pack
from serve.sqlite_store import SqliteStore
from serve.store import Event, StoreError
from tests.stores import CLICK, WATCH, event, parquet

FIRST_VERSION = """
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL, item_id TEXT NOT NULL,
  event_type TEXT NOT NULL, timestamp INTEGER NOT NULL, watch_duration_seconds REAL, rating REAL,
  device TEXT, region TEXT, request_id TEXT);
CREATE TABLE histories (user_id TEXT NOT NULL UNIQUE, packed BLOB NOT NULL);
CREATE TABLE users (user_id TEXT PRIMARY KEY, region TEXT, subscription_tier TEXT, birth_year INTEGER) WITHOUT ROWID;
CREATE TABLE loaded (release TEXT NOT NULL, history_length INTEGER NOT NULL);
INSERT INTO events (event_id, user_id, item_id, event_type, timestamp) VALUES
  ('e1', 'u', 'i1', 'watch', 1), ('e2', 'v', 'i2', 'watch', 2), ('e3', 'u', 'i3', 'watch', 3);
INSERT INTO users VALUES ('u', 'DE', NULL, 1980);
INSERT INTO loaded VALUES ('v1', 5000);
PRAGMA application_id = 1414485842;
PRAGMA user_version = 1;
"""


@pytest.fixture
def first_version(tmp_path):
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.executescript(FIRST_VERSION)
    told = {
        "u": [Seen(1, "i1", WATCH, np.nan), Seen(3, "i3", WATCH, np.nan)],
        "v": [Seen(2, "i2", WATCH, np.nan)],
        "w": [Seen(1, "b", CLICK, 1)],
    }
    with connection:
        connection.executemany("INSERT INTO histories VALUES (?, ?)", [(user, pack(seen)) for user, seen in told.items()])
    connection.close()
    return path


def test_a_file_of_the_first_version_keeps_what_it_knew(first_version, tmp_path):
    store = SqliteStore(first_version)
    known = store.read("u")
    assert (known.history.item_ids, known.sequence, known.fields.region, known.shown) == (("i1", "i3"), 3, "DE", {})
    assert [store.read(user).sequence for user in ("v", "w", "x")] == [2, 0, 0]
    assert not store.load_histories(*parquet(tmp_path / "v1", {}), version="v1")
    store.append([event(4)])
    store.log_slates([LoggedSlate("r", "u", 2**62, "a", "v1", "p", None, None, ("s",), (), (), None)])
    store.close()
    store = SqliteStore(first_version)
    known = store.read("u")
    assert (known.history.item_ids, known.sequence, known.shown) == (("i1", "i3", "i4"), 4, {"s": 1})
    store.close()


def test_many_may_open_a_file_of_the_first_version_at_once(first_version):
    with ThreadPoolExecutor(6) as threads:
        stores = list(threads.map(SqliteStore, [first_version] * 6))
    for store in stores:
        assert store.read("u").sequence == 3
        store.close()


def test_a_file_of_a_later_version_is_refused(first_version):
    with sqlite3.connect(first_version) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(StoreError, match="another version"):
        SqliteStore(first_version)


def test_a_file_that_is_no_store_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("dear diary, " * 1000)
    with pytest.raises(StoreError, match=r"notes.db.*not a database.*restore"):
        SqliteStore(path)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE experiments (id)")
    connection.close()
    with pytest.raises(StoreError, match=r"other.db.*something else"):
        SqliteStore(other)
    with pytest.raises(StoreError, match="nowhere"):
        SqliteStore(tmp_path / "nowhere" / "store.db")


def test_damage_is_named_wherever_it_is_met(tmp_path):
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    store.append([event(n, user=f"u{n}") for n in range(3000)])
    store.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(np.random.default_rng(0).bytes(path.stat().st_size - 8192))

    def use_it():
        store = SqliteStore(path)
        for number in range(3000):
            store.read(f"u{number}")
            store.append([event(5000 + number, user=f"u{number}")])

    with pytest.raises(StoreError, match=r"store.db.*restore"):
        use_it()


def test_a_damaged_history_is_named(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    store.append([event(1), event(2)])
    with sqlite3.connect(store.path) as connection:
        for change in ("substr(packed, 1, 20)", "X'09' || substr(packed, 2)", "packed || X'FF'", "packed || X'0041'"):
            connection.execute("BEGIN")
            connection.execute(f"UPDATE histories SET packed = CAST({change} AS BLOB)")
            connection.execute("COMMIT")
            for use in (store.read, lambda user: store.append([event(3, user=user)])):
                with pytest.raises(StoreError, match=r"store.db.*'u' is damaged.*restore"):
                    use("u")
    connection.close()
    assert store.events_since()["event_id"].to_list() == ["e1", "e2"]
    store.close()


def test_who_is_forgotten_leaves_no_bytes_in_the_file(tmp_path):
    store = SqliteStore(tmp_path / "store.db", now_ms=lambda: DAY_MS)
    name = "somebody-in-particular"
    store.append([Event("e", name, "a-telling-item", "watch", 1), event(1)])
    store.put_answers(name, [("a-telling-item", True)])
    store.log_slates([LoggedSlate("r", name, DAY_MS, "a", "v1", "p", None, None, ("a-telling-item",), (), (), None)])
    store.forget(name)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    assert b"e1" in kept and b"somebody" not in kept and b"telling" not in kept
    store.close()


def test_what_was_shown_too_long_ago_is_cleared_away(tmp_path):
    clock = [10 * DAY_MS]
    store = SqliteStore(tmp_path / "store.db", shown_days=1, now_ms=lambda: clock[0])

    def log(user):
        store.log_slates([LoggedSlate(f"{user}{clock[0]}", user, clock[0], "a", "v1", "p", None, None, ("s",), (), (), None)])

    def rows():
        with sqlite3.connect(store.path) as connection:
            found = [row[0] for row in connection.execute("SELECT user_id FROM shown ORDER BY user_id")]
        connection.close()
        return found

    log("u")
    log("v")
    clock[0] += DAY_MS
    log("u")
    assert rows() == ["u", "v"]
    store.load_histories(*parquet(tmp_path / "v1", {}), version="v1")
    assert rows() == ["u"]
    store.close()
