"""The store loses nothing it acknowledged, counts nothing twice, and keeps a history in order however events arrive."""

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import EVENT_TYPE_CODE
from data.schema import EVENTS, USERS, SchemaError, check_table
from serve.contract import UserFields
from serve.histories import Seen, pack, union, unpack
from serve.sqlite_store import SqliteStore
from serve.store import Event, StoreError

CLICK, WATCH, RATE = (EVENT_TYPE_CODE[name] for name in ("click", "watch", "rate"))


def event(number, *, user="u", item=None, kind="watch", at=None, rating=None) -> Event:
    return Event(f"e{number}", user, item or f"i{number}", kind, number if at is None else at, rating=rating)


def parquet(folder: Path, histories: dict[str, list[tuple]], users: dict[str, tuple] | None = None) -> tuple[Path, Path]:
    """histories.parquet and users.parquet of {user: [(item, code, rating, timestamp)]} and {user: (region, tier, year)}."""
    folder.mkdir(exist_ok=True)
    columns = {
        name: [[row[i] for row in rows] for rows in histories.values()]
        for i, name in enumerate(("item_id", "event_type", "rating", "timestamp"))
    }
    schema = {"item_id": pl.String, "event_type": pl.Int8, "rating": pl.Float32, "timestamp": pl.Int64}
    frame = pl.DataFrame({"user_id": list(histories)} | columns, schema={"user_id": pl.String} | {k: pl.List(v) for k, v in schema.items()})
    frame.write_parquet(folder / "histories.parquet")
    rows = [(user, *known) for user, known in (users or {}).items()]
    pl.DataFrame(rows, schema={name: column.dtype for name, column in USERS.items()}, orient="row").write_parquet(folder / "users.parquet")
    return folder / "histories.parquet", folder / "users.parquet"


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "store.db", history_length=5)
    yield store
    store.close()


def test_of_a_stranger_nothing_is_known(store):
    history = store.read("nobody").history
    assert history.item_ids == () and len(history.event_type_L) == len(history.rating_L) == len(history.timestamp_L) == 0
    assert store.read("nobody").fields == UserFields()
    assert "nobody" not in store.user_ids()


def test_an_event_is_in_the_very_next_history(store):
    assert store.append([event(1, item="Käse 🧀", kind="click"), event(2, kind="rate", rating=3.5)]) == 2
    history = store.read("u").history
    assert history.item_ids == ("Käse 🧀", "i2")
    assert history.event_type_L.tolist() == [CLICK, RATE]
    np.testing.assert_array_equal(history.rating_L, [np.nan, 3.5])
    assert history.timestamp_L.tolist() == [1, 2]
    assert (history.event_type_L.dtype, history.rating_L.dtype, history.timestamp_L.dtype) == (np.int64, np.float32, np.int64)
    assert "u" in store.user_ids() and store.read("u").fields == UserFields()


def test_sending_twice_changes_nothing(store):
    assert store.append([event(1), event(1), event(2)]) == 2
    assert store.append([event(2), event(3)]) == 1
    assert store.append([Event("e1", "u", "another item", "click", 9)]) == 0
    assert store.read("u").history.item_ids == ("i1", "i2", "i3")
    assert store.events_since()["event_id"].to_list() == ["e1", "e2", "e3"]


def test_late_events_find_their_place_and_the_oldest_leave(store):
    store.append([event(n, at=n * 10) for n in (5, 3, 9, 7)])
    store.append([event(4, at=30)])
    assert store.read("u").history.item_ids == ("i3", "i4", "i5", "i7", "i9")
    store.append([event(1, at=10)])
    assert store.read("u").history.item_ids == ("i3", "i4", "i5", "i7", "i9")
    store.append([event(8, at=80)])
    assert store.read("u").history.item_ids == ("i4", "i5", "i7", "i8", "i9")


SEEN = st.builds(Seen, st.integers(0, 6), st.sampled_from("abc"), st.sampled_from([CLICK, RATE]), st.sampled_from([1.0, 2.0]))


SEEN_LISTS = st.lists(SEEN, max_size=12)


