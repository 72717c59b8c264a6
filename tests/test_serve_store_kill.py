"""kill -9 at any moment, of who writes or of the server: nothing acknowledged is lost, and nothing is there twice."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from serve.store import StoreError
from tests.stores import RedisServer, event, opened

ROOT = Path(__file__).resolve().parent.parent
USERS = ("u0", "u1", "u2")
WRITER = """
import sys
from pathlib import Path
from serve.store import Event
from tests.stores import opened
place, number = sys.argv[1], int(sys.argv[2])
store = opened(place if place.startswith("redis") else Path(place))
while True:
    store.append([Event(f"e{n}", f"u{n % 3}", f"i{n}", "watch", n) for n in (number, number + 1)])
    print(number + 1, flush=True)
    number += 2
"""


def check(store, acknowledged):
    """Events 0, 1, … in pairs and in order, at least those acknowledged, and histories that are the events."""
    written = store.events_since()
    numbers = [int(name[1:]) for name in written["event_id"]]
    assert numbers == list(range(len(numbers))) and len(numbers) - 1 >= acknowledged and len(numbers) % 2 == 0
    for user in USERS:
        told = written.filter(pl.col("user_id") == user)
        known = store.read(user)
        assert known.history.item_ids == tuple(told["item_id"])[-store.history_length :]
        assert known.sequence == told["sequence"][-1]


def test_a_writer_killed_loses_nothing_acknowledged_and_doubles_nothing(place):
    acknowledged = -1
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(place), str(acknowledged + 1)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        timer = threading.Timer(60, writer.kill)  # should it hang
        timer.start()
        lines = [writer.stdout.readline() for _ in range(40)]
        time.sleep(0.02)
        writer.kill()
        rest = writer.communicate()[0]
        timer.cancel()
        acknowledged = int((lines + rest.splitlines())[-1])
        store = opened(place)
        check(store, acknowledged)
        store.close()


def test_what_one_process_appends_another_reads_next(place):
    reader = opened(place)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(place), "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    timer = threading.Timer(60, writer.kill)
    timer.start()
    for _ in range(10):
        acknowledged = int(writer.stdout.readline())
        assert f"i{acknowledged}" in reader.read(f"u{acknowledged % 3}").history.item_ids
    writer.kill()
    writer.communicate()
    timer.cancel()
    reader.close()


def append_until_it_fails(store, acknowledged):
    """The last number acknowledged, and what the store said then."""
    said = ""
    while not said:
        try:
            store.append([event(n, user=f"u{n % 3}") for n in (acknowledged + 1, acknowledged + 2)])
            acknowledged += 2
        except StoreError as error:
            said = str(error)
    return acknowledged, said


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path)
    yield server
    server.kill()


def test_a_server_killed_loses_nothing_acknowledged_and_doubles_nothing(server):
    store = opened(server.url)
    acknowledged = -1
    for _ in range(3):
        killing = threading.Timer(0.3, server.kill)
        killing.start()
        before = acknowledged
        acknowledged, said = append_until_it_fails(store, acknowledged)
        killing.join()
        assert acknowledged > before and "see that redis-server is up" in said
        server.start()
        check(store, acknowledged)  # the same store: it found the server again by itself
        acknowledged = len(store.events_since()) - 1  # what was cut off may have been written
        store.append([event(n, user=f"u{n % 3}") for n in (acknowledged - 1, acknowledged)])  # and sent again it is there once
        check(store, acknowledged)
    store.close()
