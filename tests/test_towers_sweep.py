"""A sweep is one parent run and its children, whoever kills it; and a sweep's file says what it asks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from mlflow import MlflowClient

from tests import killed, stand_ins
from towers.sweep import parent

ROOT = Path(__file__).parents[1]
TINY = ["data.users=60", "data.items=120", "data.events=2000", "task.batch_size=128", "trainer.trainer.max_epochs=1"]


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweeps_file_asks_a_question_and_proposes_the_same_again(path):
    question = path.read_text().splitlines()[1]
    assert question.startswith("# ") and question.endswith("?")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"sweep={path.stem}"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        assert question.removeprefix("# ") == cfg.question and cfg.hydra.mode.name == "MULTIRUN" and cfg.hydra.sweeper.params
        if "sampler" in cfg.hydra.sweeper:
            assert cfg.hydra.sweeper.sampler.seed is not None and cfg.hydra.sweeper.direction.name == "minimize"


def test_a_killed_sweep_goes_on_and_its_parent_knows_the_best(forge, tmp_path):
    """Two trials of a search, killed in the second: called again it proposes the same, trains what was not done, and tells the parent."""
    words = [str(ROOT / "train.py"), "sweep=world_temperature", *TINY, "hydra.sweeper.n_trials=2", "hydra.sweep.dir=search"]
    environment = os.environ | {"STAND_IN_FORGE": forge, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, stand_ins.__file__, "forged", *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    assert run(killed.__file__, "before", "towers.retrieval.RetrievalTask.test_step", "2", *words).returncode == 1
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    page = lambda *path: json.loads(tmp_path.joinpath("search", *path, "run.json").read_text())  # noqa: E731
    sweep, first = page()["run_id"], client.get_run(page("0")["run_id"])
    assert client.get_run(sweep).info.status == "RUNNING" and client.get_run(sweep).data.tags["best_run"] == first.info.run_id
    done = run(*words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    runs = {run.info.run_id: run for run in client.search_runs([client.get_experiment_by_name("towers").experiment_id])}
    children = {run.info.run_name: run for run in runs.values() if run.data.tags.get("mlflow.parentRunId") == sweep}
    assert set(children) == {"world_temperature_0", "world_temperature_1"} and len(runs) == 3
    assert runs[first.info.run_id].info.end_time == first.info.end_time  # what was done was not done again
    best = max(children.values(), key=lambda run: run.data.metrics["val/best"])
    whole = runs[sweep]
    assert whole.info.run_name == "world_temperature_sweep" and whole.info.status == "FINISHED"
    assert whole.data.metrics["val/best"] == best.data.metrics["val/best"] and whole.data.tags["best_run"] == best.info.run_id
    assert whole.data.params["task.module.temperature"] == "tag(log, interval(0.05, 0.4))"
    assert whole.data.tags["question"] == best.data.tags["question"] != ""
    told = whole.data.tags["mlflow.note.content"]
    assert f"by job {best.data.tags['job']}, the best of 2" in told and "task.module.temperature=" in told.split("**Result.**")[1]
    assert os.readlink(tmp_path / "models" / "world_temperature") == str(tmp_path / "search" / best.data.tags["job"] / "model")
    challenger = client.get_model_version_by_alias("world_temperature", "challenger")
    assert challenger.run_id == best.info.run_id


def test_a_run_by_itself_has_no_parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["hydra.mode=RUN"], return_hydra_config=True)
        cfg.hydra.runtime.cwd = str(tmp_path)
        assert parent(cfg.hydra) == {}