@given(SEEN_LISTS, SEEN_LISTS, SEEN_LISTS, st.integers(1, 6))
def test_a_history_kept_event_by_event_is_the_union_of_all(base, old, new, length):
    at_once = union(base, [*old, *new], length=length)
    stepwise = union(base, [], length=length)
    for seen in (*old, *new):
        stepwise = union(stepwise, [seen], length=length)
    assert stepwise == at_once == union(union(base, old, length=length), new, length=length)
    assert [seen.timestamp for seen in stepwise] == sorted(seen.timestamp for seen in stepwise)


@given(SEEN_LISTS)
def test_what_was_told_twice_counts_once(told):
    assert {seen[:3] for seen in told} == {seen[:3] for seen in union([], told, length=99)}
    assert len({seen[:3] for seen in told}) == len(union([], told, length=99))
    base = sorted(told, key=lambda seen: seen.timestamp)
    assert [seen[:3] for seen in union(base, [], length=99)] == [seen[:3] for seen in base]
    assert sorted(seen[:3] for seen in union(base, told, length=99)) == sorted(seen[:3] for seen in base)


def test_a_later_telling_corrects_the_earlier_one(store):
    store.append([event(1, item="a", kind="rate", rating=2, at=5), event(2, item="b", at=5)])
    store.append([event(3, item="a", kind="rate", rating=4, at=5)])
    assert store.read("u").history.item_ids == ("b", "a") and store.read("u").history.rating_L[1] == 4


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(st.lists(st.builds(Seen, st.integers(0, 2**63 - 1), TEXT, st.integers(1, 6), st.floats(width=32)), min_size=1, max_size=60))
def test_unpacks_what_was_packed(seen):
    history = unpack(pack(seen))
    assert history.item_ids == tuple(event.item_id for event in seen)
    assert history.timestamp_L.tolist() == [event.timestamp for event in seen]
    assert history.event_type_L.tolist() == [event.code for event in seen]
    np.testing.assert_array_equal(history.rating_L, np.array([event.rating for event in seen], np.float32))


def test_a_release_is_the_base_and_events_are_told_on_top(store, tmp_path):
    store.append([event(20), event(15), event(3, item="old", at=3, user="late")])
    base = [("i10", CLICK, np.nan, 10), ("i20", WATCH, np.nan, 20)]  # i20 is the event that went into training
    files = parquet(
        tmp_path / "v1", {"u": base, "late": [("new", WATCH, np.nan, 9)], "none": []}, {"u": ("DE", "premium", 1980), "w": (None,) * 3}
    )
    assert store.load_histories(*files, version="v1")
    assert store.read("u").history.item_ids == ("i10", "i15", "i20")
    assert store.read("late").history.item_ids == ("old", "new")
    assert store.read("u").fields == UserFields("DE", "premium", 1980)
    assert store.read("w").fields == UserFields()
    assert "w" in store.user_ids() and "none" not in store.user_ids()
    store.append([event(30)])
    assert not store.load_histories(*files, version="v1")
    assert store.read("u").history.item_ids == ("i10", "i15", "i20", "i30")


def test_the_next_release_takes_the_place_of_the_last_and_no_event_is_lost(store, tmp_path):
    store.load_histories(*parquet(tmp_path / "v1", {"u": [("a", WATCH, np.nan, 1)], "gone": [("a", WATCH, np.nan, 1)]}), version="v1")
    store.append([event(5), event(6, user="v")])
    store.load_histories(*parquet(tmp_path / "v2", {"u": [("b", RATE, 4.0, 2), ("i5", WATCH, np.nan, 5)]}), version="v2")
    assert store.read("u").history.item_ids == ("b", "i5")
    assert store.read("v").history.item_ids == ("i6",)
    assert "gone" not in store.user_ids()
    assert store.load_histories(tmp_path / "v1/histories.parquet", tmp_path / "v1/users.parquet", version="v1")
    assert store.read("u").history.item_ids == ("a", "i5")


