"""The frontier of relevance and diversity: known at its ends, and where it is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from serve.dpp import dpp
from serve.mmr import mmr
from towers.frontier import LAMBDAS, frontier, publish

CHOOSERS = {"mmr": mmr, "dpp": dpp}


def users(count=12, candidates=150, width=16):
    """Candidates in clusters, the relevant ones alike: what makes relevance and diversity rivals."""
    rng = np.random.default_rng(8)
    for _ in range(count):
        centre = rng.normal(size=(10, width))
        cluster = np.sort(rng.integers(0, 10, candidates))
        vectors = (centre[cluster] + 0.4 * rng.normal(size=(candidates, width))).astype(np.float16)
        yield (1 / (1 + cluster) + 0.1 * rng.random(candidates)).astype(np.float32) / 2, vectors


def test_the_ends_are_the_most_relevant_and_the_most_diverse():
    scored = list(users())
    best = np.mean([np.sort(relevance)[-25:].mean() for relevance, _ in scored])
    for rows in frontier(scored, CHOOSERS, count=25).values():
        assert [row["mmr_lambda"] for row in rows] == list(LAMBDAS)
        relevance, distance = ([row[name] for row in rows] for name in ("relevance", "intra_list_distance"))
        assert relevance[-1] == pytest.approx(best) == max(relevance)
        assert distance[-1] == min(distance)
        assert distance[0] == pytest.approx(max(distance), rel=0.02)
        assert (np.diff(relevance[-4:]) > 0).all() and (np.diff(distance[-4:]) < 0).all()  # a greedy choice may stumble where λ is small
        assert relevance[-1] > 1.3 * relevance[0] and distance[0] > 1.3 * distance[-1]


def test_by_hand():
    """Twins of .9 and .8 and a stranger of .1: at λ = 1 the twins, mean .85 and distance 0; at λ = 0 twin and stranger, .5 and 1."""
    scored = [(np.array([0.9, 0.8, 0.1]), np.array([[1.0, 0], [2, 0], [0, 1]])), (np.array([0.7]), np.ones((1, 2)))]
    for rows in frontier(scored, CHOOSERS, count=2, lambdas=(0.0, 1.0)).values():
        assert [row["relevance"] for row in rows] == pytest.approx([0.5, 0.85])
        assert [row["intra_list_distance"] for row in rows] == pytest.approx([1, 0], abs=1e-6)


def test_refuses_what_has_no_pairs():
    with pytest.raises(ValueError, match="two candidates"):
        frontier([(np.ones(1), np.ones((1, 2)))], CHOOSERS, count=25)


def test_it_lies_with_the_retrieval_run_or_with_one_of_its_own(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("world", artifact_location=str(tmp_path / "artifacts"))
    client.create_experiment("releases", artifact_location=str(tmp_path / "releases"))
    retrieval = client.create_run(experiment, tags={"run_folder": "2026-11-25_world"}).info.run_id
    points = frontier(list(users(2)), CHOOSERS, count=5, lambdas=(0.0, 1.0))
    assert publish(points, version="1", run=retrieval, tracking_uri=uri) == retrieval
    assert publish(points, version="2", run="2026-11-25_world", tracking_uri=uri) == retrieval
    own = publish(points, version="3", run="a folder copied here", tracking_uri=uri)
    made = client.get_run(own)
    assert (made.info.run_name, made.info.status) == ("release-3", "FINISHED")
    assert client.get_experiment(made.info.experiment_id).name == "releases"
    for version, run_id in (("1", retrieval), ("2", retrieval), ("3", own)):
        kept = Path(client.download_artifacts(run_id, f"releases/{version}", str(tmp_path)))
        assert json.loads((kept / "frontier.json").read_text()) == points
        assert (kept / "frontier.png").read_bytes().startswith(b"\x89PNG")
