"""What choosing a slate costs: ms for 25 of 1,000 candidates of width 256 by MMR, by a DPP, by calibration; and the giving of places.

    python -m bench.slates                   # one BLAS thread, whatever the environment says
    python -m bench.slates --at-once 2       # as many threads choose beside each other, as threads of a server do

CPU ms is what other load changes least. Vectors are float16 rows as the item table holds them, so that their conversion is in
the figure. Relevance is skewed as a ranker's is.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from serve import calibration, dpp, mmr, slots
from serve.serendipity import different
from towers.record import commit

RESULTS = Path(__file__).parent / "results" / "slates.json"
WARM_UP, GENRES, CREATORS, HISTORY, MMR_LAMBDA = 30, 20, 300, 50, 0.7


def choosers(candidates: int, width: int, count: int, seed: int = 0) -> dict[str, Callable[[], object]]:
    """What is timed, by name, over the same candidates: items around a few dozen centres, as trained vectors lie."""
    rng = np.random.default_rng(seed)
    centre_CD = rng.normal(size=(40, width))
    vector_KD = (centre_CD[rng.integers(0, 40, candidates)] + rng.normal(size=(candidates, width))).astype(np.float16)
    history_ED = (centre_CD[rng.integers(0, 40, HISTORY)] + rng.normal(size=(HISTORY, width))).astype(np.float16)
    relevance_K = rng.beta(1, 6, candidates).astype(np.float32)
    genre_KG = (rng.random((candidates, GENRES)) < 0.12).astype(np.float32)
    share_G = rng.dirichlet(np.full(GENRES, 0.5)).astype(np.float32)
    order_J = np.argsort(-relevance_K, kind="stable")
    rules = {
        "groups": {kind: rng.permutation(candidates)[:100] for kind in ("trending", "new", "popular", "different")},
        "plan": {kind: slots.Turn(6 + 2 * n, 3 + n) for n, kind in enumerate(("trending", "new", "popular", "different"))},
        "reserved": {0: int(order_J[-1]), 7: int(order_J[-2])},
        "caps": {
            "genre": slots.Cap(np.where(genre_KG > 0, np.arange(GENRES), -1), 6),
            "creator": slots.Cap(rng.integers(0, CREATORS, candidates), 2),
            "franchise": slots.Cap(np.where(rng.random(candidates) < 0.2, rng.integers(0, 50, candidates), -1), 1),
        },
    }
    chosen = {"count": count, "mmr_lambda": MMR_LAMBDA}
    return {
        "mmr": lambda: mmr.select(relevance_K, vector_KD, **chosen),
        "dpp": lambda: dpp.select(relevance_K, vector_KD, **chosen),
        "calibrated": lambda: calibration.select(relevance_K, genre_KG, share_G, **chosen),
        "different": lambda: different(relevance_K, vector_KD, history_ED),
        f"fill {count}": lambda: slots.fill(order_J, count=count, **rules),
        f"fill {4 * count}": lambda: slots.fill(order_J, count=4 * count, **rules),
    }


def measure(choose: Callable[[], object], runs: int, at_once: int) -> dict[str, float]:
    """ms of each of `runs` calls in each of `at_once` threads, by the clock and of CPU."""

    def times(_: int) -> list[tuple[float, float]]:
        found = []
        for _ in range(WARM_UP + runs):
            start, cpu = time.perf_counter(), time.thread_time()
            choose()
            found.append((1000 * (time.perf_counter() - start), 1000 * (time.thread_time() - cpu)))
        return found[WARM_UP:]

    load = os.getloadavg()[0]
    with ThreadPoolExecutor(at_once) as threads:
        ms, cpu_ms = np.concatenate(list(threads.map(times, range(at_once)))).T
    figures = {"p50_ms": np.median(ms), "p99_ms": np.percentile(ms, 99), "fastest_ms": ms.min(), "cpu_p50_ms": np.median(cpu_ms)}
    return {name: float(figure) for name, figure in figures.items()} | {"load_average": load}


def main() -> None:
    """Print the table and write bench/results/slates.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.slates", description=__doc__.partition("\n")[0])
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--at-once", type=int, default=1, help="threads that choose beside each other")
    chosen = parser.parse_args()
    name = f"{chosen.candidates:,} × {chosen.width} → {chosen.count}, {chosen.at_once} at once"
    print(f"\n{name}\n\n| chooser | p50 ms | p99 ms | fastest ms | CPU p50 ms | load average |\n|---|---:|---:|---:|---:|---:|")
    rows = {}
    with threadpool_limits(1, user_api="blas"):
        for chooser, choose in choosers(chosen.candidates, chosen.width, chosen.count).items():
            rows[chooser] = row = measure(choose, chosen.runs, chosen.at_once)
            print(f"| {chooser} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |", flush=True)
    machine = {
        "commit": commit(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "numpy": np.__version__,
    }
    known = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | {name: machine | {"runs": chosen.runs, "choosers": rows}}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
