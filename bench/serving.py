"""How long a full request takes, and where the time goes: p50, p99 and throughput, in process and over HTTP, on the real Triton server.

    python -m bench.serving                                  # 500,000 synthetic items of width 256; some minutes more the first time
    python -m bench.serving --items 20000 --requests 100
    python -m bench.serving --collaborative 900              # 1,000 candidates rather than 600

A request is the homepage of a user with 50 events: history from SQLite, user tower, two sources, filters, ranker, MMR to 25, verified
reasons. In process, threads call one `Recommender`; over HTTP, `python -m serve up` answers connections that are kept alive. What asks
shares the machine's cores with what answers. Rounds alternate; a figure is the median of the rounds, beside the load of the machine.
CPU ms is that of this process and all it started, client included: what a request costs, and what other load hardly changes.
"""

import argparse
import http.client
import json
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import numpy as np

from bench.serving_release import ENCODERS, NOW_MS, World, write
from serve import local_triton
from serve.contract import Request
from serve.panel import Budget
from serve.recommender import BUDGETS, Recommender
from serve.release import Release
from serve.sqlite_store import SqliteStore
from serve.triton import Client
from towers.record import commit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "serving.json"
WARM_UP, READY_S, COUNT = 40, 180, 25


class Answer(NamedTuple):
    """What came of one request: ms until the caller had it, ms by the recommender's own clock and by stage, by whom, how many reasons."""

    ms: float
    inside_ms: float
    stage_ms: Mapping[str, float]
    answered_by: str
    reasons: int


Ask = Callable[[str], Answer]


class Door(threading.local):
    """A connection for each thread that asks."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)


@contextmanager
def in_process(release: Path, state: Path, collaborative: int) -> Iterator[Ask]:
    """A `Recommender` in this process, its models on a Triton of its own."""
    opened = Release.open(release)
    store = SqliteStore(state / "in-process.sqlite")
    store.load_histories(release / "histories.parquet", release / "users.parquet", version=opened.manifest.version)
    models = tuple(spec.name for spec in (opened.user_tower, opened.item_tower, opened.ranker))
    budgets = {**BUDGETS, "collaborative": Budget(collaborative, BUDGETS["collaborative"].timeout_ms)}
    with local_triton.start(opened.path / "triton", log_path=state / "in-process.log", models=models) as server:
        recommender = Recommender.verified(opened, Client(server.grpc_url), store=store, budgets=budgets)

        def ask(user_id: str) -> Answer:
            start = time.perf_counter()
            slate = recommender.recommend(Request(user_id, NOW_MS, count=COUNT))
            ms = 1000 * (time.perf_counter() - start)
            reasons = sum(shown.reason.startswith("Because") for shown in slate.recommendations)
            return Answer(ms, slate.generated_in_ms, slate.stage_ms, slate.answered_by, reasons)

        yield ask
        recommender.close()
    store.close()


@contextmanager
def over_http(releases: Path, state: Path, collaborative: int) -> Iterator[Ask]:
    """`python -m serve up` in a process of its own, asked over connections that each thread keeps."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serve", "up", f"releases={releases}", f"state={state / 'http'}", f"port={port}"]
    with (state / "http.log").open("w") as log:
        budget = f"sources.collaborative.candidates={collaborative}"
        process = subprocess.Popen([*command, budget], cwd=ROOT, stdout=log, stderr=log)
    door = Door(port)

    def ask(user_id: str) -> Answer:
        start = time.perf_counter()
        door.connection.request("GET", "/v1/recommendations?" + urlencode({"user_id": user_id, "count": COUNT, "time": NOW_MS}))
        body = door.connection.getresponse().read()
        ms = 1000 * (time.perf_counter() - start)
        told = json.loads(body)
        reasons = sum(shown["reason"].startswith("Because") for shown in told["recommendations"])
        return Answer(ms, told["generated_in_ms"], told["stage_ms"], told["answered_by"], reasons)

    try:
        _wait_until_ready(port, process, state / "http.log")
        yield ask
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise RuntimeError(f"python -m serve up was not ready within {READY_S} s; {log} says why: {log.read_text()[-1000:]}")


