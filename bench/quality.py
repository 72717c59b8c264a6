"""Two-tower against popularity, item neighbours, iALS and EASE on real logs, all through one evaluation door.

    DATA_ROOT=… python -m bench.quality movietweetings      # or movielens; settings may be overridden: task.module.temperature=0.07

Each baseline's settings are searched along `BASELINES` by NDCG@20 of the validation part; so is the number of epochs of the two-tower,
whose other settings are those of conf/experiment/<name>_two_tower.yaml. Then each is fitted anew on train and validation together and
ranks the whole catalogue for the test users once. Intervals are 95 %, bootstrapped over users; differences are paired by user.

Shapes: E events · U users · Q queries · T targets.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import polars as pl
import pytorch_lightning as L
import torch
from hydra import compose, initialize
from hydra.utils import instantiate
from omegaconf import DictConfig
from scipy import sparse
from torch import Tensor

from data.features import DAY_MS, is_liked
from data.log import Log, Queries, queries
from data.split import TEST, TRAIN, VALIDATION, Cut, Split
from towers.baselines import Baseline, Bm25, Cosine, Ease, ImplicitALS, ItemNeighbours, Popularity, PopularityFallback
from towers.evaluation import ItemLists, Ranking, Scorer, per_user, rank
from towers.metrics import bootstrap_difference, bootstrap_mean, catalogue_coverage
from towers.record import commit

KS = (10, 20)
SHOWN = ("recall_at_20", "ndcg_at_20", "hit_rate_at_10")
CHOSEN_BY = "ndcg_at_20"
SEEDS = (0, 1, 2)
TOWERS = "two-tower"


def liked_events(log: Log) -> np.ndarray:
    """bool (E,): the positives."""
    return is_liked(log.event_code_E)


def all_events(log: Log) -> np.ndarray:
    """bool (E,): whatever a user did with an item, bad ratings too."""
    return np.ones(len(log.item_row_E), bool)


class Data(NamedTuple):
    """What is particular to one log: whom the figures are about (settings are chosen for the first), and what a baseline is fitted
    on: which events, and in how many days one loses half of its weight."""

    populations: tuple[str, ...]
    matrix: Mapping[str, tuple]


DATA = {
    "movietweetings": Data(
        ("seen before", "all"),
        {"events": (liked_events, all_events), "half_life_days": (math.inf, 90.0, 30.0, 10.0, 5.0, 3.0, 2.0, 1.0)},
    ),
    "movielens": Data(("all",), {"events": (liked_events,), "half_life_days": (math.inf, 3650.0, 1095.0, 365.0)}),
}

BASELINES: Mapping[str, tuple[Callable[..., Baseline], Mapping[str, tuple]]] = {
    "popularity": (Popularity, {"half_life_days": (math.inf,)}),
    "recent popularity": (Popularity, {}),
    "item neighbours": (
        ItemNeighbours,
        {
            "weight": (Cosine(), Bm25(), Bm25(b=0.25), Bm25(b=1.0), Bm25(k1=100.0)),
            "neighbours": (100, 20, 50, 200, 500),
            "shrinkage": (0.0, 1.0, 3.0, 10.0, 30.0, 100.0),
        },
    ),
    "iALS": (
        ImplicitALS,
        {
            "factors": (64, 8, 16, 32, 128),
            "regularization": (1.0, 0.01, 0.1, 3.0, 10.0, 30.0),
            "alpha": (10.0, 1.0, 3.0, 30.0),
            "iterations": (15, 5, 30),
        },
    ),
    "EASE": (Ease, {"regularization": (100.0, 10.0, 30.0, 300.0, 1000.0, 3000.0)}),
}
"""Name, class and the values searched, beside those of `Data.matrix`; the first of each axis is where the search starts."""


def interactions(log: Log, *, events: Callable[[Log], np.ndarray], half_life_days: float) -> sparse.csr_matrix:
    """Users × items: the events that count, each 2^(-days before the end of `log` / half life)."""
    keep_E = events(log)
    days_E = (log.timestamp_E.max() - log.timestamp_E[keep_E]) / DAY_MS
    shape = (len(log.user_ids), len(log.catalogue.item_ids))
    return sparse.csr_matrix((np.exp2(-days_E / half_life_days), (log.user_row_E[keep_E], log.item_row_E[keep_E])), shape=shape)


def evaluate(score: Scorer, asked: Queries) -> Ranking:
    """Full ranking for all questions of a part."""
    lists = (ItemLists(*map(torch.as_tensor, pair)) for pair in ((asked.target_offset, asked.target_row), (asked.seen_offset, asked.seen_row)))
    return rank(score, torch.as_tensor(asked.user_row_Q), *lists, item_count=len(asked.history.catalogue.item_ids))


def members(asked: Queries) -> dict[str, Tensor]:
    """Population → bool (Q,). `seen before`: users with an earlier event, one of whose targets at least has one too."""
    warm_I = np.bincount(asked.history.item_row_E, minlength=len(asked.history.catalogue.item_ids)) > 0
    warm_targets_Q = np.add.reduceat(warm_I[asked.target_row].astype(np.int64), asked.target_offset[:-1])
    known_Q = (asked.end_Q > asked.start_Q) & (warm_targets_Q > 0)
    return {"seen before": torch.as_tensor(known_Q), "all": torch.ones(len(known_Q), dtype=torch.bool)}


class Figures(NamedTuple):
    """Of one population: metric → value of each user (U,), float64 on the CPU; and the share of the catalogue in their lists of 20."""

    values: dict[str, Tensor]
    coverage_at_20: float

    @property
    def aim(self) -> float:
        """What settings are chosen by."""
        return float(self.values[CHOSEN_BY].mean())


def figures(ranking: Ranking, asked: Queries, populations: tuple[str, ...]) -> dict[str, Figures]:
    """Figures of each population. All targets of a user count, those that nobody had before too."""
    user_T = ranking.targets.user_index().cpu()
    member, item_count = members(asked), len(asked.history.catalogue.item_ids)
    result = {}
    for name in populations:
        by_metric = per_user(ranking, KS, member[name][user_T].to(ranking.rank_T.device))
        top_UK = ranking.top_item_row_UK.cpu()[member[name], :20]
        result[name] = Figures({metric: by_metric[metric].cpu() for metric in SHOWN}, catalogue_coverage(top_UK, item_count))
    return result


def search(axes: Mapping[str, tuple], score: Callable[[dict], dict[str, float]]) -> list[tuple[dict, dict[str, float]]]:
    """Coordinate search: along each axis in turn with the others at their best, until a round changes nothing.

    Returns every setting tried with its scores; the search climbs the first of them.
    """
    tried: dict[tuple, dict[str, float]] = {}
    best = tuple(axis[0] for axis in axes.values())
    before = None
    while best != before:
        before = best
        for place, axis in enumerate(axes.values()):
            line = [best[:place] + (value,) + best[place + 1 :] for value in axis]
            for setting in line:
                if setting not in tried:
                    tried[setting] = score(dict(zip(axes, setting, strict=True)))
            best = max(line, key=lambda setting: next(iter(tried[setting].values())))
    return [(dict(zip(axes, setting, strict=True)), scores) for setting, scores in tried.items()]


def fit_baseline(make: Callable[..., Baseline], setting: dict, log: Log) -> Scorer:
    """A baseline on all of `log`; strangers to it are shown what is popular."""
    own = dict(setting)
    matrix = interactions(log, events=own.pop("events"), half_life_days=own.pop("half_life_days"))
    return PopularityFallback(make(**own)).fit(matrix)


def baseline(name: str, log: Log, data: Data) -> dict[str, dict]:
    """Search on validation, fit on all before the test, test; for each population the setting best for it."""
    make, axes = BASELINES[name]
    asked = {part: queries(log, part) for part in (VALIDATION, TEST)}

    def tested(setting: dict, part: int) -> dict[str, Figures]:
        return figures(evaluate(fit_baseline(make, setting, asked[part].history), asked[part]), asked[part], data.populations)

    def score(setting: dict) -> dict[str, float]:
        aims = {population: of.aim for population, of in tested(setting, VALIDATION).items()}
        print(f"  {name} {told(setting)}: {', '.join(f'{aim:.4f}' for aim in aims.values())}", flush=True)
        return aims

    tried = search({**data.matrix, **axes}, score)
    result = {}
    for population in data.populations:
        setting, scores = max(tried, key=lambda pair: pair[1][population])
        figure = tested(setting, TEST)[population]
        result[population] = {"settings": {**told(setting), "tried": len(tried)}, "validation": scores[population], "test": [figure]}
    return result


def told(setting: dict) -> dict[str, str]:
    """A setting in words."""
    return {name: getattr(value, "__name__", str(value)) for name, value in setting.items()}


def refit(split: Split) -> Split:
    """The same test, and everything before it to learn from: validation becomes train. Its report, which counted parts, is left empty."""
    part = pl.when(pl.col("part") == VALIDATION).then(pl.lit(TRAIN, pl.Int8)).otherwise(pl.col("part")).alias("part")
    cut_ms = split.cut_ms and Cut(None, split.cut_ms.test)
    return replace(split, events=split.events.with_columns(part), cut_ms=cut_ms, report={})


class AfterEpoch(L.Callback):
    """Ranks the questions of one part after each epoch, and goes on while `on_and_on(figures so far)`."""

    def __init__(self, part: int, populations: tuple[str, ...], on_and_on: Callable[[list[dict[str, Figures]]], bool]):
        self.part, self.populations, self.on_and_on = part, populations, on_and_on
        self.so_far: list[dict[str, Figures]] = []

    def on_train_epoch_end(self, trainer, task) -> None:
        """Look, and decide."""
        asked = trainer.datamodule.questions(self.part)
        task.eval()
        self.so_far.append(figures(task.rank(asked), asked, self.populations))
        task.train()
        trainer.should_stop = not self.on_and_on(self.so_far)


def train(cfg, split: Split, watch: AfterEpoch) -> list[dict[str, Figures]]:
    """train.py's fit, looked at after each epoch by `watch`; without checkpoints and logger."""
    L.seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.task.datamodule)(instantiate(cfg.log)(split))
    task = instantiate(cfg.task.module)(data=data)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    instantiate(cfg.trainer.trainer, callbacks=[watch], **quiet).fit(task, data)
    return watch.so_far


