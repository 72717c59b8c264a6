"""What a run writes into MLflow: what was asked, on which data and code, and everything worth comparing afterwards."""

import logging
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from data.schema import Tables
from data.split import Split
from towers import report
from towers.evaluation import per_user
from towers.lab_book import VALUE, LabBook, note, offer, register
from towers.metrics import Interval, bootstrap_mean, history_slices, popularity_decile
from towers.resume import SETTINGS, Begun, flat, write_whole

logger = logging.getLogger(__name__)
KS = (1, 2, 5, 10, 20, 50, 100)


def commit() -> str:
    """The git commit of the code, `+changes` when the tree differs from it in more than pages and results, `unknown` outside a checkout."""
    where = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=False)
    if head.returncode:
        return "unknown"
    changes = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)*.md", ":(top,exclude)bench/results"],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
    )
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def tags(question: str, tables: Tables, split: Split) -> dict[str, str]:
    """What a run is known by in the list of runs."""
    known = {"question": question, "data_fingerprint": tables.fingerprint(), "git_commit": commit(), "torch": torch.__version__}
    return known | ({f"cut_{name}_ms": str(value) for name, value in split.cut_ms._asdict().items()} if split.cut_ms else {})


@rank_zero_only
def start(lab_book: LabBook, cfg: DictConfig, run: Begun, counts: Mapping[str, int], *, changed: Sequence[str]) -> None:
    """The resolved configuration as parameters and as a file, what the readers counted, and what was asked. `changed` are the words of the
    command line."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    write_whole(run.folder / SETTINGS, OmegaConf.to_yaml(OmegaConf.create(resolved)))
    client, run_id = lab_book.experiment, lab_book.run_id
    run.write(run_id, cfg.mlflow)
    there = client.get_run(run_id).data
    settings = {key.replace(".", "/"): value for key, value in flat(resolved)}
    lab_book.log_hyperparams({key: value for key, value in settings.items() if key not in {*there.params, "resume"}})
    lab_book.log_metrics({f"data/{name}": float(count) for name, count in counts.items()})
    client.set_tag(run_id, "run_folder", run.folder.name)
    client.set_tag(run_id, "folder", os.path.relpath(run.folder))
    client.log_artifact(run_id, str(run.folder / SETTINGS))
    if "changed" not in there.tags:
        note(client, run_id, question=cfg.question, changed=", ".join(f"`{word}`" for word in changed))
    if run.run_id is not None:
        logger.info("goes on with run %s from %s", run_id, run.checkpoint or "its start")
        client.set_tag(run_id, "resumed_from", str(run.checkpoint and os.path.relpath(run.checkpoint)))
    if run.other:
        logger.warning("goes on with %s", "; ".join(run.other))
        client.set_tag(run_id, "resumed_with", "; ".join(run.other))


class Progress(RichProgressBar):
    """Lightning's progress bar with rows per second of the running epoch."""

    def __init__(self):
        super().__init__(refresh_rate=20)

    def get_metrics(self, trainer: Trainer, task) -> dict:
        """Metrics shown at the bar's end."""
        shown = super().get_metrics(trainer, task)
        shown.pop("v_num", None)
        return {**shown, "pairs/s": f"{task.pairs_per_second():,.0f}"}


def finish(lab_book: LabBook, task, data, folder: Path, *, save: Callable | None, name: str) -> None:
    """Test lists, figures and the model, registered under the run's name."""
    client, run_id = lab_book.experiment, lab_book.run_id
    if ranking := task.rankings.get("test"):
        path = folder / "test_topk.parquet"
        user_ids = pl.Series(data.log.user_ids, dtype=pl.String).gather(task.test_user_row.numpy())
        report.topk_frame(user_ids, data.log.catalogue.item_ids, ranking).write_parquet(path)
        client.log_artifact(run_id, str(path))
        for figure_name, figure in figures(task, data).items():
            client.log_figure(run_id, figure, f"figures/{figure_name}.png")
    if save is None:
        return
    save(task, data, folder / "model")
    client.log_artifacts(run_id, str(folder / "model"), "model")
    register(client, name, client.get_run(run_id))
    offer(client, client.get_run(run_id))


SHOWN = ("recall_at_20", "ndcg_at_20", "hit_rate_at_10", "click_auc", "catalogue_coverage_at_10")


def close(lab_book: LabBook, trainer: Trainer, *, kept: torch.Tensor | None, name: str) -> None:
    """Say what was found: in the note, on the screen, and last of all in the figure that a sweep looks for."""
    known = {name: f"{float(value):.4f}" for name, value in trainer.callback_metrics.items()}
    found = {figure: [known.get(f"test/{figure}{end}") for end in ("", "_low", "_high")] for figure in SHOWN if f"test/{figure}" in known}
    told = [f"{figure} {value}" + (f" [{low}, {high}]" if low else "") for figure, (value, low, high) in found.items()]
    note(lab_book.experiment, lab_book.run_id, result=f"test: {', '.join(told) or 'nothing to test on'}")
    table = Table(title=f"{name}: test", title_justify="left")
    for column in ("figure", "value", "95 % interval"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for figure, (value, low, high) in found.items():
        table.add_row(figure, value, f"{low} to {high}" if low else "")
    console = Console()
    console.print(table)
    console.print(f"run {lab_book.run_id} · model models/{name} · compare: mlflow ui --backend-store-uri {lab_book._tracking_uri}")
    if kept is not None:
        lab_book.log_metrics({VALUE: float(kept)}, trainer.global_step)


def figures(task, data) -> dict:
    """Recall by k, recall and NDCG by popularity of the target, NDCG by length of history, whether probabilities come true, and the item
    embeddings on a plane."""
    ranking = task.rankings["test"]
    values = per_user(ranking, KS)
    made = {"recall_by_k": report.recall_by_k(KS, {"this run": [float(values[f"recall_at_{k}"].mean()) for k in KS]})}
    target_user_T = ranking.targets.user_index().cpu()
    decile_T = popularity_decile(task.count_I.cpu())[ranking.targets.item_row.cpu()]
    by_decile = {decile: decile_T == decile for decile in range(11)}
    for metric in ("recall", "ndcg"):
        drawn = report.metric_by_popularity_decile(f"{metric}_at_20", *_by(ranking, by_decile, f"{metric}_at_20"))
        made[f"{metric}_by_popularity_decile"] = drawn
    by_length = {name: mask_U[target_user_T] for name, mask_U in history_slices(task.test_history_length).items()}
    made["ndcg_by_history_length"] = report.metric_by_history_length("ndcg_at_20", *_by(ranking, by_length, "ndcg_at_20"))
    if task.reliability:
        made["calibration"] = report.reliability_diagram(task.reliability, of="test")
    vector_ID = task.item_rows(data.log)[:, task.width :].cpu()
    genres = data.log.catalogue.recipe.genres.words
    genre_IG = torch.as_tensor(data.log.catalogue.genre_IG)
    if genres:
        labels = [genres[int(row.argmax())] if row.any() else None for row in genre_IG]
        made["embedding_map_by_genre"] = report.embedding_map_by_label(vector_ID, labels)
    made["embedding_map_by_popularity"] = report.embedding_map_by_popularity(vector_ID, task.count_I.cpu())
    return made


def _by(ranking, keep: Mapping, metric: str) -> tuple[dict[object, Interval], dict[object, int]]:
    values = {key: per_user(ranking, (20,), mask.to(ranking.rank_T.device))[metric] for key, mask in keep.items() if mask.any()}
    return {key: bootstrap_mean(value_U) for key, value_U in values.items()}, {key: len(value_U) for key, value_U in values.items()}
