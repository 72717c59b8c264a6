"""How long a full request takes, and where the time goes: p50, p99 and throughput, in process and over HTTP, on the real Triton server.

    python -m bench.serving                                  # 500,000 synthetic items of width 256; some minutes more the first time
    python -m bench.serving --items 20000 --requests 100
    python -m bench.serving --scale 1                        # the budgets as they are: of this release 750 candidates rather than 1,000

A request is the homepage of a user with 50 events, made live and as conf/serve.yaml has it: history from SQLite, user tower, seven sources,
filters, ranker, a page of 25, verified reasons. In process, threads call one `Recommender`; over HTTP, `python -m serve up` answers
connections that are kept alive. What asks shares the machine's cores with what answers. Rounds alternate; a figure is the median of the
rounds, beside the load of the machine. CPU ms is that of this process and all it started, client included: what a request costs, and what
other load hardly changes. A fallback is an answer that was not personalised, or was made without some part.
"""

import argparse
import http.client
import json
import math
import os
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
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in serve.__main__

import numpy as np

from bench.opened import keep, machine, opened
from bench.serving_release import ENCODERS, NOW_MS, World, write
from serve.contract import Request
from serve.course import SOURCES_OF
from serve.panel import BUDGETS
from serve.recommender import Recommender
from serve.settings import Settings, settings
from serve.tally import Tally

ROOT = Path(__file__).resolve().parents[1]
WARM_UP, READY_S, COUNT, LOOKED_INTO, CURATED = 40, 180, 25, 50, 50


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


def chosen_settings(releases: Path, state: Path, scale: float, port: int = 0) -> tuple[Settings, list[str]]:
    """(conf/serve.yaml for this bench, the overrides that make it): budgets times `scale`, an editorial list of `CURATED` items."""
    state.mkdir(exist_ok=True)
    curated = state / "editorial.yaml"
    curated.write_text("".join(f"- {{item_id: i{101 * row}, from: 2020-01-01, until: 2035-01-01}}\n" for row in range(CURATED)))
    overrides = [f"releases={releases}", f"state={state}", f"editorial={curated}", f"port={port}"]
    overrides += [f"sources.{name}.candidates={round(scale * BUDGETS[name].candidates)}" for name in SOURCES_OF["homepage"]]
    return settings(overrides), overrides


def asking(recommender: Recommender) -> Ask:
    """What asks a recommender of this process."""

    def ask(user_id: str) -> Answer:
        start = time.perf_counter()
        slate = recommender.recommend(Request(user_id, NOW_MS, count=COUNT, live=True))
        ms = 1000 * (time.perf_counter() - start)
        reasons = sum(shown.reason.startswith("Because") for shown in slate.recommendations)
        return Answer(ms, slate.generated_in_ms, slate.stage_ms, slate.answered_by, reasons)

    return ask


def candidates(recommender: Recommender, users: list[str]) -> dict[str, object]:
    """How many candidates a request has: proposed by each source, merged, and after the filters; means, and the fewest merged."""
    merged, kept, by_source = [], [], Counter()
    for user_id in users:
        course = recommender.course(Request(user_id, NOW_MS, count=COUNT), recommender.store.read(user_id), Tally())
        merged.append(len(course.proposed.item_row_K))
        kept.append(len(course.candidates.item_row_K))
        for name in recommender.panel.names:
            by_source[name] += int(recommender.panel.proposed_by(course.proposed, name).sum())
    sources = {name: count / len(users) for name, count in by_source.items() if count}
    return {"merged": float(np.mean(merged)), "fewest_merged": min(merged), "after_filters": float(np.mean(kept)), "by_source": sources}


@contextmanager
def over_http(releases: Path, state: Path, scale: float) -> Iterator[Ask]:
    """`python -m serve up` in a process of its own, asked over connections that each thread keeps."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _, overrides = chosen_settings(releases, state, scale, port)
    with (state / "http.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "serve", "up", *overrides], cwd=ROOT, stdout=log, stderr=log)
    door = Door(port)

    def ask(user_id: str) -> Answer:
        start = time.perf_counter()
        door.connection.request(
            "GET", "/v1/recommendations?" + urlencode({"user_id": user_id, "count": COUNT, "time": NOW_MS, "live": "true"})
        )
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
        "fallbacks": sum(answer.answered_by != "personalised" for answer in answers),
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
    fallbacks = sum(one["fallbacks"] for one in measured)
    return found | {"stage_p50_ms": stages, "answered_by": dict(by), "fallbacks": fallbacks, "rounds": measured}


def show(found: Mapping[str, Mapping[int, dict[str, object]]]) -> None:
    """Print both tables in Markdown: the whole request, then its stages."""
    columns = [(door, concurrency, row) for door, rows in found.items() for concurrency, row in rows.items()]
    print(
        "\n| door | at once | p50 ms | p99 ms | requests/s | CPU ms a request | reasons a slate | load average | fallbacks | answered by |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for door, concurrency, row in columns:
        by = ", ".join(f"{name} {count}" for name, count in row["answered_by"].items())
        print(f"| {door} | {concurrency} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['requests_per_second']:.1f} ", end="")
        print(f"| {row['cpu_ms']:.1f} | {row['reasons_a_slate']:.1f} | {row['load_average']:.1f} | {row['fallbacks']} | {by} |")
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
    parser.add_argument(
        "--scale", type=float, default=1.5, help="of every source's budget: what they propose overlaps, and 1,000 merged are wanted"
    )
    parser.add_argument("--requests", type=int, default=300, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--doors", nargs="+", choices=("in process", "http"), default=["in process", "http"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "towers-bench-serving", help="keeps the releases")
    parser.add_argument("--label", help="what the JSON files these figures under; the sizes unless told")
    chosen = parser.parse_args()
    label = chosen.label or f"{chosen.items:,} items, scale {chosen.scale:g}"
    world = World(
        chosen.items, chosen.users, chosen.width, encoder=chosen.encoder, threads=chosen.threads, instances=chosen.instances
    )  # fmt: skip
    releases = chosen.folder / world.version
    if not (releases / "current").exists():
        releases.mkdir(parents=True, exist_ok=True)
        print(f"building a release of {world.items:,} items in {releases}: minutes, but only once", flush=True)
        write(world, releases)
    found, looked_into = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        if "in process" in chosen.doors:
            with opened(chosen_settings(releases, Path(folder) / "in-process", chosen.scale)[0]) as parts:
                recommender = parts.recommender()
                found["in process"] = {at: middle(measured) for at, measured in rounds(asking(recommender), chosen).items()}
                looked_into = candidates(recommender, [f"u{number}" for number in range(min(LOOKED_INTO, chosen.users))])
        if "http" in chosen.doors:
            with over_http(releases, Path(folder) / "http", chosen.scale) as ask:
                found["http"] = {at: middle(measured) for at, measured in rounds(ask, chosen).items()}
    if looked_into:
        sources = ", ".join(f"{name} {count:.0f}" for name, count in looked_into["by_source"].items())
        print(
            f"\ncandidates a request: {looked_into['merged']:.0f} merged (never below {looked_into['fewest_merged']}) of {sources}; ",
            end="",
        )
        print(f"{looked_into['after_filters']:.0f} after the filters")
    show(found)
    told = machine() | {"requests": chosen.requests, "scale": chosen.scale}
    keep("serving", label, {"world": world._asdict(), "machine": told, "candidates": looked_into, "doors": found})


if __name__ == "__main__":
    main()
