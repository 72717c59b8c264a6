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
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping

from towers import record, sweep
from towers.lab_book import LabBook
from towers.memory import keep_memory
from towers.pace import Pace
from towers.resume import Best, Last, begun
from towers.warm_start import start_warm

logger = logging.getLogger("train")
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
NOISE = ("The number of training batches", ".*treespec, LeafSpec", ".*does not have many workers", "Initializing zero-element tensors")
for noise in NOISE:
    warnings.filterwarnings("ignore", message=noise)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """One run; returns what a sweep minimises: the validation figure, its sign turned where more of it is better."""
    hydra_cfg = hydra.core.hydra_config.HydraConfig.get()
    keep_memory()
    run = begun(cfg, Path(hydra_cfg.runtime.output_dir))
    if run.value is not None:
        logger.warning("%s is finished; remove it, or take another folder, to train anew", run.checkpoints.parent)
        return run.value
    L.seed_everything(cfg.seed, verbose=False)
    tables = instantiate(cfg.data)
    logger.info("read: %s", ", ".join(f"{name} {count:,}" for name, count in tables.report.items()))
    split = instantiate(cfg.split)(tables)
    log = instantiate(cfg.log)(split)
    data = instantiate(cfg.task.datamodule)(log)
    task = instantiate(cfg.task.module)(data=data)
    if cfg.warm_start:
        logger.info("warm start: %s", start_warm(task, data, Path(cfg.warm_start)))
    if cfg.trainer.compile:
        task.compile_towers()

    tags = record.tags(cfg.question, tables, split) | sweep.parent(hydra_cfg)
    run_name = sweep.named(cfg.name, hydra_cfg)
    lab_book = LabBook(cfg.experiment_name, run_name=run_name, tracking_uri=cfg.mlflow, tags=tags, run_id=run.run_id)
    best, last = Best(run.checkpoints, monitor=cfg.trainer.monitor, mode=cfg.trainer.mode), Last(run.checkpoints)
    stopping = EarlyStopping(cfg.trainer.monitor, mode=cfg.trainer.mode, patience=cfg.trainer.patience)
    watch = [stopping, best, last] if len(data.val_dataloader()) else [last]
    trainer = instantiate(cfg.trainer.trainer, logger=lab_book, callbacks=[*watch, Pace(), record.Progress()], default_root_dir=run.folder)

    record.start(lab_book, cfg, run, tables.report, changed=hydra_cfg.overrides.task)
    trainer.fit(task, data, ckpt_path=run.checkpoint, weights_only=False)
    task.load_state_dict(torch.load(best.best_model_path or last.path, weights_only=False)["state_dict"])
    trainer.test(task, data, verbose=False)
    minimised = float(best.best_model_score or 0.0) * {"max": -1, "min": 1}[cfg.trainer.mode]
    if trainer.is_global_zero:
        record.finish(lab_book, task, data, run.folder, save=instantiate(cfg.task.save), name=cfg.name)
        record.close(lab_book, trainer, kept=best.best_model_score, name=cfg.name)
        run.write(lab_book.run_id, cfg.mlflow, minimised)
    return minimised


if __name__ == "__main__":
    main()
