"""What each index finds and what it costs: recall@k against exact search, build seconds, megabytes, milliseconds a query.

    python -m bench.index                                    # 500,000 synthetic vectors of width 256, in clusters; some minutes
    python -m bench.index --release releases/current         # the trained vectors of a release, asked by its own users
    python -m bench.index --vectors items.npy --queries queries.npy --name "Gowalla, id two-tower" -k 100 500
    python -m bench.index --items 100000 --width 64 --kinds exact ivf_sq8

One query at a time is what a request does. Half of the queries are measured with; the other half are what `… by queries` chooses its
probes or its queue by, where plain `ivf_sq8` and `hnsw` choose by items. Synthetic clusters flatter IVF: believe the trained vectors.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import polars as pl
import torch

from data.features import HOUR_MS
from serve.contract import History, ModelSpec, Request, UserFields
from serve.index import Index, exact, hnsw, ivf_sq8, recall
from serve.release import Release
from serve.scoring import Scorer, pack, person
from towers.record import commit

BATCH, WARM_UP = 64, 20


class Vectors(NamedTuple):
    """What is searched and by what: float32 (I, D), and (B, D) twice: to measure with and to choose probes by."""

    name: str
    item_ID: np.ndarray
    query_BD: np.ndarray
    other_query_BD: np.ndarray


@dataclass(frozen=True, slots=True)
class InProcess:
    """A release's user tower without a server, for the queries of many users at once."""

    script: torch.jit.ScriptModule

    @torch.no_grad()
    def infer(self, _: ModelSpec, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """As `serve.triton.Client.infer`."""
        return (self.script(*map(torch.tensor, arrays)).numpy(),)


def synthetic(items: int, width: int, clusters: int, spread: float, queries: int, seed: int) -> Vectors:
    """Unit vectors around random centres; `spread` is the length of the noise, that of a centre being 1."""
    rng = np.random.default_rng(seed)
    centre_CD = rng.normal(size=(clusters, width)).astype(np.float32)

    def draw(count: int) -> np.ndarray:
        vector = centre_CD[rng.integers(0, clusters, count)] + np.float32(spread) * rng.standard_normal((count, width), np.float32)
        return vector / np.linalg.norm(vector, axis=1, keepdims=True)

    name = f"{items:,} synthetic vectors of width {width} in {clusters:,} clusters, spread {spread}"
    return Vectors(name, draw(items), draw(queries), draw(queries))


def trained(path: Path, queries: int, seed: int) -> Vectors:
    """The retrieval vectors of a release, and the query vectors of random users of it an hour after the last thing each did."""
    release = Release.open(path)
    scorer = Scorer(release, InProcess(torch.jit.load(release.path / "triton/user_tower/1/model.pt")))
    histories = pl.read_parquet(release.path / "histories.parquet")
    histories = histories.sample(min(2 * queries, len(histories)), seed=seed)
    query = np.concatenate([_query(scorer, *row) for row in _histories(histories)])
    manifest = release.manifest
    vector_ID = release.items[: manifest.item_count, manifest.width :].astype(np.float32)
    name = f"release {manifest.version}: {manifest.item_count:,} trained vectors of width {manifest.width}"
    return Vectors(name, vector_ID, query[::2], query[1::2])


def _histories(frame: pl.DataFrame) -> Iterator[tuple[str, History]]:
    for user_id, item_ids, codes, ratings, times in frame.select("user_id", "item_id", "event_type", "rating", "timestamp").iter_rows():
        yield user_id, History(tuple(item_ids), np.array(codes), np.array(ratings, np.float32), np.array(times))


def _query(scorer: Scorer, user_id: str, history: History) -> np.ndarray:
    who, _ = person(scorer.release, Request(user_id, int(history.timestamp_L[-1]) + HOUR_MS), history, UserFields())
    return scorer.query(pack(who, scorer.release.manifest.history_length), who.moment_BC)


def given(items: Path, queries: Path, count: int, seed: int, name: str) -> Vectors:
    """Vectors from two .npy files, (I, D) and (more than 2·`count`, D)."""
    vector_ID, query_BD = (np.load(path).astype(np.float32) for path in (items, queries))
    query_BD = np.random.default_rng(seed).permutation(query_BD)[: 2 * count]
    return Vectors(f"{name}: {len(vector_ID):,} vectors of width {vector_ID.shape[1]}", vector_ID, query_BD[::2], query_BD[1::2])


def measure(index: Index, judge: Index, query_BD: np.ndarray, k: int) -> dict[str, float]:
    """Recall of one index and its times, per query, alone and in batches of 64."""
    for place in range(WARM_UP):
        index.search(query_BD[[place % len(query_BD)]], k)
    alone_ms = [_ms(index, query_BD[[place]], k) for place in range(len(query_BD))]
    batch_ms = [_ms(index, np.resize(query_BD, (BATCH, index.width)), k) / BATCH for _ in range(5)]
    return {
        "recall": recall(index, judge, query_BD, k),
        "p50_ms": float(np.percentile(alone_ms, 50)),
        "p99_ms": float(np.percentile(alone_ms, 99)),
        "batch_ms": float(np.median(batch_ms)),
    }


def _ms(index: Index, query_BD: np.ndarray, k: int) -> float:
    start = time.perf_counter()
    index.search(query_BD, k)
    return 1000 * (time.perf_counter() - start)


def compare(vectors: Vectors, ks: list[int], kinds: list[str]) -> dict[str, dict[str, object]]:
    """Print one table in Markdown; its rows, by index."""
    judge = exact(vectors.item_ID)
    builders: Mapping[str, Callable[[], Index]] = {
        "exact": lambda: exact(vectors.item_ID),
        "ivf_sq8": lambda: ivf_sq8(vectors.item_ID),
        "ivf_sq8 by queries": lambda: ivf_sq8(vectors.item_ID, query_BD=vectors.other_query_BD),
        "hnsw": lambda: hnsw(vectors.item_ID),
        "hnsw by queries": lambda: hnsw(vectors.item_ID, query_BD=vectors.other_query_BD),
    }
    print(f"\n{vectors.name}; {len(vectors.query_BD)} queries\n")
    print("| index | build s | MB | " + " | ".join(f"recall@{k} | p50 ms | p99 ms | ms in {BATCH}" for k in ks) + " |")
    print("|---|" + "---:|" * (2 + 4 * len(ks)))
    rows = {}
    for kind in kinds:
        start = time.perf_counter()
        index = builders[kind]()
        built = {"build_s": time.perf_counter() - start, "megabytes": _megabytes(index)}
        by_k = {k: measure(index, judge, vectors.query_BD, k) for k in ks}
        rows[kind] = built | {"k": by_k, "load_average": os.getloadavg()[0]}
        cells = [f"{one['recall']:.4f} | {one['p50_ms']:.2f} | {one['p99_ms']:.2f} | {one['batch_ms']:.2f}" for one in by_k.values()]
        print(f"| {kind} | {built['build_s']:.1f} | {built['megabytes']:.0f} | {' | '.join(cells)} |", flush=True)
    return rows


def _megabytes(index: Index) -> float:
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index.faiss")
        return (Path(folder) / "index.faiss").stat().st_size / 1e6


def main() -> None:
    """Print the tables and write bench/results/index.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.index", description=__doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--release", type=Path, help="a release's folder")
    source.add_argument("--vectors", type=Path, help="item vectors in a .npy file, with --queries; without either they are synthetic")
    parser.add_argument("--queries", type=Path, help="query vectors in a .npy file")
    parser.add_argument("--name", default="given", help="what to call the vectors of --vectors")
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=2_000)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=200, help="queries to measure with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-k", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--kinds", nargs="+", default=["exact", "ivf_sq8", "ivf_sq8 by queries", "hnsw", "hnsw by queries"])
    chosen = parser.parse_args()
    if (chosen.vectors is None) != (chosen.queries is None):
        parser.error("--vectors and --queries go together")
    if chosen.release is not None:
        vectors = trained(chosen.release, chosen.count, chosen.seed)
    elif chosen.vectors is not None:
        vectors = given(chosen.vectors, chosen.queries, chosen.count, chosen.seed, chosen.name)
    else:
        vectors = synthetic(chosen.items, chosen.width, chosen.clusters, chosen.spread, chosen.count, chosen.seed)
    rows = compare(vectors, chosen.k, chosen.kinds)
    path = Path(__file__).parent / "results" / "index.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_bytes()) if path.exists() else {}
    before = known.get(vectors.name, {}).get("indexes", {})
    machine = {"commit": commit(), "faiss": faiss.__version__, "cores": os.cpu_count(), "gpus": faiss.get_num_gpus()}
    path.write_text(json.dumps(known | {vectors.name: machine | {"indexes": before | rows}}, indent=1))


if __name__ == "__main__":
    main()