def best_epoch(so_far: list[dict[str, Figures]], population: str) -> int:
    """Counted from 0; the first of equals."""
    return max(range(len(so_far)), key=lambda epoch: so_far[epoch][population].aim)


def two_tower(configured: Callable[[int], DictConfig], split: Split, data: Data) -> dict[str, dict]:
    """For each seed: choose the number of epochs on validation, fit that many on all before the test, test."""
    result = {name: {"settings": {"epochs": []}, "validation": [], "test": []} for name in data.populations}
    for seed in SEEDS:
        cfg = configured(seed)
        improving = lambda so_far: max(best_epoch(so_far, name) for name in data.populations) + cfg.trainer.patience >= len(so_far)  # noqa: B023, E731
        choosing = train(cfg, split, AfterEpoch(VALIDATION, data.populations, improving))
        epoch = {name: best_epoch(choosing, name) for name in data.populations}
        last = max(epoch.values())
        testing = train(cfg, refit(split), AfterEpoch(TEST, data.populations, lambda so_far: len(so_far) <= last))  # noqa: B023
        for name, of in result.items():
            of["settings"]["epochs"].append(epoch[name] + 1)
            of["validation"].append(choosing[epoch[name]][name].aim)
            of["test"].append(testing[epoch[name]][name])
            print(f"  two-tower, seed {seed}, {name}: {epoch[name] + 1} epochs, {of['validation'][-1]:.4f} → {of['test'][-1].aim:.4f}", flush=True)
    return result


