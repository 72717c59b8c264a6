"""What relevance a slate gives up for diversity: the frontier over λ of each way to choose a slate, a figure of every release.

Carbonell and Goldstein (SIGIR 1998) trade the two by λ; the distance within a slate is `metrics.intra_list_diversity`.

Shapes: K candidates of one user · D width · N slate.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient

from towers.metrics import intra_list_diversity
from towers.report import frontier_figure

LAMBDAS = tuple(step / 10 for step in range(11))

Choose = Callable[..., np.ndarray]
"""`choose(relevance_K, vector_KD, count=, mmr_lambda=)` → the positions of a slate, (N,): `serve.mmr.mmr` and the like."""


def frontier(
    scored: Sequence[tuple[np.ndarray, np.ndarray]], choosers: Mapping[str, Choose], *, count: int, lambdas: Sequence[float] = LAMBDAS
) -> dict[str, list[dict[str, float]]]:
    """By chooser, per λ in the order given: `mmr_lambda`, and means over users of the slate's `relevance` and `intra_list_distance`.

    `scored` holds (relevance_K, vector_KD) of each user; one with fewer than two candidates has no distance and is left out. A slate's
    relevance is the mean of its items', its distance the mean over its pairs of 1 − cosine.

    Raises:
        ValueError: no user has two candidates, or `count` is below 2.
    """
    scored = [(relevance_K, vector_KD) for relevance_K, vector_KD in scored if len(relevance_K) > 1]
    if not scored or count < 2:
        raise ValueError(f"{len(scored)} users with two candidates and slates of {count}; a frontier needs one, and slates of two")
    points = {}
    for name, choose in choosers.items():
        points[name] = []
        for mmr_lambda in lambdas:
            slates = [(choose(*user, count=count, mmr_lambda=mmr_lambda), *user) for user in scored]
            relevance = np.mean([relevance_K[order_N].mean() for order_N, relevance_K, _ in slates])
            distance = np.mean([_distance(vector_KD[order_N]) for order_N, _, vector_KD in slates])
            points[name].append({"mmr_lambda": mmr_lambda, "relevance": float(relevance), "intra_list_distance": float(distance)})
    return points


def _distance(vector_ND: np.ndarray) -> float:
    return float(intra_list_diversity(torch.arange(len(vector_ND))[None], torch.from_numpy(vector_ND))[0])


def publish(points: Mapping[str, list[dict[str, float]]], *, version: str, run: str, tracking_uri: str) -> str:
    """Log the figure and the table of a release as `releases/<version>/frontier.png` and `.json`; the id of the MLflow run that has them.

    `run` names the retrieval run, by its id or by its folder (the tag `run_folder`). One that MLflow does not know, say of a model folder
    that was copied here, is replaced by a new run release-<version> in the experiment "releases".
    """
    client = MlflowClient(tracking_uri)
    run_id = find_run(client, run)
    known_run = run_id is not None
    if not known_run:
        releases = client.get_experiment_by_name("releases")
        experiment_id = releases.experiment_id if releases else client.create_experiment("releases")
        run_id = client.create_run(experiment_id, run_name=f"release-{version}", tags={"retrieval_run": run}).info.run_id
    client.log_figure(run_id, figure(points, version), f"releases/{version}/frontier.png")
    client.log_dict(run_id, dict(points), f"releases/{version}/frontier.json")
    if not known_run:
        client.set_terminated(run_id)
    return run_id


def find_run(client: MlflowClient, run: str) -> str | None:
    """The id of the MLflow run with this id or this folder's name, the newest where several were written to one folder; None for none."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for column in ("attributes.run_id", "tags.run_folder"):
        if found := client.search_runs(experiments, f"{column} = '{run}'", max_results=1):
            return found[0].info.run_id
    return None


def figure(points: Mapping[str, list[dict[str, float]]], version: str) -> Figure:
    """Mean relevance against mean intra-list distance, a line for each chooser and a point for each λ."""
    lines = {name: [(row["intra_list_distance"], row["relevance"], row["mmr_lambda"]) for row in rows] for name, rows in points.items()}
    return frontier_figure(f"Relevance and diversity of slates, release {version}", lines)
