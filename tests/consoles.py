"""A whole server over three small releases, as `python -m serve up` has it, that a browser and a Prometheus may look at."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import uvicorn

from serve import publication
from serve.api import create_app
from serve.api.app import OPEN
from serve.api.keys import Keys
from serve.engine import Engine
from serve.live import wall_ms
from tests.engines import published, started

STARTED_S = 60


@dataclass(frozen=True, slots=True)
class Watched:
    """A server at `address`; `keys` opens it by role. Of its releases in `root` v2 is current, v1 was before it, v3 was rolled back."""

    address: str
    engine: Engine
    root: Path
    keys: dict[str, str]

    def visit(self) -> None:
        """Some of everything: pages of users and strangers, precomputed and live, neighbours, events, and a request that is refused."""
        with self.engine.fleet.champion() as served:
            ahead = {user: served.recommender.ahead(user, self.engine.now_ms()) for user in ("u1", "u2")}
            self.engine.store.put_precomputed(ahead)
        with httpx.Client(base_url=self.address, timeout=60) as client:
            for number in range(10):
                asked = {"user_id": f"u{number}", "count": 20, "live": number > 5}
                shown = client.get("/v1/recommendations", params=asked).raise_for_status().json()["recommendations"]
                event = {"user_id": f"u{number}", "item_id": shown[0]["item_id"], "event_type": "click"}
                client.post("/v1/events", json=event).raise_for_status()
            client.get("/v1/items/i3/similar").raise_for_status()
            client.get("/v1/experiments").raise_for_status()
            assert client.get("/v1/recommendations", params={"user_id": "u1", "count": 0}).status_code == 422


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Serve for as long as the block lasts, a point for the console every half second. The releases have the same models, so one Triton
    answers for all of them."""
    root = published(folder / "releases", "v1", "v2", "v3", items=40)
    publication.rollback(root)
    (state := folder / "state").mkdir()
    keys = Keys(state / "keys.json")
    tokens = {role: keys.add(role, role, now_ms=wall_ms()) for role in ("reader", "writer", "admin")}
    with (
        started(root, state, "judged=1.0", "precomputed.active_minutes=0", "rules.explore.epsilon=0.5") as engine,
        engine.fleet.watching(0.1),
    ):
        app = create_app(engine, replace(OPEN, keys=keys.path), every_s=0.5)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, name="watched", daemon=True)
        thread.start()
        deadline = time.monotonic() + STARTED_S
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        yield Watched(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", engine, root, tokens)
        server.should_exit = True
        thread.join()
