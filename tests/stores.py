"""What the tests of stores share: Debian's redis-server on a port of its own, the two kinds of store, events and a release's files."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import polars as pl
import redis

from data.features import EVENT_TYPE_CODE
from data.schema import USERS
from serve.histories import Seen
from serve.redis_store import RedisStore
from serve.sqlite_store import SqliteStore
from serve.store import Event, Store

CLICK, WATCH, RATE = (EVENT_TYPE_CODE[name] for name in ("click", "watch", "rate"))
NAME_OF = {code: name for name, code in EVENT_TYPE_CODE.items()}
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
PATIENT_MS = 10_000  # a deadline that a busy machine can keep


class RedisServer:
    """A server whose data lie in `folder`; started again after a kill, it is where it was, at the same address."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options or DURABLE
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            self.port = door.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("there is no redis-server here; run: apt-get install redis-server  (make does)")
        command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", "", *self.options]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.RedisError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"redis-server did not start: {(self.folder / 'redis.log').read_text()[-2000:]}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """It answers nobody, and its door stays open."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def emptied(self) -> str:
        """The address, with nothing kept there."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        return self.url


def opened(place: str | Path, **chosen) -> Store:
    """The store at a place, with a deadline that a busy machine can keep."""
    return RedisStore(place, **{"timeout_ms": PATIENT_MS} | chosen) if isinstance(place, str) else SqliteStore(place, **chosen)


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


def rows_of(seen: list[Seen]) -> list[tuple]:
    """A history in order of time, as `parquet` takes it."""
    return [(one.item_id, one.code, one.rating, one.timestamp) for one in sorted(seen, key=lambda one: one.timestamp)]


def told(history) -> list[tuple]:
    """A history as `Seen` has it."""
    return list(zip(history.timestamp_L, history.item_ids, history.event_type_L, history.rating_L, strict=True))
