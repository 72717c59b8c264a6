"""A killed run goes on, in MLflow's run that it was and along the curve it would have drawn.

A run's folder tells what is needed: `config.yaml` its settings, `run.json` its id in MLflow and, once everything is done, its value;
`checkpoints/last.ckpt` where it was when the last whole epoch was over. What is random in an epoch depends on seed and epoch alone, so an
epoch that was cut short is run again from its start, and comes out as it would have.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from towers.saved import check_checkpoint

SETTINGS, PAGE, CHECKPOINTS, LAST = "config.yaml", "run.json", "checkpoints", "last.ckpt"
FREE = "trainer.trainer."
"""Of these settings a run that goes on may have others than it began with: how long, on which devices."""


class ResumeError(ValueError):
    """A run that cannot be gone on with; the message names the folder, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What there is of a run: its folder, its id in MLflow, where it goes on, where its checkpoints lie, and its value if it is finished.

    `other` are the settings, of those that may be others, that it goes on with: "trainer.trainer.max_epochs=60, it began with 30".
    """

    folder: Path
    checkpoints: Path
    run_id: str | None = None
    checkpoint: Path | None = None
    value: float | None = None
    other: tuple[str, ...] = ()

    def write(self, run_id: str, mlflow: str, value: float | None = None) -> None:
        """Say in the folder which run of which MLflow it is, and what came of it."""
        write_page(self.folder, run_id, mlflow, value)


def begun(cfg: DictConfig, folder: Path) -> Begun:
    """The run that `cfg.resume` names, by its folder or a checkpoint, or that `folder` holds already; a new one where neither is.

    A run whose first epoch was not over has no checkpoint and goes on from its start.

    Raises:
        ResumeError: what is there was run with other settings, or is no run.
        SavedModelError: the checkpoint cannot be read.
    """
    if cfg.resume is None and not (folder / PAGE).is_file():
        return Begun(folder, folder / CHECKPOINTS)
    path = folder if cfg.resume is None else Path(cfg.resume).resolve()
    there, checkpoint = (path, path / CHECKPOINTS / LAST) if path.is_dir() else (path.parent.parent, path)
    if not (there / SETTINGS).is_file():
        raise ResumeError(f"resume={cfg.resume}: there is no {there / SETTINGS}; give the folder of a run, or a checkpoint within it")
    page = read_page(there)
    other = tuple(_others(cfg, there))
    if checkpoint.is_file():
        check_checkpoint(checkpoint)
    elif not path.is_dir():
        raise ResumeError(f"resume={cfg.resume}: there is no such file; resume={there} goes on from wherever that run was")
    value = None if other else page["value"]  # with other settings there is more to do
    return Begun(folder, there / CHECKPOINTS, page["run_id"], checkpoint if checkpoint.is_file() else None, value, other)


def _others(cfg: DictConfig, there: Path) -> Iterator[str]:
    """The settings that differ from those a run began with. Raises ResumeError where one of them may not."""
    before, now = (dict(flat(OmegaConf.to_container(one, resolve=True))) for one in (OmegaConf.load(there / SETTINGS), cfg))
    for key in sorted((before.keys() | now.keys()) - {"resume"}):
        if before.get(key) != now.get(key):
            if not key.startswith(FREE):
                raise ResumeError(
                    f"{there} was begun with {key}={before.get(key)}, not {now.get(key)}, so what goes on there would be another run: take"
                    " the settings it began with, or another folder (warm_start= begins a new run from an older one's model)"
                )
            yield f"{key}={now.get(key)}, it began with {before.get(key)}"


def flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key → value of nested settings."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def write_page(folder: Path, run_id: str, mlflow: str, value: float | None = None) -> None:
    """`run.json`: the id of the run, or sweep, that a folder is, the store that knows it, and the value of one that is finished."""
    write_whole(folder / PAGE, json.dumps({"run_id": run_id, "mlflow": mlflow, "value": value}))


def read_page(folder: Path) -> dict[str, Any]:
    """What `write_page` wrote; of a folder without one, that nothing is known."""
    return json.loads((folder / PAGE).read_text()) if (folder / PAGE).is_file() else {"run_id": None, "value": None}


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    fresh = path.with_name(f".{path.name}.part")
    fresh.write_text(text)
    fresh.replace(path)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are whole, or still the one before, whenever the process is killed.

    Lightning writes into /tmp and moves the file from there, which is a copy where /tmp is another disk than the runs, and half of one
    after a kill.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside `path`, then take its place."""
        fresh = Path(f"{path}.part")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, fresh)
        fresh.replace(path)


class Best(ModelCheckpoint):
    """`best.ckpt`, the epoch with the best figure so far. It is found again where a run's folder has been moved."""

    def __init__(self, folder: Path, *, monitor: str, mode: str):
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state, its paths in the folder that the checkpoints are in now."""
        here = lambda path: str(Path(self.dirpath) / Path(path).name) if path else path  # noqa: E731
        super().load_state_dict(
            state_dict
            | {"dirpath": self.dirpath, "best_k_models": {here(path): score for path, score in state_dict["best_k_models"].items()}}
            | {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        )


class Last(Checkpoint):
    """`last.ckpt`, from which a killed run goes on: where it was after the last epoch all of which stands in MLflow.

    Lightning's own callback writes it before the epoch's figures are logged, and only where the monitored one got better: what was killed
    in between would have a hole in its curve. So it is written as `next.ckpt` and takes its place once the figures are logged. Nor does
    Lightning know, of a run that had stopped early, that it need not train again.
    """

    def __init__(self, folder: Path):
        self.path, self.next, self.stopped = folder / LAST, folder / "next.ckpt", False

    def on_train_epoch_end(self, trainer: Trainer, task: LightningModule) -> None:
        """The epoch is over, and will be logged."""
        self.stopped = trainer.should_stop
        trainer.save_checkpoint(self.next, weights_only=False)

    def on_train_epoch_start(self, trainer: Trainer, task: LightningModule) -> None:
        """The epoch before is logged."""
        if trainer.is_global_zero and self.next.is_file():
            self.next.replace(self.path)

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        """So is the last one; no process reads `last.ckpt` before it is there."""
        self.on_train_epoch_start(trainer, task)
        trainer.strategy.barrier()

    def on_fit_start(self, trainer: Trainer, task: LightningModule) -> None:
        """What had stopped early does not start again, and what was killed before it was logged takes nobody's place."""
        if trainer.is_global_zero:
            self.next.unlink(missing_ok=True)
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_fit_end(self, trainer: Trainer, task: LightningModule) -> None:
        """Nor is it an epoch younger for that: Lightning counts the last one when it begins the next."""
        if self.stopped:
            epochs = trainer.fit_loop.epoch_progress.current
            epochs.completed = epochs.processed

    def state_dict(self) -> dict[str, Any]:
        """Whether the run had stopped early."""
        return {"stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` was."""
        self.stopped = state_dict["stopped"]
