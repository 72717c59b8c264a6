"""A real browser before a real server: Debian's Chromium by Playwright, uvicorn in a thread."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, sync_playwright

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
GONE = "net::ERR_ABORTED"  # the page itself let go of a question that a newer one replaced


class Server:
    """An application behind a port of 127.0.0.1, which can be stopped and started again on the same port."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Listen. Returns when it answers."""
        config = uvicorn.Config(self.app, host="127.0.0.1", port=self.port, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "uvicorn did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """Answer no more. Returns when the port is free."""
        self._server.should_exit = True
        self._thread.join()


@contextmanager
def served(app: FastAPI) -> Iterator[Server]:
    """The application, listening for as long as it is used."""
    server = Server(app)
    yield server
    server.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless, with no talk to anywhere of its own."""
    path = shutil.which("chromium")
    assert path, "chromium is missing: deploy/setup.sh dev installs it (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-background-networking"])
        yield browser
        browser.close()


class Complaints(list):
    """What a page's console said that was a warning or worse, what it threw, and which requests failed or were refused."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        page.on("console", lambda said: self.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("requestfailed", lambda request: self.append(f"{request.url}: {request.failure}") if request.failure != GONE else None)
        page.on("response", lambda answer: self.append(f"{answer.url}: {answer.status}") if answer.status >= 400 else None)
