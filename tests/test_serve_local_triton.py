"""A local server serves this machine alone, says why it did not start, and never outlives whoever started it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from serve import local_triton
from serve.contract import ModelSpec, TensorSpec
from serve.triton import Client, TritonError, Unavailable

SPEC = ModelSpec("absent", (TensorSpec("single", "FP32", (1,)),), (TensorSpec("value__0", "FP32", (1,)),))

PARENT = """
import sys, time
from pathlib import Path
from serve import local_triton
folder = Path(sys.argv[1])
server = local_triton.start(folder, log_path=folder / "triton.log")
print(server.process.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_killed_server_is_unavailable_within_the_deadline(tmp_path):
    with local_triton.start(tmp_path, log_path=tmp_path / "triton.log") as server:
        client = Client(server.grpc_url, timeout_ms=2_000)
        assert client.ready()
        server.process.kill()
        server.process.wait()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="absent"):
            client.infer(SPEC, np.zeros((1, 1), np.float32))
        assert time.monotonic() - began < 2.5
        client.close()
    server.close()  # a second time, on a server that is gone


def test_a_server_that_is_killed_comes_back_on_the_same_ports_and_its_clients_find_it(tmp_path, monkeypatch):
    monkeypatch.setattr(local_triton, "WATCH_S", 0.1)
    with local_triton.kept(tmp_path, log_path=tmp_path / "triton.log") as server:
        client = Client(server.grpc_url, timeout_ms=2_000)
        assert client.ready()
        os.kill(server.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while client.ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not client.ready()
        deadline = time.monotonic() + 30
        while not client.ready() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.ready() and (tmp_path / "triton.log.died").is_file()
        client.close()
    deadline = time.monotonic() + 10
    port = int(server.http_url.rpartition(":")[2])
    while time.monotonic() < deadline:  # and none is left behind
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a server is still listening")


def test_the_server_listens_on_one_address_of_this_machine_only(triton_server):
    for url in (triton_server.grpc_url, triton_server.http_url, triton_server.metrics_url):
        port = int(url.removeprefix("127.0.0.1:"))
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=2)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_dies_with_its_parent(tmp_path, death):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.send_signal(death)
    parent.communicate()
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)


def test_a_model_that_is_not_there_stops_the_start_with_the_end_of_the_log(tmp_path):
    with pytest.raises(TritonError, match=r"(?s)exited with 1 before it was ready.*triton\.log.*absent"):
        local_triton.start(tmp_path, log_path=tmp_path / "triton.log", models=("absent",))


def test_an_environment_without_the_wheel_is_told_how_to_get_it(tmp_path):
    binary = tmp_path / "bin"
    binary.mkdir()
    (binary / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # -S: no site-packages
    (binary / "python3").chmod(0o755)
    with pytest.raises(TritonError, match="pip install --no-deps nvidia-pytriton"):
        local_triton.start(tmp_path, log_path=tmp_path / "triton.log", python=binary / "python3")


def test_a_stub_of_another_python_is_refused(tmp_path, monkeypatch):
    server, _ = local_triton._locate(Path(sys.executable))
    package = tmp_path / "pytriton"
    (package / "tritonserver" / "backends" / "python").mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copytree(server / "python_backend_stubs", package / "tritonserver" / "python_backend_stubs")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TritonError, match="is not the one for Python"):
        local_triton.start(tmp_path, log_path=tmp_path / "triton.log")
