"""The lab book: a run's page in MLflow, its curves, and its note, which says in words what was asked, changed, found and concluded."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities import rank_zero_only

from towers.resume import PAGE, ResumeError

VALUE = "val/best"
"""The metric of a finished run that a sweep looks for: the monitored figure of the epoch that was kept."""
CHALLENGER, CHAMPION = "challenger", "champion"
PARTS = ("question", "changed", "result", "promotion", "conclusion")
"""Tags of a run that are the parts of its note, in this order."""


class LabBook(MLFlowLogger):
    """MLflow's logger, in whose curves every step stands once: what a resumed run goes through again is there already."""

    def __init__(self, experiment_name: str, *, run_name: str, tracking_uri: str, tags: Mapping[str, str], run_id: str | None):
        """A new run, or the run `run_id` gone on with.

        Raises:
            ResumeError: MLflow knows no such run, or it was of other data.
        """
        super().__init__(experiment_name, run_name=run_name, tracking_uri=tracking_uri, tags=dict(tags), run_id=run_id)
        self._reached: dict[str, int] = {}
        if run_id is not None and rank_zero_only.rank == 0:
            self._reached = self._go_on(run_id, tags["data_fingerprint"])

    def _go_on(self, run_id: str, fingerprint: str) -> dict[str, int]:
        """Say that the run runs again; how far each of its curves is."""
        try:
            before = self.experiment.get_run(run_id)
        except MlflowException as error:
            remedy = f"remove {PAGE} from the folder to log it as a new one"
            raise ResumeError(f"{self._tracking_uri} knows no run {run_id}: {remedy}") from error
        if before.data.tags["data_fingerprint"] != fingerprint:
            raise ResumeError(
                f"the data have changed since run {run_id} began (fingerprint {fingerprint}, it was"
                f" {before.data.tags['data_fingerprint']}), so it would be another run: start one anew"
            )
        self.experiment.update_run(run_id, status="RUNNING")
        return {name: max(point.step for point in self.experiment.get_metric_history(run_id, name)) for name in before.data.metrics}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what does not stand there yet."""
        fresh = {name: value for name, value in metrics.items() if (step or 0) > self._reached.get(name, -1)}
        self._reached |= dict.fromkeys(fresh, step or 0)
        if fresh:
            super().log_metrics(fresh, step)


def note(client: MlflowClient, run_id: str, **parts: str) -> None:
    """Write parts of a run's note, each a tag by which runs can be found; those that were there stay."""
    for part, text in parts.items():
        client.set_tag(run_id, part, text)
    tags = client.get_run(run_id).data.tags
    told = [f"**{part.capitalize()}.** {tags[part]}" for part in PARTS if tags.get(part)]
    client.set_tag(run_id, MLFLOW_RUN_NOTE, "\n\n".join(told))


def register(client: MlflowClient, name: str, run: Run) -> str:
    """The version of the registered model `name` that is this run's model; made where there is none."""
    if found := client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'"):
        return str(found[0].version)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return str(client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id).version)


def offer(client: MlflowClient, run: Run) -> None:
    """Make a registered run the `challenger` of its name, and `models/<name>` a link to its model."""
    name = run.data.params["name"]
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'"):
        client.set_registered_model_alias(name, CHALLENGER, version.version)
        link(Path(run.data.tags["folder"], "model"), Path("models") / name)


def link(model: Path, name: Path) -> None:
    """A link `models/<name>` to a run's model; it moves in one step."""
    name.parent.mkdir(exist_ok=True)
    fresh = name.with_name(f".{name.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)  # of a process that was killed and had our number
    fresh.symlink_to(model.resolve())
    fresh.replace(name)


class PageError(ValueError):
    """A folder that is no run of MLflow; the message names it and the remedy."""


def page(folder: Path) -> tuple[MlflowClient, Run]:
    """The store and the run of MLflow that the folder of a run or of a sweep, or `models/<name>`, belongs to.

    Raises:
        PageError: it is no run's folder, or its store does not know it.
    """
    folder = folder.resolve().parent if (folder / "meaning.json").is_file() else folder
    if not (folder / PAGE).is_file():
        raise PageError(f"{folder} holds no {PAGE}: give the folder of a run or of a sweep, or models/NAME")
    told = json.loads((folder / PAGE).read_text())
    client, run_id = MlflowClient(told["mlflow"]), told["run_id"]
    try:
        return client, client.get_run(run_id)
    except MlflowException as error:
        remedy = "call from the directory it was trained in"
        raise PageError(f"{client.tracking_uri} knows no run {run_id}, which {folder} is: {remedy}") from error
