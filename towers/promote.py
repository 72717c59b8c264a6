"""Who is champion: a finished run is made it where it is surely better, on the same test, than the one that is.

    python -m towers.promote models/<name>                   # its newest run against the champion of that name
    python -m towers.promote models/<variant> --of <name>    # a variation against the champion of another name

Both runs' lists of the hundred best (`test_topk.parquet`, as MLflow keeps them) answer the same questions, and the alias `champion` moves
only where the paired 95 % interval of the difference lies above zero. Where there is no champion, the first to ask is it. Settings are
chosen by the validation part; the test is asked once, of what was chosen: of forty variations that are no better chance promotes one, so
the answer tells how many have been judged by this test before.

`serve retrain` asks another question at its own gate, on newer logs: whether a retrained model is surely not much worse.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Run as Page
from mlflow.entities.model_registry import ModelVersion

from towers.evaluation import per_user
from towers.lab_book import CHALLENGER, CHAMPION, PageError, note, page, register
from towers.metrics import Interval, bootstrap_difference
from towers.run_folder import CompareError, Lists, ranking_of, same_log

FINGERPRINT = "data_fingerprint"
METRICS = tuple(f"{name}_at_{k}" for name in ("ndcg", "recall", "hit_rate", "mrr", "precision") for k in (10, 20, 100))


def promote(client: MlflowClient, challenger: Page, *, of: str, metric: str = "ndcg_at_20") -> tuple[bool, str]:
    """Whether the run is champion of the registered model `of` now, and what was found, in a sentence. Its version there is the challenger.

    Raises:
        CompareError: the run is not finished, or it and the champion did not answer the same questions. Nothing is registered then.
    """
    if "model" not in artifacts(client, challenger):
        raise CompareError(f"run {challenger.info.run_id} left no model: it is not finished, or its task saves none")
    model = next(iter(client.search_registered_models(f"name = '{of}'")), None)
    reigning = model and client.get_registered_model(of).aliases.get(CHAMPION)
    champion = reigning and client.get_run(client.get_model_version(of, reigning).run_id)
    if champion and champion.info.run_id == challenger.info.run_id:
        return True, f"version {reigning} is the champion of {of} already"
    held = champion and hold(client, challenger, champion, metric=metric)
    version = register(client, of, challenger)
    client.set_registered_model_alias(of, CHALLENGER, version)
    if held is None:
        client.set_registered_model_alias(of, CHAMPION, version)
        return True, f"version {version} is the champion of {of}: there was none to hold it against"
    fingerprint, better, found = challenger.data.tags[FINGERPRINT], held.difference.low > 0, held.difference
    before = sum(one.tags.get("judged_on") == fingerprint and str(one.version) != version for one in versions(client, of))
    ends = f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    for key, value in {"judged_on": fingerprint, "against": reigning, "metric": metric, "difference": ends, "won": str(better)}.items():
        client.set_model_version_tag(of, version, key, value)
    figures = f"{held.challenger:.4f} and {held.champion:.4f}, {held.users:,} users paired"
    said = f"{metric} {ends} over version {reigning} ({figures}); judged by this test before: {before}"
    if not better:
        return False, f"version {reigning} stays the champion of {of}, for the interval does not lie above zero: {said}"
    client.set_registered_model_alias(of, CHAMPION, version)
    return True, f"version {version} is the champion of {of}: {said}"


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model."""
    found, token = [], None
    while token != "":
        part = client.search_model_versions(f"name = '{name}'", page_token=token)
        found, token = [*found, *part], part.token or ""
    return found


class Held(NamedTuple):
    """The mean figure of both over the users of the test, and how far the challenger is from the champion, paired, with its interval."""

    challenger: float
    champion: float
    difference: Interval
    users: int


def hold(client: MlflowClient, challenger: Page, champion: Page, *, metric: str) -> Held:
    """The challenger held against the champion by a metric.

    Raises:
        CompareError: other data, another split or another idea of what is liked, or the data are not what they were.
    """
    mine, other = (run.data.tags[FINGERPRINT] for run in (challenger, champion))
    if mine != other:
        ids = f"run {challenger.info.run_id} has other data than the champion's, run {champion.info.run_id}"
        raise CompareError(f"{ids} (fingerprints {mine} and {other}): train one of them on the other's")
    lists = [lists_of(client, run) for run in (challenger, champion)]
    log = same_log(lists)
    if (now := log.split.tables.fingerprint()) != mine:
        raise CompareError(f"the data have changed since both runs were trained (fingerprint {now}, it was {mine}): train both anew")
    k = int(metric.rpartition("_")[2])
    one, reigning = (per_user(ranking_of(run, log), (k,))[metric] for run in lists)
    return Held(float(one.mean()), float(reigning.mean()), bootstrap_difference(one, reigning), len(one))


def artifacts(client: MlflowClient, run: Page) -> set[str]:
    """What a run left in MLflow, by name."""
    return {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def lists_of(client: MlflowClient, run: Page) -> Lists:
    """What a run answered, as MLflow keeps it. Raises CompareError where it answered nothing."""
    with TemporaryDirectory() as folder:
        for name in artifacts(client, run) & {"config.yaml", "test_topk.parquet"}:
            client.download_artifacts(run.info.run_id, name, folder)
        return replace(Lists.open(Path(folder)), name=f"run {run.info.run_id}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and say; 0 where the run is champion now, 3 where it is not, 2 where it cannot be asked."""
    line = argparse.ArgumentParser(prog="python -m towers.promote", description=__doc__.splitlines()[0])
    line.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run or of a sweep, or models/NAME")
    line.add_argument("--of", metavar="NAME", help="the registered model whose champion is challenged; the run's own name, if not told")
    line.add_argument(
        "--metric", choices=METRICS, default="ndcg_at_20", help="of the test users, by which they are held against each other"
    )
    asked = line.parse_args(arguments)
    try:
        client, run = page(asked.run)
        run = client.get_run(run.data.tags.get("best_run", run.info.run_id))  # of a sweep, its best job
        champion, said = promote(client, run, of=asked.of or run.data.params["name"], metric=asked.metric)
    except (PageError, CompareError) as error:
        print(error, file=sys.stderr)
        return 2
    note(client, run.info.run_id, promotion=said)
    print(said)
    return 0 if champion else 3


if __name__ == "__main__":
    sys.exit(main())