@settings(max_examples=60, deadline=None)
@given(SEEN_LISTS, st.lists(st.tuples(SEEN, st.sampled_from("uv")), max_size=10), st.integers(0, 10), st.integers(1, 4))
def test_when_the_release_is_loaded_makes_no_difference(tmp_path_factory, base, live, before, length):
    folder = tmp_path_factory.mktemp("store")
    base = sorted(base, key=lambda seen: seen.timestamp)
    files = parquet(folder / "v1", {"u": [(seen.item_id, seen.code, seen.rating, seen.timestamp) for seen in base]})
    names = {code: name for name, code in EVENT_TYPE_CODE.items()}
    events = [
        Event(str(n), user, seen.item_id, names[seen.code], seen.timestamp, rating=seen.rating) for n, (seen, user) in enumerate(live)
    ]
    store = SqliteStore(folder / "store.db", history_length=length)
    store.append(events[:before])
    store.load_histories(*files, version="v1")
    store.append(events[before:])
    history = store.read("u").history
    told = union(base, [seen for seen, user in live if user == "u"], length=length)
    assert list(zip(history.timestamp_L, history.item_ids, history.event_type_L, history.rating_L, strict=True)) == told
    assert list(store.read("v").history.item_ids) == [
        seen.item_id for seen in union([], [s for s, user in live if user == "v"], length=length)
    ]
    store.close()


def test_a_longer_memory_is_filled_by_the_next_load(tmp_path):
    files = parquet(tmp_path / "v1", {"u": [(f"b{n}", CLICK, np.nan, n) for n in range(9)]})
    for length in (3, 6):
        store = SqliteStore(tmp_path / "store.db", history_length=length)
        store.append([event(20)])
        assert store.load_histories(*files, version="v1")
        assert store.read("u").history.item_ids == (*(f"b{n}" for n in range(10 - length, 9)), "i20")
        store.close()


def test_many_users_are_loaded_in_pieces(store, tmp_path, monkeypatch):
    monkeypatch.setattr("serve.histories.USERS_AT_ONCE", 7)
    users = {f"u{n}": [(f"i{n}-{k}", WATCH, np.nan, k) for k in range(n % 8)] for n in range(30)}
    store.load_histories(*parquet(tmp_path / "v1", users), version="v1")
    for user, rows in users.items():
        assert store.read(user).history.item_ids == tuple(row[0] for row in rows)[-5:]


@pytest.mark.parametrize(
    "rows, word",
    [
        ([("a", WATCH, np.nan, 5), ("b", WATCH, np.nan, 4)], "order of time"),
        ([("a\0b", WATCH, np.nan, 5)], "NUL"),
        ([("a", 99, np.nan, 5)], "none of"),
        ([(None, WATCH, np.nan, 5)], "missing"),
    ],
)
def test_a_wrong_base_is_refused_by_name_and_the_old_stays(store, tmp_path, rows, word):
    store.load_histories(*parquet(tmp_path / "v1", {"u": [("a", WATCH, np.nan, 1)]}), version="v1")
    with pytest.raises(StoreError, match=f"histories.parquet.*{word}"):
        store.load_histories(*parquet(tmp_path / "v2", {"w": [("a", WATCH, np.nan, 1)], "u": rows}), version="v2")
    assert store.read("u").history.item_ids == ("a",) and "w" not in store.user_ids()


def test_files_that_are_not_there_cut_short_or_disagree(store, tmp_path):
    histories, users = parquet(tmp_path / "v1", {"u": [("a", WATCH, np.nan, 1)]}, {"u": (None, None, 12)})
    with pytest.raises(SchemaError, match=r"users.parquet.*birth_year.*12"):
        store.load_histories(histories, users, version="v1")
    with pytest.raises(StoreError, match=r"absent.parquet"):
        store.load_histories(tmp_path / "absent.parquet", users, version="v1")
    pl.read_parquet(histories).with_columns(rating=pl.lit([], pl.List(pl.Float32))).write_parquet(histories)
    with pytest.raises(StoreError, match="'u' differ in length"):
        store.load_histories(histories, users, version="v1")
    histories.write_bytes(histories.read_bytes()[:-30])
    with pytest.raises(StoreError, match=r"histories.parquet: cannot be read"):
        store.load_histories(histories, users, version="v1")
    assert "u" not in store.user_ids()


