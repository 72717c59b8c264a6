"""A release opened in this process as `python -m serve` opens it, for benches that ask it directly; and on what machine they did."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from serve import local_triton
from serve.course import Policy
from serve.panel import Budget
from serve.recommender import Recommender
from serve.release import Release
from serve.settings import Settings
from serve.sources import Source, trends_of, usual
from serve.store import Store, open_store
from serve.tops import Pool, Tops
from serve.triton import Client
from towers.record import commit

RESULTS = Path(__file__).parent / "results"


class Opened(NamedTuple):
    """What answers with a release, part by part, and its own sources, at rest: counts as they were when the log ended."""

    chosen: Settings
    release: Release
    client: Client
    store: Store
    sources: tuple[Source, ...]

    def recommender(
        self, *, sources: Sequence[Source] | None = None, budgets: Mapping[str, Budget] | None = None, policy: Policy | None = None
    ) -> Recommender:
        """A recommender of these parts, where they are not told otherwise. Close its panel, not it: the client is everybody's."""
        usual_policy = Policy(self.chosen.rules, self.chosen.precomputed, self.chosen.deadline_ms)
        return Recommender.of(
            self.release, self.client, store=self.store, budgets=budgets or self.chosen.sources, policy=policy or usual_policy,
            sources=sources or self.sources,
        )  # fmt: skip


@contextmanager
def opened(chosen: Settings) -> Iterator[Opened]:
    """The current release of `chosen.releases`, its models on a Triton of its own, found to answer as they did at export."""
    release = Release.open(chosen.releases / "current")
    models = tuple(spec.name for spec in (release.user_tower, release.item_tower, release.ranker))
    tops = Tops.of(trends_of(release), Pool(new_days=chosen.rules.new_days))
    chosen.state.mkdir(parents=True, exist_ok=True)
    kept = {"history_length": chosen.history_length, "shown_days": chosen.rules.shown_days}
    with closing(open_store(chosen.store or chosen.state / "live.sqlite", **kept)) as store:
        store.load_histories(release.path / "histories.parquet", release.path / "users.parquet", version=release.manifest.version)
        with local_triton.start(release.path / "triton", log_path=chosen.state / "triton.log", models=models) as server:
            client = Client(server.grpc_url, timeout_ms=chosen.triton.timeout_ms)
            release.check_golden(Client(server.grpc_url, timeout_ms=30_000))
            try:
                yield Opened(chosen, release, client, store, usual(release, chosen.editorial, lambda: tops))
            finally:
                client.close()


def machine() -> dict[str, object]:
    """Which code ran where, for the JSON of a bench."""
    names = ("torch", "numpy", "faiss-cpu", "tritonclient", "nvidia-pytriton")
    return {
        "commit": commit(), "cores": os.cpu_count(), "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(), "load_average": os.getloadavg()[0],
    } | {name: version(name) for name in names}  # fmt: skip


def keep(name: str, label: str, found: Mapping[str, object]) -> None:
    """Write what a bench found into bench/results/<name>.json, beside what stands there under other labels."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_bytes()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known | {label: found}, indent=1, ensure_ascii=False))
