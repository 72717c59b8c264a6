"""Instantiate, fit, test, log. Decides nothing: the choices are in conf/, and what is learnt in towers/."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait sleep: spinning costs a busy machine 20 to 50 times a step

import logging
import warnings
from pathlib import Path

import hydra
import pytorch_lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping

from data.schema import Tables
from data.split import Split, rejoined
from towers import record, sweep
from towers.lab_book import LabBook
from towers.memory import keep_memory
from towers.pace import Pace
from towers.refit import Chosen, choosing, chosen, tell
from towers.resume import Begun, Best, Last, begun
from towers.warm_start import start_warm

logger = logging.getLogger("train")
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
NOISE = (
    "The number of training batches",
    "Total length of `DataLoader` across ranks is zero",  # of a validation part, where there is none
    ".*treespec, LeafSpec",
    ".*does not have many workers",
    "Initializing zero-element tensors",
)
for noise in NOISE:
    warnings.filterwarnings("ignore", message=noise)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """One run; returns what a sweep minimises: the validation figure, its sign turned where more of it is better."""
    keep_memory()
    run = begun(cfg, Path(HydraConfig.get().runtime.output_dir))
    if run.value is not None:
        logger.warning("%s is finished; remove it, or take another folder, to train anew", run.checkpoints.parent)
        return run.value
    tables = instantiate(cfg.data)
    logger.info("read: %s", ", ".join(f"{name} {count:,}" for name, count in tables.report.items()))
    split = instantiate(cfg.split)(tables)
    if not cfg.refit:
        return fit(cfg, run, tables, split)
    choosing_cfg, choosing_run = choosing(cfg, run)
    if choosing_run.value is None:
        fit(choosing_cfg, choosing_run, tables, split)
    return fit(cfg, run, tables, rejoined(split), chosen(choosing_run.folder))


def fit(cfg: DictConfig, run: Begun, tables: Tables, split: Split, choice: Chosen | None = None) -> float:
    """Train, test and log; of as many epochs as were chosen, where they were."""
    L.seed_everything(cfg.seed, verbose=False)
    log = instantiate(cfg.log)(split)
    data = instantiate(cfg.task.datamodule)(log)
    task = instantiate(cfg.task.module)(data=data)
    if cfg.warm_start:
        logger.info("warm start: %s", start_warm(task, data, Path(cfg.warm_start)))
    if cfg.trainer.compile:
        task.compile_towers()

    hydra_cfg = HydraConfig.get()
    tags = record.tags(cfg.question, tables, split) | sweep.parent(hydra_cfg)
    run_name = sweep.named(cfg.name, hydra_cfg)
    lab_book = LabBook(cfg.experiment_name, run_name=run_name, tracking_uri=cfg.mlflow, tags=tags, run_id=run.run_id)
    best, last = Best(run.checkpoints, monitor=cfg.trainer.monitor, mode=cfg.trainer.mode), Last(run.checkpoints)
    stopping = EarlyStopping(cfg.trainer.monitor, mode=cfg.trainer.mode, patience=cfg.trainer.patience)
    watch = [stopping, best, last] if len(data.val_dataloader()) else [last]
    settings = cfg.trainer.trainer if choice is None else {**cfg.trainer.trainer, "max_epochs": choice.epochs}
    trainer = instantiate(settings, logger=lab_book, callbacks=[*watch, Pace(), record.Progress()], default_root_dir=run.folder)

    record.start(lab_book, cfg, run, tables.report, changed=hydra_cfg.overrides.task)
    if choice is not None and trainer.is_global_zero:
        tell(lab_book.experiment, lab_book.run_id, choice)
    trainer.fit(task, data, ckpt_path=run.checkpoint, weights_only=False)
    task.load_state_dict(torch.load(best.best_model_path or last.path, weights_only=False)["state_dict"])
    trainer.test(task, data, verbose=False)
    sign = {"max": -1, "min": 1}[cfg.trainer.mode]
    kept = best.best_model_score if choice is None else torch.tensor(choice.value * sign)
    minimised = float(kept or 0.0) * sign
    if trainer.is_global_zero:
        record.finish(lab_book, task, data, run.folder, save=instantiate(cfg.task.save), name=cfg.name)
        record.close(lab_book, trainer, kept=kept, name=cfg.name)
        run.write(lab_book.run_id, cfg.mlflow, minimised)
    return minimised


if __name__ == "__main__":
    main()