def test_events_come_out_as_the_events_table(store):
    store.append([Event("a", "u", "i", "watch", 7, 61.5, None, "tv", "DE", "r1"), event(2, kind="rate", rating=4)])
    first = store.events_since(0, limit=1)
    rest = store.events_since(first["sequence"][-1])
    assert first["event_id"].to_list() == ["a"] and rest["event_id"].to_list() == ["e2"]
    assert store.events_since(rest["sequence"][-1]).is_empty()
    table = check_table(pl.concat([first, rest]).drop("sequence"), EVENTS, table="events", source="store")
    assert table.row(0, named=True)["watch_duration_seconds"] == 61.5 and table["rating"].to_list() == [None, 4.0]


@pytest.mark.parametrize(
    "change, word",
    [
        ({"item_id": ""}, "item_id"),
        ({"user_id": "u" * 257}, "user_id"),
        ({"event_id": "a\0b"}, "event_id"),
        ({"event_type": "like"}, "event_type"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 2**63}, "timestamp"),
        ({"watch_duration_seconds": float("nan")}, "watch_duration_seconds"),
        ({"rating": float("inf")}, "rating"),
        ({"event_type": "rate"}, "rating"),
    ],
)
def test_an_event_that_cannot_be_kept_is_never_made(change, word):
    with pytest.raises(ValueError, match=word):
        Event(**{"event_id": "e", "user_id": "u", "item_id": "i", "event_type": "watch", "timestamp": 1} | change)


def test_threads_write_and_read_at_once(tmp_path):
    store = SqliteStore(tmp_path / "store.db", history_length=1000)

    def write(worker):
        return sum(store.append([event(f"{worker}-{n}", at=n), event(f"all-{n}", user="w", at=n)]) for n in range(25))

    with ThreadPoolExecutor(8) as threads:
        reads = [threads.submit(lambda: [len(store.read("u").history.item_ids) for _ in range(50)]) for _ in range(2)]
        assert sum(threads.map(write, range(6))) == 6 * 25 + 25
    assert all(found.result() == sorted(found.result()) for found in reads)
    assert len(store.read("u").history.item_ids) == 150 and len(store.read("w").history.item_ids) == 25
    store.close()


ROOT = Path(__file__).resolve().parent.parent
WRITER = """
import sys
from serve.sqlite_store import SqliteStore
from serve.store import Event
store, number = SqliteStore(sys.argv[1]), int(sys.argv[2])
while True:
    store.append([Event(f"e{n}", f"u{n % 3}", f"i{n}", "watch", n) for n in (number, number + 1)])
    print(number + 1, flush=True)
    number += 2
"""


def test_kill_nine_loses_nothing_acknowledged_and_doubles_nothing(tmp_path):
    path, acknowledged = tmp_path / "store.db", -1
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(acknowledged + 1)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        timer = threading.Timer(20, writer.kill)  # should it hang
        timer.start()
        lines = [writer.stdout.readline() for _ in range(40)]
        time.sleep(0.02)
        writer.kill()
        rest = writer.communicate()[0]
        timer.cancel()
        acknowledged = int((lines + rest.splitlines())[-1])
        store = SqliteStore(path)
        written = store.events_since()
        numbers = [int(name[1:]) for name in written["event_id"]]
        assert numbers == list(range(len(numbers))) and len(numbers) - 1 >= acknowledged and len(numbers) % 2 == 0
        for user in ("u0", "u1", "u2"):
            assert store.read(user).history.item_ids == tuple(written.filter(pl.col("user_id") == user)["item_id"])[-200:]
        store.close()


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


def test_a_damaged_history_is_named(store):
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


def test_a_closed_store_says_so(store):
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.read("u")
    with ThreadPoolExecutor(1) as thread, pytest.raises(StoreError, match="closed"):
        thread.submit(store.read, "u").result()
