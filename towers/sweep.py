"""A sweep in the lab book: one parent run, whose children are the jobs, and which tells after each of them what is the best so far.

A callback of Hydra's (`hydra.callbacks` in conf/train.yaml). The parent's id lies in the sweep's folder, where every job finds it, in
whatever process a launcher runs it, and where a sweep finds it that was killed and is called again with the same `hydra.sweep.dir`.
"""

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from towers.lab_book import VALUE, note, offer
from towers.resume import PAGE, write_page


def parent(hydra: DictConfig) -> dict[str, str]:
    """The tags that make a run the child of its sweep's parent; none where it is a run by itself."""
    page = Path(hydra.runtime.cwd, hydra.sweep.dir, PAGE)
    if hydra.mode != RunMode.MULTIRUN or not page.is_file():
        return {}
    return {MLFLOW_PARENT_RUN_ID: json.loads(page.read_text())["run_id"], "job": str(hydra.job.num)}


def named(name: str, hydra: DictConfig) -> str:
    """What a run is called in MLflow: `name`, of a sweep's job with its number."""
    return f"{name}_{hydra.job.num}" if hydra.mode == RunMode.MULTIRUN else name


class Sweep(Callback):
    """Keeps the parent run of a sweep. Of a run that is none, it does nothing."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Make the parent, or go on with the one that the sweep's folder names."""
        HydraConfig.instance().set_config(config)  # the name of a sweep may be made of the choices that Hydra knows
        client, page = MlflowClient(config.mlflow), Path(config.hydra.sweep.dir, PAGE)
        if page.is_file():
            client.update_run(json.loads(page.read_text())["run_id"], status="RUNNING")
            return
        experiment = client.get_experiment_by_name(config.experiment_name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(config.experiment_name)
        run_id = client.create_run(experiment_id, run_name=f"{config.name}_sweep").info.run_id
        said = dict(word.lstrip("+~").partition("=")[::2] for word in config.hydra.overrides.task)
        swept = dict(config.hydra.sweeper.get("params") or {}) | said  # what is said on the command line is what counts
        client.log_batch(run_id, params=[Param(key, str(value)) for key, value in swept.items()])
        client.set_tag(run_id, "run_folder", str(config.hydra.sweep.dir))
        note(client, run_id, question=config.question, changed=", ".join(f"`{key}={value}`" for key, value in swept.items()))
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(page.parent, run_id, config.mlflow)

    @rank_zero_only
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Tell the parent the best of the children that are done. It is looked for anew each time: jobs may end at once."""
        if not (tag := parent(config.hydra)):
            return
        client, run_id = MlflowClient(config.mlflow), tag[MLFLOW_PARENT_RUN_ID]
        if job_return.status == JobStatus.FAILED:
            client.set_terminated(run_id, "FAILED")
        tell_best(client, client.get_run(run_id), mode=config.trainer.mode)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """The sweep is over."""
        client = MlflowClient(config.mlflow)
        run = client.get_run(json.loads(Path(config.hydra.sweep.dir, PAGE).read_text())["run_id"])
        tell_best(client, run, mode=config.trainer.mode)
        client.set_terminated(run.info.run_id)


def tell_best(client: MlflowClient, sweep: Run, *, mode: str) -> None:
    """Write the best of the children that are done into the parent; it is what `models/<name>` and the alias `challenger` are then."""
    child = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{sweep.info.run_id}'"
    done = [run for run in client.search_runs([sweep.info.experiment_id], child) if VALUE in run.data.metrics]
    if not done:
        return
    best = {"max": max, "min": min}[mode](done, key=lambda run: run.data.metrics[VALUE])
    value, job = best.data.metrics[VALUE], int(best.data.tags["job"])
    if sweep.data.metrics.get(VALUE) != value:
        client.log_metric(sweep.info.run_id, VALUE, value, step=job)
    client.set_tag(sweep.info.run_id, "best_run", best.info.run_id)
    note(client, sweep.info.run_id, result=f"{value:.4f} by job {job}, the best of {len(done)} that are done: {best.data.tags['changed']}")
    offer(client, best)
