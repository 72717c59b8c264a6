"""The last fit is the fit that one would make by hand: as many epochs as validation chose, on everything before the test."""

import json

import mlflow
import torch
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tests.test_end_to_end import ROOT, WORLD, run

__all__ = ["run"]  # a fixture


def test_a_refit_is_the_fit_of_so_many_epochs_without_a_validation_part(tmp_path, run):
    command = [str(ROOT / "train.py"), "experiment=world_two_tower", *WORLD, "task.batch_size=256", "trainer.patience=1"]
    run(tmp_path, *command, "trainer.trainer.max_epochs=6", "refit=true", "hydra.run.dir=refitted")
    epochs = torch.load(tmp_path / "refitted/choosing/checkpoints/best.ckpt", weights_only=False)["epoch"] + 1
    run(
        tmp_path,
        *command,
        f"trainer.trainer.max_epochs={epochs}",
        "split.validation_quantile=null",
        "hydra.run.dir=by_hand",
        "name=by_hand",
    )
    refitted, by_hand = (torch.load(tmp_path / name / "model/state.pt", weights_only=True) for name in ("refitted", "by_hand"))
    assert all(torch.equal(refitted[name], by_hand[name]) for name in refitted)

    # in the lab book the run that chose is the child of the one it chose for, and a sweep looks for what it found
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    whole, part = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("refitted", "refitted/choosing"))
    assert whole["value"] == part["value"]
    last, choice = client.get_run(whole["run_id"]).data, client.get_run(part["run_id"]).data
    assert choice.tags[MLFLOW_PARENT_RUN_ID] == whole["run_id"] and last.tags["epochs_chosen"] == str(epochs)
    assert last.metrics["val/best"] == choice.metrics["val/best"] == -whole["value"]
    assert not (tmp_path / "refitted/choosing/model").exists() and not any(name.startswith("test/") for name in choice.metrics)

    again = run(tmp_path, *command, "trainer.trainer.max_epochs=6", "refit=true", "hydra.run.dir=refitted")
    assert "is finished" in again.stdout + again.stderr


def test_what_nothing_was_held_out_of_cannot_be_refitted(tmp_path, run):
    command = [
        str(ROOT / "train.py"),
        "experiment=world_two_tower",
        *WORLD,
        "trainer.trainer.max_epochs=1",
        "split.validation_quantile=null",
    ]
    done = run(tmp_path, *command, "refit=true", check=False)
    assert done.returncode and "no validation part to choose the number of epochs by (leave refit=false)" in done.stderr