def cpu_ms(process: int) -> float:
    """Milliseconds that a process, its children, their children, … have computed since they began (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended since it was listed
            continue
        used += sum(cpu_ms(int(child)) for child in children)
    return used


def measure(ask: Ask, users: list[str], concurrency: int) -> dict[str, object]:
    """One round: every user asked for once, `concurrency` at a time."""
    load = os.getloadavg()[0]
    with ThreadPoolExecutor(concurrency) as threads:
        cpu, start = cpu_ms(os.getpid()), time.perf_counter()
        answers = list(threads.map(ask, users))
        seconds, cpu = time.perf_counter() - start, cpu_ms(os.getpid()) - cpu
    ms = [answer.ms for answer in answers]
    names = dict.fromkeys(name for answer in answers for name in answer.stage_ms)  # an answer without models has fewer stages
    stages = {name: float(np.median([answer.stage_ms[name] for answer in answers if name in answer.stage_ms])) for name in names}
    return {
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
        "requests_per_second": len(users) / seconds,
        "cpu_ms": cpu / len(users),
        "load_average": load,
        "stage_p50_ms": stages | {"around it": float(np.median([answer.ms - answer.inside_ms for answer in answers]))},
        "answered_by": dict(Counter(answer.answered_by for answer in answers)),
        "reasons_a_slate": float(np.mean([answer.reasons for answer in answers])),
    }


def rounds(ask: Ask, chosen: argparse.Namespace) -> dict[int, list[dict[str, object]]]:
    """Rounds at every concurrency in turn, after a warm-up that is not counted."""
    rng = np.random.default_rng(1)

    def users(count: int) -> list[str]:
        return [f"u{number}" for number in rng.integers(0, chosen.users, count)]

    measure(ask, users(WARM_UP), max(chosen.concurrency))
    found: dict[int, list[dict[str, object]]] = {concurrency: [] for concurrency in chosen.concurrency}
    for _ in range(chosen.rounds):
        for concurrency in chosen.concurrency:
            found[concurrency].append(measure(ask, users(chosen.requests), concurrency))
    return found


def middle(measured: list[dict[str, object]]) -> dict[str, object]:
    """The median over rounds of every figure; all rounds stay in the JSON."""
    figures = ("p50_ms", "p99_ms", "requests_per_second", "cpu_ms", "load_average", "reasons_a_slate")
    found = {name: statistics.median(one[name] for one in measured) for name in figures}
    names = dict.fromkeys(name for one in measured for name in one["stage_p50_ms"])
    stages = {name: statistics.median(one["stage_p50_ms"][name] for one in measured if name in one["stage_p50_ms"]) for name in names}
    by = sum((Counter(one["answered_by"]) for one in measured), Counter())
    return found | {"stage_p50_ms": stages, "answered_by": dict(by), "rounds": measured}


def show(found: Mapping[str, Mapping[int, dict[str, object]]]) -> None:
    """Print both tables in Markdown: the whole request, then its stages."""
    columns = [(door, concurrency, row) for door, rows in found.items() for concurrency, row in rows.items()]
    print("\n| door | at once | p50 ms | p99 ms | requests/s | CPU ms a request | reasons a slate | load average | answered by |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---|")
    for door, concurrency, row in columns:
        by = ", ".join(f"{name} {count}" for name, count in row["answered_by"].items())
        print(f"| {door} | {concurrency} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['requests_per_second']:.1f} ", end="")
        print(f"| {row['cpu_ms']:.1f} | {row['reasons_a_slate']:.1f} | {row['load_average']:.1f} | {by} |")
    print("\n| stage, p50 ms | " + " | ".join(f"{door}, {concurrency}" for door, concurrency, _ in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for stage in columns[0][2]["stage_p50_ms"]:
        print(f"| {stage} | " + " | ".join(f"{row['stage_p50_ms'].get(stage, math.nan):.2f}" for *_, row in columns) + " |", flush=True)


def main() -> None:
    """Print the tables and write bench/results/serving.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--encoder", choices=ENCODERS, default="mean")
    parser.add_argument("--threads", type=int, default=1, help="of each model instance on Triton")
    parser.add_argument("--instances", type=int, default=1, help="of each model on Triton")
    parser.add_argument("--collaborative", type=int, default=500, help="candidates of this source; popular adds up to 100")
    parser.add_argument("--requests", type=int, default=300, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--doors", nargs="+", choices=("in process", "http"), default=["in process", "http"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "towers-bench-serving", help="keeps the releases")
    parser.add_argument("--label", help="what the JSON files these figures under; the number of candidates unless told")
    chosen = parser.parse_args()
    label = chosen.label or f"{chosen.collaborative + BUDGETS['popular'].candidates:,} candidates"
    world = World(
        chosen.items, chosen.users, chosen.width, encoder=chosen.encoder, threads=chosen.threads, instances=chosen.instances
    )  # fmt: skip
    releases = chosen.folder / world.version
    if not (releases / "current").exists():
        releases.mkdir(parents=True, exist_ok=True)
        print(f"building a release of {world.items:,} items in {releases}: minutes, but only once", flush=True)
        write(world, releases)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        if "in process" in chosen.doors:
            with in_process(releases / "current", state, chosen.collaborative) as ask:
                found["in process"] = {at: middle(measured) for at, measured in rounds(ask, chosen).items()}
        if "http" in chosen.doors:
            with over_http(releases, state, chosen.collaborative) as ask:
                found["http"] = {at: middle(measured) for at, measured in rounds(ask, chosen).items()}
    show(found)
    machine = {
        "commit": commit(), "cores": os.cpu_count(), "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(), "requests": chosen.requests, "collaborative": chosen.collaborative,
    } | {name: version(name) for name in ("torch", "numpy", "faiss-cpu", "tritonclient", "nvidia-pytriton")}  # fmt: skip
    known = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known | {label: {"world": world._asdict(), "machine": machine, "doors": found}}, indent=1))


if __name__ == "__main__":
    main()
