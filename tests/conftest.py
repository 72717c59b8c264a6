"""What tests share. Triton is never skipped: where it cannot start, the error says how to get it."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py; before anything brings OpenMP

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve import local_triton
from serve.triton import Client


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_triton.LocalTriton]:
    """A real server over an empty repository, for the whole session: add versions under names of your own, and load them."""
    folder: Path = tmp_path_factory.mktemp("triton")
    repository = folder / "models"
    repository.mkdir()
    with local_triton.start(repository, log_path=folder / "triton.log") as server:
        yield server


@pytest.fixture
def triton_client(triton_server: local_triton.LocalTriton) -> Iterator[Client]:
    """A client of that server, with a deadline that a busy machine can keep."""
    client = Client(triton_server.grpc_url, timeout_ms=10_000)
    yield client
    client.close()
