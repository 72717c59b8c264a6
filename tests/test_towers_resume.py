"""A run that is killed, at whatever moment, and gone on with: the same curve in one run of MLflow, and the same model to the last bit."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf

from tests import killed, stand_ins
from towers.resume import Begun, Best, ResumeError, WholeFiles, begun, write_page
from towers.saved import SavedModelError

ROOT = Path(__file__).parents[1]
WORLD = ["data=world", "data.users=120", "data.items=120", "data.events=4000"]
TWO_TOWER = ["experiment=world_two_tower", *WORLD, "task.batch_size=64", "trainer.trainer.max_epochs=5", "trainer.patience=1"]
RANKER = ["experiment=world_ranker", *WORLD, "task.batch_size=64", "trainer.trainer.max_epochs=4", "trainer.patience=1"]
TIMED = ("seconds", "per_second", "memory")
LOG, TASK = "towers.lab_book.LabBook.log_metrics", "towers.retrieval.RetrievalTask"

Train = Callable[..., int]


@pytest.fixture
def train(forge, tmp_path) -> Train:
    """train.py in a fork of the forge, killed at a place if one is told; its exit code, or 1 where it was killed."""

    def run(*words: str, at: Sequence[str | int] = ()) -> int:
        driver = [killed.__file__, *map(str, at)] if at else []
        command = [sys.executable, stand_ins.__file__, "forged", *driver, str(ROOT / "train.py"), *words]
        environment = os.environ | {"STAND_IN_FORGE": forge, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (tmp_path / "said").open("a") as said:
            return subprocess.run(command, cwd=tmp_path, env=environment, stdout=said, stderr=said, timeout=300, check=False).returncode

    return run


def curves(folder: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run as (step, value); of what the clock or the machine says, the steps alone."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    told = {name: client.get_metric_history(run_id, name) for name in client.get_run(run_id).data.metrics}
    value = lambda name, point: 0.0 if any(word in name for word in TIMED) else point.value  # noqa: E731
    return {name: [(point.step, value(name, point)) for point in points] for name, points in told.items()}


def assert_one_curve(folder: Path, run: Path, whole: Path, weights: Callable[[Path], dict[str, torch.Tensor]]) -> None:
    pages = [json.loads((path / "run.json").read_text()) for path in (run, whole)]
    mine, theirs = (curves(folder, page["run_id"]) for page in pages)
    assert mine.keys() == theirs.keys()
    for name in theirs:
        assert [step for step, _ in mine[name]] == [step for step, _ in theirs[name]], name
        for (_, one), (_, other) in zip(mine[name], theirs[name], strict=True):
            assert one == other or (math.isnan(one) and math.isnan(other)), name
    assert pages[0]["value"] == pages[1]["value"] and math.isfinite(pages[0]["value"])
    one, other = (weights(path / "model") for path in (run, whole))
    assert all(torch.equal(one[name], other[name]) for name in other)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert len(client.search_model_versions(f"run_id = '{pages[0]['run_id']}'")) == 1
    assert client.get_run(pages[0]["run_id"]).info.status == "FINISHED"


KILLS = (
    ("before", f"{TASK}.training_step", 9),  # in the first epoch
    ("half", "torch.save", 2),  # next.ckpt of the first epoch
    ("before", LOG, 4),  # validated, and the training figures of the epoch not logged: the third is of its validation
    ("before", f"{TASK}.validation_step", 2),
    ("half", "torch.save", 3),  # best.ckpt of the second epoch from there, or next.ckpt of it
    ("before", f"{TASK}.test_step", 1),
    ("before", "towers.record.offer", 1),  # registered
    ("before", "towers.resume.Begun.write", 2),  # all done, and nobody was told
)


def test_a_run_killed_eight_times_is_the_run_never_killed(train, tmp_path):
    assert train(*TWO_TOWER, "hydra.run.dir=whole") == 0
    for kill in KILLS:
        assert train(*TWO_TOWER, "hydra.run.dir=run", at=kill) == 1, (tmp_path / "said").read_text()[-2000:]
        assert json.loads((tmp_path / "run" / "run.json").read_text())["value"] is None, kill
    assert train(*TWO_TOWER, "hydra.run.dir=run") == 0, (tmp_path / "said").read_text()[-2000:]
    read = lambda model: torch.load(model / "state.pt", weights_only=True)  # noqa: E731
    assert_one_curve(tmp_path, tmp_path / "run", tmp_path / "whole", read)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("towers").experiment_id])
    assert len(runs) == 2 and {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    finished = client.get_run(json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]).info.end_time
    assert train(*TWO_TOWER, "hydra.run.dir=run") == 0  # nothing is left to do
    assert client.get_run(json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]).info.end_time == finished


def test_a_ranker_goes_on_with_its_averaged_weights(train, tmp_path):
    """Its checkpoints hold two sets of weights; and where nothing was held out to choose by, the last ones are kept."""
    task = "towers.ranking.RankingTask"
    assert train(*TWO_TOWER) == 0
    assert train(*RANKER, "hydra.run.dir=whole") == 0
    for kill in (("after", LOG, 5), ("before", f"{task}.test_step", 1)):
        assert train(*RANKER, "hydra.run.dir=run", at=kill) == 1, (tmp_path / "said").read_text()[-2000:]
    assert train(*RANKER, "resume=run", "hydra.run.dir=elsewhere") == 0, (tmp_path / "said").read_text()[-2000:]
    read = lambda model: torch.jit.load(str(model / "ranker.pt")).state_dict()  # noqa: E731
    assert_one_curve(tmp_path, tmp_path / "elsewhere", tmp_path / "whole", read)
    assert not (tmp_path / "elsewhere" / "checkpoints").exists()  # what there was lies where it lay


def settings(**changes):
    cfg = OmegaConf.create({"resume": None, "seed": 0, "task": {"width": 8}, "trainer": {"patience": 5, "trainer": {"max_epochs": 3}}})
    return OmegaConf.merge(cfg, OmegaConf.create({}), *(OmegaConf.from_dotlist([f"{key}={value}"]) for key, value in changes.items()))


@pytest.fixture
def there(tmp_path) -> Path:
    """The folder of a run that was killed after an epoch."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    OmegaConf.save(settings(), folder / "config.yaml")
    torch.save({"epoch": 1}, folder / "checkpoints" / "last.ckpt")
    write_page(folder, "the id", "sqlite:///mlflow.db")
    return folder


