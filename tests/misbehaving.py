"""Servers for clients to be tried against: the real application under uvicorn, and one that does what it is told, well or badly."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import uvicorn
from fastapi import FastAPI

PATIENCE_S = 20.0  # a client that waits longer than this for a silent server gets a good answer, and its test fails


@dataclass(frozen=True)
class Got:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float


Step = Callable[["Handler", Got], None]


@dataclass
class Told:
    """A server that takes one step of `steps` for each request, the last one again and again, and remembers what came."""

    url: str
    steps: list[Step]
    got: list[Got] = field(default_factory=list)
    sent: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def heads(self, name: str) -> list[str]:
        """One header of every request that came."""
        return [one.headers[name] for one in self.got]


class Handler(BaseHTTPRequestHandler):
    """Takes the next step."""

    protocol_version = "HTTP/1.1"
    told: Told

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        got = Got(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body, time.monotonic())
        self.told.got.append(got)
        steps = self.told.steps
        (steps.pop(0) if len(steps) > 1 else steps[0])(self, got)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def says(status: int, told: object, **headers: str) -> Step:
    """Answer with JSON, or with bytes as they are."""
    body = told if isinstance(told, bytes) else json.dumps(told).encode()

    def step(handler: Handler, got: Got) -> None:
        handler.send_response(status)
        for name, value in (
            {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
        ).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return step


def refuses(status: int, detail: str = "Not now.", **headers: str) -> Step:
    """Answer as Towers refuses."""
    return says(status, {"field": None, "detail": detail, "request_id": "the server's"}, **headers)


def closes(handler: Handler, got: Got) -> None:
    """Hang up without a word."""
    handler.close_connection = True


def keeps_silent(handler: Handler, got: Got) -> None:
    """Read, and never answer while the test goes on."""
    handler.told.over.wait(PATIENCE_S)
    closes(handler, got)


def drips(handler: Handler, got: Got) -> None:
    """An answer of 2,000 bytes, one every 10 ms."""
    handler.send_response(200)
    handler.send_header("Content-Length", "2000")
    handler.end_headers()
    while handler.told.sent < 2_000 and not handler.told.over.wait(0.01):
        handler.wfile.write(b" ")
        handler.told.sent += 1


def passes_on(url: str) -> Step:
    """Ask the real server, and answer what it answered."""

    def step(handler: Handler, got: Got) -> None:
        came = _asked(url, got)
        says(came.status_code, came.content, **{k: came.headers[k] for k in ("ETag", "X-Request-ID") if k in came.headers})(handler, got)

    return step


def loses_the_answer_of(url: str) -> Step:
    """Ask the real server, and hang up."""

    def step(handler: Handler, got: Got) -> None:
        assert _asked(url, got).status_code == 200
        closes(handler, got)

    return step


def _asked(url: str, got: Got) -> httpx.Response:
    headers = {name: value for name, value in got.headers.items() if name not in ("host", "content-length", "connection")}
    with httpx.Client(timeout=PATIENCE_S) as http:
        return http.send(http.build_request(got.method, httpx.URL(url, raw_path=got.path.encode()), headers=headers, content=got.body))


@contextmanager
def told(*steps: Step) -> Iterator[Told]:
    """A server on 127.0.0.1 that takes these steps."""
    handler = type("Taking", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.told = Told(f"http://127.0.0.1:{server.server_port}", list(steps))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield handler.told
    finally:
        handler.told.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def under_uvicorn(app: FastAPI) -> Iterator[str]:
    """The address of an application that really listens."""
    door = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "uvicorn did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        door.close()


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return f"http://127.0.0.1:{door.getsockname()[1]}"
