"""The last fit: once validation has chosen the number of epochs, everything before the test is learned from.

A model that never saw the validation part is not the best that can be had of a small log, nor what figures are of that were published for
data without such a part. So a run with `refit=true` is two: one that chooses, in its folder's `choosing`, and itself, of so many epochs on
train and validation together. Nothing is chosen by what it is tested on.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from omegaconf import DictConfig, OmegaConf

from towers.resume import Begun, begun, read_page


class Chosen(NamedTuple):
    """How many epochs were best, by what value (as a sweep minimises it), and in which run of MLflow that was found."""

    epochs: int
    value: float
    run_id: str


def choosing(cfg: DictConfig, run: Begun) -> tuple[DictConfig, Begun]:
    """The run that chooses for `run`: the same settings, on the training part alone; it is not tested, and no model is kept of it."""
    cfg = cfg.copy()
    OmegaConf.update(cfg, "refit", False)
    OmegaConf.update(cfg, "resume", None)
    OmegaConf.update(cfg, "name", f"{cfg.name}_choosing")
    OmegaConf.update(cfg, "task.save", None)
    OmegaConf.update(cfg, "trainer.trainer.limit_test_batches", 0, force_add=True)
    folder = run.checkpoints.parent / "choosing"
    folder.mkdir(exist_ok=True)
    return cfg, begun(cfg, folder)


def chosen(folder: Path) -> Chosen:
    """What a finished choosing run found.

    Raises:
        ValueError: there was nothing to choose by.
    """
    best = folder / "checkpoints" / "best.ckpt"
    if not best.is_file():
        raise ValueError(
            f"{folder}: the split has no validation part to choose the number of epochs by (leave refit=false), or no epoch was validated"
            " (trainer.trainer.check_val_every_n_epoch is more than max_epochs)"
        )
    page = read_page(folder)
    return Chosen(torch.load(best, weights_only=False, map_location="cpu")["epoch"] + 1, page["value"], page["run_id"])


def tell(client: MlflowClient, run_id: str, choice: Chosen) -> None:
    """The choosing run is the child of the one it chose for, which says how many epochs it is of."""
    client.set_tag(choice.run_id, MLFLOW_PARENT_RUN_ID, run_id)
    client.set_tag(run_id, "epochs_chosen", str(choice.epochs))