def mean_values(of: dict) -> dict[str, Tensor]:
    """Metric → value of each user, the mean over seeds."""
    return {metric: torch.stack([figure.values[metric] for figure in of["test"]]).mean(0) for metric in SHOWN}


def report(results: dict[str, dict[str, dict]], population: str) -> dict:
    """Everything about one population as JSON holds it, with the two-tower's paired lead over each other model."""
    told_of, values = {}, {name: mean_values(by_population[population]) for name, by_population in results.items()}
    for name, by_population in results.items():
        of = by_population[population]
        told_of[name] = {
            "settings": of["settings"], f"validation_{CHOSEN_BY}": of["validation"],
            "coverage_at_20": sum(figure.coverage_at_20 for figure in of["test"]) / len(of["test"]),
            "seeds": [figure.aim for figure in of["test"]],
            **{metric: bootstrap_mean(values[name][metric]) for metric in SHOWN},
        }  # fmt: skip
        if TOWERS in results and name != TOWERS:
            told_of[name]["two_tower_leads_by"] = {m: bootstrap_difference(values[TOWERS][m], values[name][m]) for m in SHOWN}
    return {"users": len(next(iter(values.values()))[CHOSEN_BY]), "models": told_of}


def table(name: str, reports: dict[str, dict]) -> str:
    """Markdown: a table for each population, and below it the two-tower against the best of the others, metric by metric."""
    lines = []
    for population, of in reports.items():
        lines += ["", f"**{name}**, test users: {population}, {of['users']:,}", "", "| model | NDCG@20 | Recall@20 | HR@10 | coverage@20 | settings |", "|---|---|---|---|---|---|"]
        for model, row in of["models"].items():
            cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*row[metric]) for metric in ("ndcg_at_20", "recall_at_20", "hit_rate_at_10")]
            settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
            lines.append(f"| {model} | {' | '.join(cells)} | {row['coverage_at_20']:.3f} | {settings} |")
        others = {model: row for model, row in of["models"].items() if "two_tower_leads_by" in row}
        for metric in SHOWN if others else ():
            best = max(others, key=lambda model: others[model][metric][0])  # noqa: B023
            lines += ["", "Two-tower minus {}, {}: {:+.4f} [{:+.4f}, {:+.4f}]".format(best, metric, *others[best]["two_tower_leads_by"][metric])]
    return "\n".join(lines[1:]) + "\n"


