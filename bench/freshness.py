"""How soon what is posted to one server shows in the answers of another: new items and events, over HTTP, through the store they share.

    python -m bench.freshness                       # 20,000 synthetic items of width 256; a minute, and some to build the release once
    python -m bench.freshness --posts 100 --events 200

Two `python -m serve up` of one release share a store and a Triton. An item whose content is like an anchor's is posted to A at a random
time; from then on B is polled every 10 ms for the anchor's neighbours, and for the homepage of a user who completed the anchor, until
the item stands in both. The time is from before the post was sent until the answer that shows the item was read. Then events: a
user completes the first item of B's own page, posted to A; B's very next page counts as fresh if that item is gone from it.
"""

import argparse
import http.client
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from bench.serving_release import GENRES, RECIPE, World, write
from serve import local_triton
from towers.record import commit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "freshness.json"
READY_S, POLL_S, LONGEST_S = 180, 0.01, 60
MODELS = ("user_tower", "item_tower", "ranker")


class Server:
    """One `python -m serve up`, asked over a connection that is kept."""

    def __init__(self, process: subprocess.Popen, port: int):
        self.process = process
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, path: str, body: object = None, **query: object) -> dict:
        """GET, or POST of a body; the JSON of an answer that must be 200."""
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        self.connection.request(method, f"{path}?{urlencode(query)}" if query else path, data)
        response = self.connection.getresponse()
        told = json.loads(response.read())
        if response.status != http.client.OK:
            raise RuntimeError(f"{method} {path}: {response.status} {told}")
        return told

    def shown(self, path: str, **query: object) -> list[str]:
        """The ids in an answer, in order."""
        return [item["item_id"] for item in self.ask(path, **query)["recommendations"]]


@contextmanager
def serving(releases: Path, state: Path, triton_url: str, name: str) -> Iterator[Server]:
    """A server that is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    chosen = [f"releases={releases}", f"state={state}", f"triton.url={triton_url}", f"port={port}", "time=log-end"]
    log = state / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "serve", "up", *chosen], cwd=ROOT, stdout=file, stderr=file)
    server, deadline = Server(process, port), time.monotonic() + READY_S
    try:
        while True:
            try:
                server.ask("/readyz")
                server.connection.close()  # the server would, before the other one is ready; the next request opens another
                break
            except OSError as error:
                server.connection.close()
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{name} was not ready within {READY_S} s: {log.read_text()[-1000:]}") from error
                time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def item(rng: np.random.Generator, item_id: str, like: np.ndarray) -> dict:
    """An item whose embedding lies beside `like`."""
    embedding = like + 0.05 * rng.standard_normal(len(like))
    return {"item_id": item_id, "title": f"New: {item_id}", "genres": [GENRES[0]], "content_embedding": embedding.tolist()}


def new_items(a: Server, b: Server, posts: int, rng: np.random.Generator) -> dict[str, list[float]]:
    """Seconds from the post to A until it was acknowledged, and until B first showed it, by where."""
    like = rng.standard_normal(RECIPE.embedding_width)
    mark = rng.integers(1 << 40)  # a state that is used again knows the items of earlier runs
    anchor, fan = f"anchor {mark}", f"fan {mark}"
    a.ask("/v1/items", item(rng, anchor, like))
    time.sleep(3)
    a.ask("/v1/events", {"user_id": fan, "item_id": anchor, "event_type": "complete"})
    where = {
        "similar": lambda: b.shown(f"/v1/items/{anchor.replace(' ', '%20')}/similar", count=200),
        "homepage": lambda: b.shown("/v1/recommendations", user_id=fan, count=200, **{"lambda": 1}),
    }
    seconds: dict[str, list[float]] = {"acknowledged": []} | {name: [] for name in where}
    for number in range(posts):
        time.sleep(random.random())  # at no particular time of B's own second
        item_id, start = f"new {mark} {number}", time.perf_counter()
        a.ask("/v1/items", item(rng, item_id, like))
        seconds["acknowledged"].append(time.perf_counter() - start)
        missing = dict(where)
        while missing:
            for name, ask in list(missing.items()):
                if item_id in ask():
                    seconds[name].append(time.perf_counter() - start)
                    del missing[name]
            if time.perf_counter() - start > LONGEST_S:
                raise RuntimeError(f"{item_id} was not in {', '.join(missing)} within {LONGEST_S} s")
            time.sleep(POLL_S)
    return seconds


def events(a: Server, b: Server, count: int, mark: int) -> dict[str, object]:
    """Of `count` events posted to A, how many B's very next page knew; ms from sending the event to having read that page."""
    fresh, ms = 0, []
    for number in range(count):
        user_id = f"watcher {mark} {number}"
        first = b.shown("/v1/recommendations", user_id=user_id)[0]
        start = time.perf_counter()
        a.ask("/v1/events", {"user_id": user_id, "item_id": first, "event_type": "complete"})
        fresh += first not in b.shown("/v1/recommendations", user_id=user_id)
        ms.append(1000 * (time.perf_counter() - start))
    return {"events": count, "in_the_next_answer": fresh, "ms_median": statistics.median(ms), "ms_max": max(ms)}


def main() -> None:
    """Print the figures and write bench/results/freshness.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.freshness", description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--posts", type=int, default=30)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "towers-bench-freshness", help="keeps the release")
    chosen = parser.parse_args()
    world = World(chosen.items, chosen.users)
    releases = chosen.folder / world.version
    if not (releases / "current").exists():
        releases.mkdir(parents=True, exist_ok=True)
        print(f"building a release of {world.items:,} items in {releases}, once", flush=True)
        write(world, releases)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        with (
            local_triton.start(releases / "current" / "triton", log_path=state / "triton.log", models=MODELS) as triton,
            serving(releases, state, triton.grpc_url, "A") as a,
            serving(releases, state, triton.grpc_url, "B") as b,
        ):
            seconds = new_items(a, b, chosen.posts, rng)
            told = events(a, b, chosen.events, int(rng.integers(1 << 40)))
    print("\n| a new item, posted to A | median s | max s |\n|---|---:|---:|")
    found = {name: {"median_s": statistics.median(all_s), "max_s": max(all_s), "seconds": all_s} for name, all_s in seconds.items()}
    for name, row in found.items():
        print(f"| {'acknowledged by A' if name == 'acknowledged' else f'in B: {name}'} | {row['median_s']:.3f} | {row['max_s']:.3f} |")
    print(f"\nevents posted to A that B's very next answer knew: {told['in_the_next_answer']} of {told['events']}")
    print(f"(event sent to page read: median {told['ms_median']:.1f} ms, max {told['ms_max']:.1f})")
    machine = {
        "commit": commit(), "cores": os.cpu_count(), "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(), "load_average": os.getloadavg()[0], "store": "sqlite",
    } | {name: version(name) for name in ("torch", "numpy", "faiss-cpu", "tritonclient", "nvidia-pytriton")}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"world": world._asdict(), "machine": machine, "items": found, "events": told}, indent=1))


if __name__ == "__main__":
    main()
