"""What a run writes into MLflow: what was asked, on which data and code, and everything worth comparing afterwards."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import MLFlowLogger
from rich.console import Console
from rich.table import Table

from data.schema import Tables
from data.split import Split
from towers import report
from towers.evaluation import per_user
from towers.metrics import Interval, bootstrap_mean, history_slices, popularity_decile

KS = (1, 2, 5, 10, 20, 50, 100)


def commit() -> str:
    """The git commit of the code, `+changes` when the tree differs from it, `unknown` outside a checkout."""
    where = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=False)
    if head.returncode:
        return "unknown"
    changes = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], cwd=where, capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def tags(question: str, tables: Tables, split: Split) -> dict[str, str]:
    """What a run is known by in the list of runs."""
    known = {"question": question, "data_fingerprint": tables.fingerprint(), "git_commit": commit(), "torch": torch.__version__}
    return known | ({f"cut_{name}_ms": str(value) for name, value in split.cut_ms._asdict().items()} if split.cut_ms else {})


def start(lab_book: MLFlowLogger, cfg: DictConfig, folder: Path, counts: Mapping[str, int]) -> None:
    """The resolved configuration as parameters and as a file, and what the readers counted."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)))
    lab_book.log_hyperparams(resolved)
    lab_book.log_metrics({f"data/{name}": float(count) for name, count in counts.items()})
    client, run_id = lab_book.experiment, lab_book.run_id
    client.set_tag(run_id, "run_folder", folder.name)
    client.log_artifact(run_id, str(folder / "config.yaml"))


class Progress(RichProgressBar):
    """Lightning's progress bar with rows per second of the running epoch."""

    def __init__(self):
        super().__init__(refresh_rate=20)

    def get_metrics(self, trainer: Trainer, task) -> dict:
        """Metrics shown at the bar's end."""
        shown = super().get_metrics(trainer, task)
        shown.pop("v_num", None)
        return {**shown, "pairs/s": f"{task.pairs_per_second():,.0f}"}


def finish(lab_book: MLFlowLogger, task, data, folder: Path, *, save: Callable | None, name: str) -> None:
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
    if not any(model.name == name for model in client.search_registered_models(filter_string=f"name = '{name}'")):
        client.create_registered_model(name)
    link(folder / "model", Path("models") / name)
    client.create_model_version(name, f"{client.get_run(run_id).info.artifact_uri}/model", run_id)


def link(model: Path, name: Path) -> None:
    """`models/<name>` is always the newest finished run of that name; the link moves in one step."""
    name.parent.mkdir(exist_ok=True)
    fresh = name.with_name(f".{name.name}.{os.getpid()}")
    fresh.symlink_to(model.resolve())
    fresh.replace(name)


SHOWN = ("recall_at_20", "ndcg_at_20", "hit_rate_at_10", "click_auc", "catalogue_coverage_at_10")


def show(metrics: Mapping[str, torch.Tensor], lab_book: MLFlowLogger, name: str) -> None:
    """Print what the test found, and where the rest of it is."""
    table = Table(title=f"{name}: test", title_justify="left")
    for column in ("figure", "value", "95 % interval"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for figure in (figure for figure in SHOWN if f"test/{figure}" in metrics):
        ends = [metrics.get(f"test/{figure}_{end}") for end in ("low", "high")]
        interval = "" if ends[0] is None else f"{float(ends[0]):.4f} to {float(ends[1]):.4f}"
        table.add_row(figure, f"{float(metrics[f'test/{figure}']):.4f}", interval)
    console = Console()
    console.print(table)
    console.print(f"run {lab_book.run_id} · model models/{name} · compare: mlflow ui --backend-store-uri {lab_book._tracking_uri}")


def figures(task, data) -> dict:
    """Recall by k, NDCG by popularity of the target and by length of history, and the item embeddings on a plane."""
    ranking = task.rankings["test"]
    values = per_user(ranking, KS)
    made = {"recall_by_k": report.recall_by_k(KS, {"this run": [float(values[f"recall_at_{k}"].mean()) for k in KS]})}
    target_user_T = ranking.targets.user_index().cpu()
    decile_T = popularity_decile(task.count_I.cpu())[ranking.targets.item_row.cpu()]
    made["ndcg_by_popularity_decile"] = report.metric_by_popularity_decile(
        "ndcg_at_20", *_by(ranking, {decile: decile_T == decile for decile in range(11)})
    )
    by_length = {name: mask_U[target_user_T] for name, mask_U in history_slices(task.test_history_length).items()}
    made["ndcg_by_history_length"] = report.metric_by_history_length("ndcg_at_20", *_by(ranking, by_length))
    vector_ID = task.item_rows(data.log)[:, task.width :].cpu()
    genres = data.log.catalogue.recipe.genres.words
    genre_IG = torch.as_tensor(data.log.catalogue.genre_IG)
    if genres:
        labels = [genres[int(row.argmax())] if row.any() else None for row in genre_IG]
        made["embedding_map_by_genre"] = report.embedding_map_by_label(vector_ID, labels)
    made["embedding_map_by_popularity"] = report.embedding_map_by_popularity(vector_ID, task.count_I.cpu())
    return made


def _by(ranking, keep: Mapping) -> tuple[dict[object, Interval], dict[object, int]]:
    values = {key: per_user(ranking, (20,), mask.to(ranking.rank_T.device))["ndcg_at_20"] for key, mask in keep.items() if mask.any()}
    return {key: bootstrap_mean(value_U) for key, value_U in values.items()}, {key: len(value_U) for key, value_U in values.items()}
