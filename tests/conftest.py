"""What tests share. Triton and Redis are never skipped: where one cannot start, the error says how to get it."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py; before anything brings OpenMP

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from serve import local_triton
from serve.triton import Client
from tests import stand_ins
from tests.consoles import Watched
from tests.consoles import watched as watched_server
from tests.pages import bin_folder, demonstrated, shell
from tests.stores import RedisServer

settings.register_profile("laws", deadline=None)  # a law holds however slow the machine; speed is measured in bench/
settings.load_profile("laws")

__all__ = ["bin_folder", "demonstrated", "shell"]  # fixtures


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_triton.LocalTriton]:
    """A real server over an empty repository, for the whole session: add versions under names of your own, and load them."""
    folder: Path = tmp_path_factory.mktemp("triton")
    repository = folder / "models"
    repository.mkdir()
    with local_triton.start(repository, log_path=folder / "triton.log") as server:
        yield server


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a forge (`tests.stand_ins`) for scripts whose imports would take longer than what they do."""
    folder = tmp_path_factory.mktemp("forge")
    address = str(folder / "door")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, stand_ins.__file__, "forge", address], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while not Path(address).exists():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture
def triton_client(triton_server: local_triton.LocalTriton) -> Iterator[Client]:
    """A client of that server, with a deadline that a busy machine can keep."""
    client = Client(triton_server.grpc_url, timeout_ms=10_000)
    yield client
    client.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server that flushes every command, for the whole session: empty it first."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a store may be opened that holds nothing yet: one test, each kind of store."""
    return tmp_path / "store.db" if request.param == "sqlite" else request.getfixturevalue("redis_server").emptied()


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A whole server over three releases, for all who look at its console or its metrics: leave v2 current."""
    with watched_server(tmp_path_factory.mktemp("watched")) as server:
        yield server