def test_where_a_run_goes_on(there, tmp_path):
    last = there / "checkpoints" / "last.ckpt"
    assert begun(settings(), tmp_path / "new") == Begun(tmp_path / "new", tmp_path / "new" / "checkpoints")
    here = Begun(there, there / "checkpoints", "the id", last)
    assert begun(settings(), there) == here  # a folder that holds a run is that run
    assert begun(settings(resume=there), tmp_path / "new") == Begun(tmp_path / "new", there / "checkpoints", "the id", last)
    assert begun(settings(resume=last), there) == here
    longer = begun(settings(**{"trainer.trainer.max_epochs": 9}), there)
    assert longer.other == ("trainer.trainer.max_epochs=9, it began with 3",)
    here.write("the id", "sqlite:///mlflow.db", -0.25)
    assert begun(settings(), there).value == -0.25
    assert begun(settings(**{"trainer.trainer.max_epochs": 9}), there).value is None  # there is more to do
    last.unlink()
    assert begun(settings(), there).checkpoint is None  # from its start


def test_what_cannot_be_gone_on_with_is_refused_with_a_remedy(there, tmp_path):
    with pytest.raises(ResumeError, match=r"was begun with task\.width=8, not 16, .* or another folder"):
        begun(settings(**{"task.width": 16}), there)
    with pytest.raises(ResumeError, match=r"was begun with trainer\.patience=5, not 6"):  # a checkpoint brings its own
        begun(settings(**{"trainer.patience": 6}), there)
    with pytest.raises(ResumeError, match=r"there is no .*nowhere/config\.yaml; give the folder of a run"):
        begun(settings(resume=tmp_path / "nowhere" / "checkpoints" / "last.ckpt"), tmp_path / "new")
    with pytest.raises(ResumeError, match=r"there is no such file; resume=.*/run goes on from wherever"):
        begun(settings(resume=there / "checkpoints" / "lost.ckpt"), tmp_path / "new")
    (there / "checkpoints" / "last.ckpt").write_bytes(b"half of")
    with pytest.raises(SavedModelError, match=r"last\.ckpt cannot be read .*best\.ckpt lies beside"):
        begun(settings(resume=there), tmp_path / "new")


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"epoch": 1}, path)

    def half(thing, file):
        file.write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        WholeFiles().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path) == {"epoch": 1}


def test_the_best_so_far_is_found_where_a_folder_was_moved_to(tmp_path):
    old, new = (Best(tmp_path / name, monitor="val/x", mode="max") for name in ("old", "new"))
    path = str(tmp_path / "old" / "best.ckpt")
    old.best_model_path, old.kth_best_model_path, old.best_k_models = path, path, {path: torch.tensor(0.5)}
    old.best_model_score = old.kth_value = torch.tensor(0.5)
    new.load_state_dict(old.state_dict())
    assert new.best_model_path == str(tmp_path / "new" / "best.ckpt") and new.best_model_score == 0.5
    assert new.best_k_models == {new.best_model_path: 0.5} and new.last_model_path == ""
