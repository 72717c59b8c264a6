"""A Triton server on this machine, for laptops and tests: the `tritonserver` of the wheel nvidia-pytriton, started by its path.

It holds the Python backend only. It needs no GPU, and what it logs about a missing one is harmless.
"""

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serve.triton import TritonError

logger = logging.getLogger(__name__)
WATCH_S = 1.0
LOG_LINES_SHOWN = 25
STOP_TIMEOUT_S = 15.0

# Asked of the interpreter whose environment the models will run in, which need not be ours.
PROBE = """
import importlib.util, json, sys, sysconfig
wheel = importlib.util.find_spec("pytriton")
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "wheel": wheel and list(wheel.submodule_search_locations)[0],
    "library_folders": [sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib"],
}))
"""


@dataclass(frozen=True, slots=True)
class LocalTriton:
    """A server on 127.0.0.1 that lives as long as this object is open, and no longer than the process that started it."""

    repository: Path
    grpc_url: str
    http_url: str
    metrics_url: str
    log_path: Path
    process: subprocess.Popen

    def close(self) -> None:
        """Stop the server and wait until it is gone, and its models' processes with it. Closing twice is allowed."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the server's session: a server that was killed leaves its stubs behind

    def __enter__(self) -> "LocalTriton":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def kept(repository: Path, *, log_path: Path, models: tuple[str, ...] = ()) -> Iterator[LocalTriton]:
    """A local server that is started again, on the same ports, whenever it dies; the one that was started first. Clients find the next by
    themselves. What a dead one said stays beside `log_path`, under its name and `.died`.

    Raises:
        TritonError: the first one does not come up. Later ones that do not are logged, and tried again.
    """
    first = start(repository, log_path=log_path, models=models)
    ports = tuple(int(url.rpartition(":")[2]) for url in (first.grpc_url, first.http_url, first.metrics_url))
    running, stopping = [first], threading.Event()

    def watch() -> None:
        while not stopping.wait(WATCH_S):
            if running[-1].process.poll() is None:
                continue
            died = log_path.with_name(f"{log_path.name}.died")
            logger.error("triton died (%s); what it said is in %s; starting it again", running[-1].process.returncode, died)
            running[-1].close()
            log_path.replace(died)
            try:
                running.append(start(repository, log_path=log_path, models=models, ports=ports))
            except TritonError as error:
                logger.error("triton: %s", error)

    watcher = threading.Thread(target=watch, name="triton-watch", daemon=True)
    watcher.start()
    try:
        yield first
    finally:
        stopping.set()
        watcher.join()
        running[-1].close()


def start(
    repository: Path, *, log_path: Path, models: tuple[str, ...] = (), python: Path | None = None, ready_timeout_s: float = 60.0,
    ports: tuple[int, ...] | None = None,
) -> LocalTriton:  # fmt: skip
    """Start the wheel's server on `ports` of 127.0.0.1 (gRPC, HTTP, metrics; free ones, where None), load `models`, and wait until it is
    ready. What it says goes to `log_path`.

    Models run in the environment of `python` (ours, where None). Call it from a thread that outlives the server: the kernel stops
    the server when that thread ends. Raises TritonError with the end of the log where it does not come up.
    """
    python = python or Path(sys.executable)
    server, library_folder = _locate(python)
    ports = ports or _free_ports(3)
    command = [
        # Sends the server a SIGTERM when we die, even by SIGKILL. (A preexec_fn could do so too, but is unsafe beside gRPC's threads.)
        *("setpriv", "--pdeathsig", "TERM"),
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--disable-auto-complete-config",
        *(f"--{door}-address=127.0.0.1" for door in ("grpc", "http", "metrics")),
        *(f"--{door}-port={port}" for door, port in zip(("grpc", "http", "metrics"), ports, strict=True)),
    ]
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    libraries = os.pathsep.join(filter(None, [str(library_folder), os.environ.get("LD_LIBRARY_PATH")]))
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries},
            start_new_session=True,  # Ctrl-C is for us; we stop the server after the last request
        )
    grpc_url, http_url, metrics_url = (f"127.0.0.1:{port}" for port in ports)
    triton = LocalTriton(repository, grpc_url, http_url, metrics_url, log_path, process)
    try:
        _wait_until_ready(triton, ready_timeout_s)
    except BaseException:
        triton.close()
        raise
    return triton


def _locate(python: Path) -> tuple[Path, Path]:
    """Where `python`'s environment keeps the server, and the folder of the libpython that the server's stub needs."""
    interpreter = python.parent / "python3"  # the stub asks PATH for this very name
    probe = json.loads(subprocess.run([interpreter, "-c", PROBE], check=True, capture_output=True, text=True).stdout)
    if probe["wheel"] is None:
        raise TritonError(f"{interpreter} has no Triton server: pip install --no-deps nvidia-pytriton==0.7.0, or make setup")
    server = Path(probe["wheel"]) / "tritonserver"
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    source = server / "python_backend_stubs" / probe["version"] / stub.name
    if not stub.exists() or stub.read_bytes() != source.read_bytes():
        raise TritonError(f"{stub} is not the one for Python {probe['version']}: cp {source} {stub}, or make setup")
    library = f"libpython{probe['version']}.so.1.0"
    for folder in probe["library_folders"]:
        if (Path(folder) / library).exists():
            return server, Path(folder)
    raise TritonError(f"{library} is in none of {probe['library_folders']}: apt-get install libpython{probe['version']}, or make setup")


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody held a moment ago; one taken since makes the server exit, which `start` reports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for door in sockets:
            door.bind(("127.0.0.1", 0))
        return [door.getsockname()[1] for door in sockets]
    finally:
        for door in sockets:
            door.close()


def _wait_until_ready(triton: LocalTriton, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if triton.process.poll() is not None:
            raise TritonError(f"tritonserver exited with {triton.process.returncode} before it was ready. {_end_of_log(triton)}")
        connection = http.client.HTTPConnection(triton.http_url, timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.05)
    raise TritonError(f"tritonserver was not ready after {timeout_s:g} s: allow it more, or see why. {_end_of_log(triton)}")


def _end_of_log(triton: LocalTriton) -> str:
    lines = triton.log_path.read_text(errors="replace").splitlines()
    return f"The end of {triton.log_path}:\n" + "\n".join(lines[-LOG_LINES_SHOWN:])
