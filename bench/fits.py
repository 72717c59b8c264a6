"""A fit as train.py makes it, without its lab book: choose the best epoch on the validation part, then hand over the model or its test."""

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as L
import torch
from hydra import compose, initialize
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from data.log import Log

logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
for noise in (
    "The number of training batches",
    ".*treespec, LeafSpec",
    ".*does not have many workers",
    "Initializing zero-element tensors",
):
    warnings.filterwarnings("ignore", message=noise)


def configuration(*overrides: str) -> DictConfig:
    """conf/train.yaml with overrides, as the command line would have it."""
    with initialize(version_base="1.3", config_path="../conf"):
        return compose("train", ["name=bench", "question=bench", *overrides])


def fit(cfg: DictConfig, log: Log, *, data: L.LightningDataModule | None = None, module: Mapping = {}) -> tuple:
    """(trainer, task, data): the best epoch by `trainer.monitor`, patience as configured. `data` replaces what the task would make of
    `log`, and `module` gives the module other arguments."""
    L.seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.task.datamodule)(log) if data is None else data
    task = instantiate(cfg.task.module)(data=data, **module)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, "best", monitor=cfg.trainer.monitor, mode=cfg.trainer.mode, save_weights_only=True)
        stopping = EarlyStopping(cfg.trainer.monitor, mode=cfg.trainer.mode, patience=cfg.trainer.patience)
        trainer = instantiate(
            cfg.trainer.trainer, logger=False, callbacks=[best, stopping], enable_progress_bar=False, default_root_dir=folder
        )
        trainer.fit(task, data)
        task.load_state_dict(torch.load(Path(best.best_model_path), weights_only=False)["state_dict"])
    return trainer, task, data


def tested(cfg: DictConfig, log: Log) -> dict[str, float]:
    """`fit`, then the figures of the test part."""
    trainer, task, data = fit(cfg, log)
    trainer.test(task, data, verbose=False)
    return {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
