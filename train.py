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
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger

from towers import record
from towers.memory import keep_memory
from towers.saved import check_checkpoint
from towers.warm_start import start_warm

logger = logging.getLogger("train")
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
NOISE = ("The number of training batches", ".*treespec, LeafSpec", ".*does not have many workers", "Initializing zero-element tensors")
for noise in NOISE:
    warnings.filterwarnings("ignore", message=noise)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """One run; returns what a sweep minimises: the validation figure, its sign turned where more of it is better."""
    folder = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    keep_memory()
    if cfg.resume:
        check_checkpoint(Path(cfg.resume))
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

    lab_book = MLFlowLogger(cfg.experiment_name, run_name=cfg.name, tracking_uri=cfg.mlflow, tags=record.tags(cfg.question, tables, split))
    # a resumed run goes on in the checkpoint's own folder, where the best so far lies
    checkpoints = folder / "checkpoints" if cfg.resume is None else Path(cfg.resume).resolve().parent
    checkpoint = ModelCheckpoint(checkpoints, "best", monitor=cfg.trainer.monitor, mode=cfg.trainer.mode, save_last=True)
    stopping = EarlyStopping(cfg.trainer.monitor, mode=cfg.trainer.mode, patience=cfg.trainer.patience)
    watch = [checkpoint, stopping] if len(data.val_dataloader()) else [ModelCheckpoint(checkpoints, save_last=True)]
    trainer = instantiate(cfg.trainer.trainer, logger=lab_book, callbacks=[*watch, record.Progress()], default_root_dir=folder)

    record.start(lab_book, cfg, folder, tables.report)
    trainer.fit(task, data, ckpt_path=cfg.resume, weights_only=False)
    best = trainer.checkpoint_callback.best_model_path
    if best:
        task.load_state_dict(torch.load(best, weights_only=False)["state_dict"])
    trainer.test(task, data, verbose=False)
    if trainer.is_global_zero:
        record.finish(lab_book, task, data, folder, save=instantiate(cfg.task.save), name=cfg.name)
        record.show(trainer.callback_metrics, lab_book, cfg.name)
    return float(trainer.checkpoint_callback.best_model_score or 0.0) * {"max": -1, "min": 1}[cfg.trainer.mode]


if __name__ == "__main__":
    main()
