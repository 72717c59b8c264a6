"""One contract, two stores: nothing acknowledged is lost, nothing counts twice, and a history is in order however events arrive."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from data.schema import EVENTS, SchemaError, check_table
from serve.contract import UserFields
from serve.store import Event, StoreError, open_store
from tests.stores import CLICK, RATE, WATCH, event, opened, parquet


@pytest.fixture
def store(place):
    store = opened(place, history_length=5)
    yield store
    store.close()


def items_of(store, user="u"):
    return store.read(user).history.item_ids


def test_of_a_stranger_nothing_is_known(store):
    known = store.read("nobody")
    history = known.history
    assert history.item_ids == () and len(history.event_type_L) == len(history.rating_L) == len(history.timestamp_L) == 0
    assert (known.fields, known.sequence, known.shown, known.answers, known.precomputed) == (UserFields(), 0, {}, (), None)
    assert store.user_ids() == []
    store.ping()


def test_an_event_is_in_the_very_next_history(store):
    assert store.append([event(1, item="Käse 🧀", kind="click"), event(2, kind="rate", rating=3.5)]) == 2
    history = store.read("u").history
    assert history.item_ids == ("Käse 🧀", "i2")
    assert history.event_type_L.tolist() == [CLICK, RATE]
    np.testing.assert_array_equal(history.rating_L, [np.nan, 3.5])
    assert history.timestamp_L.tolist() == [1, 2]
    assert (history.event_type_L.dtype, history.rating_L.dtype, history.timestamp_L.dtype) == (np.int64, np.float32, np.int64)
    assert store.user_ids() == ["u"]


def test_sending_twice_changes_nothing(store):
    assert store.append([event(1), event(1), event(2)]) == 2
    assert store.append([event(2), event(3)]) == 1
    sequence = store.read("u").sequence
    assert store.append([Event("e1", "u", "another item", "click", 9)]) == 0
    assert items_of(store) == ("i1", "i2", "i3")
    assert store.events_since()["event_id"].to_list() == ["e1", "e2", "e3"]
    assert store.read("u").sequence == sequence


def test_the_sequence_is_the_number_of_the_users_own_last_event(store, tmp_path):
    store.append([event(9), event(1, user="v"), event(2)])  # a late one moves it as well
    numbers = dict(store.events_since().select("event_id", "sequence").iter_rows())
    assert store.read("u").sequence == numbers["e2"] > store.read("v").sequence == numbers["e1"] > 0
    store.load_histories(*parquet(tmp_path / "v1", {"u": [("a", WATCH, np.nan, 1)], "w": [("a", WATCH, np.nan, 1)]}), version="v1")
    assert store.read("u").sequence == numbers["e2"]
    assert store.read("w").sequence == 0


def test_late_events_find_their_place_and_the_oldest_leave(store):
    store.append([event(n, at=n * 10) for n in (5, 3, 9, 7)])
    store.append([event(4, at=30)])
    assert items_of(store) == ("i3", "i4", "i5", "i7", "i9")
    store.append([event(1, at=10)])
    assert items_of(store) == ("i3", "i4", "i5", "i7", "i9")
    store.append([event(8, at=80)])
    assert items_of(store) == ("i4", "i5", "i7", "i8", "i9")


def test_times_of_every_size_are_kept_to_the_millisecond(store):
    last = 2**63 - 1
    store.append([event(1, at=last), event(2, at=last - 1), event(3, at=0), event(4, at=last - 1)])
    assert store.read("u").history.timestamp_L.tolist() == [0, last - 1, last - 1, last]
    assert items_of(store) == ("i3", "i2", "i4", "i1")


def test_a_later_telling_corrects_the_earlier_one(store):
    store.append([event(1, item="a", kind="rate", rating=2, at=5), event(2, item="b", at=5)])
    store.append([event(3, item="a", kind="rate", rating=4, at=5)])
    assert items_of(store) == ("b", "a") and store.read("u").history.rating_L[1] == 4


def test_a_release_is_the_base_and_events_are_told_on_top(store, tmp_path):
    store.append([event(20), event(15), event(3, item="old", at=3, user="late")])
    base = [("i10", CLICK, np.nan, 10), ("i20", WATCH, np.nan, 20)]  # i20 is the event that went into training
    files = parquet(
        tmp_path / "v1", {"u": base, "late": [("new", WATCH, np.nan, 9)], "none": []}, {"u": ("DE", "premium", 1980), "w": (None,) * 3}
    )
    assert store.load_histories(*files, version="v1")
    assert items_of(store) == ("i10", "i15", "i20")
    assert items_of(store, "late") == ("old", "new")
    assert store.read("u").fields == UserFields("DE", "premium", 1980)
    assert store.read("w").fields == UserFields()
    assert store.user_ids() == ["late", "u", "w"]
    store.append([event(30)])
    assert not store.load_histories(*files, version="v1")
    assert items_of(store) == ("i10", "i15", "i20", "i30")


def test_the_next_release_takes_the_place_of_the_last_and_no_event_is_lost(store, tmp_path):
    store.load_histories(
        *parquet(tmp_path / "v1", {"u": [("a", WATCH, np.nan, 1)], "gone": [("a", WATCH, np.nan, 1)]}, {"gone": ("DE", None, None)}),
        version="v1",
    )
    store.append([event(5), event(6, user="v")])
    store.load_histories(*parquet(tmp_path / "v2", {"u": [("b", RATE, 4.0, 2), ("i5", WATCH, np.nan, 5)]}), version="v2")
    assert items_of(store) == ("b", "i5")
    assert items_of(store, "v") == ("i6",)
    assert store.user_ids() == ["u", "v"] and store.read("gone").fields == UserFields()
    assert store.load_histories(tmp_path / "v1/histories.parquet", tmp_path / "v1/users.parquet", version="v1")
    assert items_of(store) == ("a", "i5")


def test_a_longer_memory_is_filled_by_the_next_load(place, tmp_path):
    files = parquet(tmp_path / "v1", {"u": [(f"b{n}", CLICK, np.nan, n) for n in range(9)]})
    for length in (3, 6):
        store = opened(place, history_length=length)
        store.append([event(20), *(event(n, user="live") for n in range(9))])
        assert store.load_histories(*files, version="v1")
        assert items_of(store) == (*(f"b{n}" for n in range(10 - length, 9)), "i20")
        assert items_of(store, "live") == tuple(f"i{n}" for n in range(9 - length, 9))
        store.close()


def test_many_users_are_loaded_in_pieces_and_listed_in_order(store, tmp_path, monkeypatch):
    monkeypatch.setattr("serve.histories.USERS_AT_ONCE", 7)
    monkeypatch.setattr("serve.redis_base.KEYS_AT_ONCE", 3)
    users = {f"{'ü' * (n % 2)}{n}": [(f"i{n}-{k}", WATCH, np.nan, k) for k in range(n % 8)] for n in range(30)}
    store.load_histories(*parquet(tmp_path / "v1", users, {"z": (None,) * 3, "9": ("DE", None, None)}), version="v1")
    store.append([event(1, user="ñ"), event(2, user="2", at=0)])
    for user, rows in users.items():
        assert set(items_of(store, user)) - {"i2"} == {row[0] for row in rows[-5:]}
    expected = sorted({user for user, rows in users.items() if rows} | {"z", "9", "ñ", "2"}, key=str.encode)
    assert store.user_ids() == expected
    paged, after = [], ""
    while page := store.user_ids(after=after, limit=4):
        assert len(page) <= 4
        paged, after = paged + page, page[-1]
    assert paged == expected


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
    assert items_of(store) == ("a",) and store.user_ids() == ["u"]


@pytest.mark.parametrize("names", [["u", None], ["u", "u"]])
def test_a_user_without_an_id_or_one_that_stands_twice_is_refused(store, tmp_path, names):
    histories, users = parquet(tmp_path / "v1", {"a": [("a", WATCH, np.nan, 1)], "b": [("a", WATCH, np.nan, 1)]})
    pl.read_parquet(histories).with_columns(user_id=pl.Series(names, dtype=pl.String)).write_parquet(histories)
    with pytest.raises(StoreError, match=r"histories.parquet: a user (without an id|that stands twice|.*twice)"):
        store.load_histories(histories, users, version="v1")
    assert store.user_ids() == []


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
    assert store.user_ids() == []


def test_events_come_out_as_the_events_table(store):
    store.append([Event("a", "u", "i", "watch", 7, 61.5, None, "tv", "DE", "r1"), event(2, kind="rate", rating=4)])
    first = store.events_since(0, limit=1)
    rest = store.events_since(first["sequence"][-1])
    assert first["event_id"].to_list() == ["a"] and rest["event_id"].to_list() == ["e2"]
    assert store.events_since(rest["sequence"][-1]).is_empty()
    table = check_table(pl.concat([first, rest]).drop("sequence"), EVENTS, table="events", source="store")
    assert table.row(0, named=True)["watch_duration_seconds"] == 61.5 and table["rating"].to_list() == [None, 4.0]
    assert table.select("device", "region", "request_id").row(0) == ("tv", "DE", "r1")


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


def test_threads_write_and_read_at_once(place):
    store = opened(place, history_length=1000)

    def write(worker):
        return sum(store.append([event(f"{worker}-{n}", at=n), event(f"all-{n}", user="w", at=n)]) for n in range(25))

    with ThreadPoolExecutor(8) as threads:
        reads = [threads.submit(lambda: [len(items_of(store)) for _ in range(50)]) for _ in range(2)]
        assert sum(threads.map(write, range(6))) == 6 * 25 + 25
    assert all(found.result() == sorted(found.result()) for found in reads)
    assert len(items_of(store)) == 150 and len(items_of(store, "w")) == 25
    store.close()


def test_a_closed_store_says_so(store):
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.read("u")
    with ThreadPoolExecutor(1) as thread, pytest.raises(StoreError, match="closed"):
        thread.submit(store.read, "u").result()


def test_the_door_tells_a_server_from_a_file(place):
    store = open_store(place, history_length=7, shown_days=2, timeout_ms=10_000)
    store.append([event(1)])
    assert items_of(store) == ("i1",)
    assert (store.history_length, store.shown_days) == (7, 2)
    assert type(store).__name__ == ("RedisStore" if isinstance(place, str) else "SqliteStore")
    store.close()
    for wrong in ({"history_length": 0}, {"shown_days": 0}, {"shown_days": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            open_store(place, **wrong)