def log_to_mlflow(uri: str, name: str, reports: dict[str, dict]) -> None:
    """A run for each model in the experiment `quality`, so that `mlflow ui` lays them side by side."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("quality")
    first = next(iter(reports))
    for model, row in reports[first]["models"].items():
        with mlflow.start_run(run_name=f"{name}_{model.replace(' ', '_')}", tags={"git_commit": commit(), "population": first}):
            mlflow.log_params(row["settings"])
            prefix = {population: "test" if population == first else f"test_{population}" for population in reports}
            for population, of in reports.items():
                for metric in SHOWN:
                    mean, low, high = of["models"][model][metric]
                    key = f"{prefix[population]}/{metric}"
                    mlflow.log_metrics({key: mean, f"{key}_low": low, f"{key}_high": high})


def main() -> None:
    """Print the table; write bench/results/quality_<name>.json, and quality.md from all of them, unless only a part was run."""
    parser = argparse.ArgumentParser(description="Two-tower against tuned baselines on real logs.")
    parser.add_argument("name", choices=DATA)
    parser.add_argument("--only", choices=("baselines", "towers"), help="run one half, print it, write nothing")
    parser.add_argument("--mlflow", help="also log a run for each model there, e.g. sqlite:///mlflow.db")
    parser.add_argument("overrides", nargs="*", help="of conf/train.yaml, e.g. task.module.temperature=0.07")
    asked = parser.parse_args()
    data, start = DATA[asked.name], time.perf_counter()

    def configured(seed: int) -> DictConfig:
        with initialize(version_base="1.3", config_path="../conf"):
            overrides = [f"experiment={asked.name}_two_tower", "name=quality", "question=quality", f"seed={seed}", *asked.overrides]
            return compose("train", overrides)

    cfg = configured(SEEDS[0])
    tables = instantiate(cfg.data)
    split = instantiate(cfg.split)(tables)
    log = instantiate(cfg.log)(split)
    results = {} if asked.only == "towers" else {name: baseline(name, log, data) for name in BASELINES}
    results |= {} if asked.only == "baselines" else {TOWERS: two_tower(configured, split, data)}
    reports = {population: report(results, population) for population in data.populations}
    print(table(asked.name, reports))
    if asked.mlflow:
        log_to_mlflow(asked.mlflow, asked.name, reports)
    if asked.only:
        return
    known = {"commit": commit(), "data": tables.fingerprint(), "seconds": round(time.perf_counter() - start), "seeds": SEEDS, "overrides": asked.overrides}
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"quality_{asked.name}.json").write_text(json.dumps({**known, "populations": reports}, indent=1))
    written = {name: folder / f"quality_{name}.json" for name in DATA}
    tables_md = [table(name, json.loads(path.read_text())["populations"]) for name, path in written.items() if path.exists()]
    (folder / "quality.md").write_text("\n".join(tables_md))


if __name__ == "__main__":
    main()
