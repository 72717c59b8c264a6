"""What was shown is in the store after close, or told as lost; and what comes out again is tomorrow's table of impressions."""

import sqlite3
import time
from contextlib import closing

import pytest

from data.schema import IMPRESSIONS, check_table
from serve import slate_log
from serve.contract import Draw, Recommendation, Request, Slate
from serve.slate_log import SlateLog, impressions, logged
from serve.sqlite_store import SqliteStore

NOW = 1_700_000_000_000


def slate(number, items=("a", "b"), draw=None, user="u"):
    """A slate of these items as the log keeps it."""
    shown = tuple(Recommendation(item, item.upper(), 0.5, "Picked for you", "Top Picks", ("popular", "content")) for item in items)
    request = Request(user, NOW + number, device="tv", region="DE", request_id=f"r{number}")
    return logged(request, Slate(request.request_id, shown, "v1", "personalised", 1.0, {}, {}, draw), "champion")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "live.sqlite"


@pytest.fixture
def store(path):
    with closing(SqliteStore(path)) as store:
        yield store


@pytest.fixture
def away(path, store):
    """Takes the store's table of slates away, and gives it back: a real store that really fails, and heals."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield lambda: connection.execute("ALTER TABLE slates RENAME TO away"), lambda: connection.execute("ALTER TABLE away RENAME TO slates")
    connection.close()


def numbers(store):
    return [one.request_id for _, one in store.slates_since()]


def wait_for(what):
    """Until it is so; a minute at most."""
    end = time.monotonic() + 60
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    assert what()


def test_everything_put_is_in_the_store_after_close_in_its_order(store):
    lost = []
    log = SlateLog(store, dropped=lost.append)
    told = [slate(number, draw=Draw(0.1, (1,), ("c", "d"), (None,))) for number in range(1_200)]  # more than two batches
    for one in told:
        log.put(one)
    log.close()
    assert [one for _, one in store.slates_since()] == told and lost == []


def test_it_writes_without_being_closed(store):
    log = SlateLog(store)
    log.put(slate(1))
    wait_for(lambda: numbers(store) == ["r1"])
    log.put(slate(2))
    wait_for(lambda: numbers(store) == ["r1", "r2"])
    log.close()


def test_a_store_that_fails_for_a_while_loses_nothing(store, away, caplog):
    take, give = away
    lost = []
    log = SlateLog(store, dropped=lost.append)
    take()
    for number in range(5):
        log.put(slate(number))
    wait_for(lambda: "wait to be logged" in caplog.text)
    log.put(slate(5))
    give()
    log.put(slate(6))
    log.close()
    assert numbers(store) == [f"r{number}" for number in range(7)] and lost == []


def test_a_store_that_fails_at_the_end_tells_what_was_lost(store, away, monkeypatch):
    monkeypatch.setattr(slate_log, "AT_ONCE", 2)
    take, give = away
    lost = []
    log = SlateLog(store, dropped=lost.append)
    take()
    for number in range(5):
        log.put(slate(number))
    log.close()
    assert sum(lost) == 5
    log.put(slate(6))  # too late
    assert sum(lost) == 6
    give()
    assert numbers(store) == []


def test_what_finds_no_room_is_told_and_the_rest_is_written_once_the_store_is_back(store, away, monkeypatch):
    monkeypatch.setattr(slate_log, "ROOM", 3)
    monkeypatch.setattr(slate_log, "AT_ONCE", 2)
    take, give = away
    lost = []
    log = SlateLog(store, dropped=lost.append)
    take()
    for number in range(20):
        log.put(slate(number))
    assert sum(lost) >= 20 - 3 - 2
    give()
    log.close()
    assert len(numbers(store)) + sum(lost) == 20 and len(numbers(store)) >= 3


def test_what_the_store_refuses_is_told_and_what_comes_after_is_written(store, caplog):
    lost = []
    log = SlateLog(store, dropped=lost.append)
    log.put(slate(1, items=("a", "no\0good")))
    wait_for(lambda: lost == [1])
    log.put(slate(2))
    log.close()
    assert numbers(store) == ["r2"] and lost == [1] and "cannot be logged" in caplog.text


def test_impressions_are_the_table_of_the_schema_read_back_from_the_store(store):
    log = SlateLog(store)
    log.put(slate(1, items=("a", "b", "c"), draw=Draw(0.2, (2, 0), ("x", "c", "y", "z"), ("c", None))))
    log.put(slate(2, items=()))
    log.put(slate(3, items=("b",), user="v"))
    log.close()
    frame = impressions([one for _, one in store.slates_since()])
    assert frame.schema == {name: column.dtype for name, column in IMPRESSIONS.items()} and frame.columns == list(IMPRESSIONS)
    assert check_table(frame, IMPRESSIONS, table="impressions", source="a test").equals(frame)
    told = frame.select("request_id", "item_id", "user_id", "position", "propensity", "arm", "release", "timestamp", "device", "region")
    rest = ("champion", "v1", NOW + 1, "tv", "DE")
    assert told.rows() == [
        ("r1", "a", "u", 1, 0.8, *rest),
        ("r1", "b", "u", 2, None, *rest),
        ("r1", "c", "u", 3, 0.05, *rest),  # .2 over a pool of four
        ("r3", "b", "v", 1, None, "champion", "v1", NOW + 3, "tv", "DE"),
    ]
    assert frame["sources"].to_list() == [["popular", "content"]] * 4
    assert frame["clicked"].null_count() == 4  # what came of them stands in the events


def test_no_slates_are_a_table_without_rows():
    frame = impressions([])
    assert len(frame) == 0 and check_table(frame, IMPRESSIONS, table="impressions", source="a test").equals(frame)
