"""Two-tower against popularity, item neighbours, iALS and EASE on real logs, all through one evaluation door.

    DATA_ROOT=… python -m bench.quality movietweetings      # or movielens; settings may be overridden: task.module.temperature=0.07

Each baseline is searched along bench/baseline_search.py by what the experiment watches on the validation part (trainer.monitor); so is
the number of epochs of the two-tower, whose other settings are those of conf/experiment/<name>_two_tower.yaml. Then each is fitted anew
on train and validation together and ranks the whole catalogue for the test users once. Intervals are 95 %, bootstrapped over users;
differences are paired by user.

Shapes: U users · Q queries · T targets · K list length.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pytorch_lightning as L
import torch
from hydra import compose, initialize
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from bench.baseline_search import BASELINES, MATRIX, fit_baseline, search, told
from data.log import Log, Queries, queries
from data.split import TEST, VALIDATION, Split, rejoined
from towers.evaluation import ItemLists, Ranking, Scorer, per_user, rank
from towers.metrics import bootstrap_difference, bootstrap_mean, catalogue_coverage
from towers.record import commit

POPULATIONS = {"movietweetings": ("seen before", "all"), "movielens": ("all",)}
"""Whom the figures are about (see `members`); the search climbs the first."""
METRICS = {"ndcg_at_20": "NDCG@20", "recall_at_20": "Recall@20", "hit_rate_at_10": "HR@10"}
SEEDS = (0, 1, 2)
TOWERS = "two-tower"


def evaluate(score: Scorer, asked: Queries) -> Ranking:
    """Full ranking for all questions of a part."""
    targets = ItemLists(torch.as_tensor(asked.target_offset), torch.as_tensor(asked.target_row))
    seen = ItemLists(torch.as_tensor(asked.seen_offset), torch.as_tensor(asked.seen_row))
    items = len(asked.history.catalogue.item_ids)
    return rank(score, torch.as_tensor(asked.user_row_Q), targets, seen, item_count=items, seen_policy=asked.seen_policy)


def members(asked: Queries) -> dict[str, Tensor]:
    """Population → bool (Q,). `seen before`: users with an earlier event, one of whose targets at least has one too."""
    warm_I = np.bincount(asked.history.item_row_E, minlength=len(asked.history.catalogue.item_ids)) > 0
    warm_targets_Q = np.add.reduceat(warm_I[asked.target_row].astype(np.int64), asked.target_offset[:-1])
    known_Q = (asked.end_Q > asked.start_Q) & (warm_targets_Q > 0)
    return {"seen before": torch.as_tensor(known_Q), "all": torch.ones(len(known_Q), dtype=torch.bool)}


class Figures(NamedTuple):
    """Of one population: metric → value of each user (U,), float64 on the CPU; the share of the catalogue in their lists of 20, and the
    mean of what settings are chosen by."""

    values: dict[str, Tensor]
    coverage_at_20: float
    aim: float


def figures(ranking: Ranking, asked: Queries, populations: tuple[str, ...], chosen_by: str) -> dict[str, Figures]:
    """Figures of each population. All targets of a user count, those that nobody had before too."""
    user_T = ranking.targets.user_index().cpu()
    member, item_count = members(asked), len(asked.history.catalogue.item_ids)
    result = {}
    for name in populations:
        by_metric = per_user(ranking, (10, 20), member[name][user_T].to(ranking.rank_T.device))
        top_UK = ranking.top_item_row_UK.cpu()[member[name], :20]
        values = {metric: by_metric[metric].cpu() for metric in METRICS}
        result[name] = Figures(values, catalogue_coverage(top_UK, item_count), float(values[chosen_by].mean()))
    return result


class Result(NamedTuple):
    """What one model reached in one population: what it was chosen by on the validation part, and the
    test; one per seed."""

    settings: dict[str, object]
    validation: list[float]
    test: list[Figures]

    def value_U(self, metric: str) -> Tensor:
        """The metric of each user, the mean over seeds."""
        return torch.stack([figure.values[metric] for figure in self.test]).mean(0)


def baseline(name: str, log: Log, matrix: Mapping[str, tuple], populations: tuple[str, ...], chosen_by: str) -> dict[str, Result]:
    """Search on validation, fit on all before the test, test; for each population the setting that was best for it."""
    make, axes = BASELINES[name]
    asked = {part: queries(log, part) for part in (VALIDATION, TEST)}

    def look(setting: dict, part: int) -> dict[str, Figures]:
        return figures(evaluate(fit_baseline(make, setting, asked[part].history), asked[part]), asked[part], populations, chosen_by)

    def score(setting: dict) -> dict[str, float]:
        aims = {population: of.aim for population, of in look(setting, VALIDATION).items()}
        print(f"  {name} {told(setting)}: {', '.join(f'{aim:.4f}' for aim in aims.values())}", flush=True)
        return aims

    tried = search({**matrix, **axes}, score)
    result = {}
    for population in populations:
        setting, aims = max(tried, key=lambda pair: pair[1][population])
        result[population] = Result({**told(setting), "tried": len(tried)}, [aims[population]], [look(setting, TEST)[population]])
    return result


class AfterEpoch(L.Callback):
    """Ranks the questions of one part after each epoch, and goes on as long as `enough(figures so far)` is not."""

    def __init__(self, part: int, populations: tuple[str, ...], chosen_by: str, enough: Callable[[list[dict[str, Figures]]], bool]):
        self.part, self.populations, self.chosen_by, self.enough = part, populations, chosen_by, enough
        self.so_far: list[dict[str, Figures]] = []

    def on_train_epoch_end(self, trainer, task) -> None:
        """Look, and decide."""
        asked = trainer.datamodule.questions(self.part)
        task.eval()
        self.so_far.append(figures(task.rank(asked), asked, self.populations, self.chosen_by))
        task.train()
        trainer.should_stop = self.enough(self.so_far)


def train(cfg: DictConfig, split: Split, watch: AfterEpoch) -> list[dict[str, Figures]]:
    """The fit of train.py, looked at after each epoch by `watch`; without checkpoints or a logger."""
    L.seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.task.datamodule)(instantiate(cfg.log)(split))
    task = instantiate(cfg.task.module)(data=data)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    instantiate(cfg.trainer.trainer, callbacks=[watch], **quiet).fit(task, data)
    return watch.so_far


def best_epoch(so_far: list[dict[str, Figures]]) -> int:
    """The best epoch for all users, which is what train.py watches, from 1; the first of equals."""
    return 1 + max(range(len(so_far)), key=lambda epoch: so_far[epoch]["all"].aim)


def two_tower(cfg: DictConfig, split: Split, populations: tuple[str, ...], chosen_by: str) -> dict[str, Result]:
    """One seed: choose the number of epochs on validation by patience, fit that many on all before the test, test."""
    patience = cfg.trainer.patience
    watch = AfterEpoch(VALIDATION, populations, chosen_by, lambda so_far: len(so_far) >= best_epoch(so_far) + patience)
    choosing = train(cfg, split, watch)
    epoch = best_epoch(choosing)
    testing = train(cfg, rejoined(split), AfterEpoch(TEST, populations, chosen_by, lambda so_far: len(so_far) >= epoch))
    result = {}
    for name in populations:
        result[name] = Result({"epochs": epoch}, [choosing[epoch - 1][name].aim], [testing[epoch - 1][name]])
        print(
            f"  two-tower, seed {cfg.seed}, {name}: {epoch} epochs, {result[name].validation[0]:.4f} → {result[name].test[0].aim:.4f}",
            flush=True,
        )
    return result


def joined(seeds: list[Result]) -> Result:
    """One result of several seeds."""
    settings = {"epochs": " ".join(str(seed.settings["epochs"]) for seed in seeds), "seeds": len(seeds)}
    return Result(settings, [aim for seed in seeds for aim in seed.validation], [figure for seed in seeds for figure in seed.test])


def report(results: dict[str, Result]) -> dict:
    """One population as JSON holds it: each model's figures, and the two-tower's paired lead over it."""
    models = {}
    for name, of in results.items():
        models[name] = {
            "settings": of.settings, "validation_aim": of.validation, "test_aim": [figure.aim for figure in of.test],
            "coverage_at_20": float(np.mean([figure.coverage_at_20 for figure in of.test])),
            **{metric: bootstrap_mean(of.value_U(metric)) for metric in METRICS},
        }  # fmt: skip
        if TOWERS in results and name != TOWERS:
            lead = {metric: bootstrap_difference(results[TOWERS].value_U(metric), of.value_U(metric)) for metric in METRICS}
            models[name]["two_tower_leads_by"] = lead
    return {"users": len(next(iter(results.values())).value_U("ndcg_at_20")), "models": models}


def table(name: str, reports: Mapping[str, dict]) -> str:
    """Markdown: a table for each population, and below it the two-tower against the best of the others, metric by metric."""
    lines = []
    for population, of in reports.items():
        lines += [f"**{name}**, test users: {population}, {of['users']:,}", ""]
        lines += [f"| model | {' | '.join(METRICS.values())} | coverage@20 | settings |", "|---|" + "---|" * (len(METRICS) + 2)]
        for model, row in of["models"].items():
            cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*row[metric]) for metric in METRICS]
            settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
            lines.append(f"| {model} | {' | '.join(cells)} | {row['coverage_at_20']:.3f} | {settings} |")
        others = {model: row for model, row in of["models"].items() if "two_tower_leads_by" in row}
        for metric, title in METRICS.items() if others else ():
            model, row = max(others.items(), key=lambda pair: pair[1][metric][0])
            lead = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["two_tower_leads_by"][metric])
            lines += ["", f"Two-tower minus {model}, {title}: {lead}"]
        lines.append("")
    return "\n".join(lines)


def log_to_mlflow(uri: str, name: str, reports: Mapping[str, dict]) -> None:
    """A run for each model in the experiment `quality`, so that `mlflow ui` lays them side by side."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("quality")
    for population, of in reports.items():
        for model, row in of["models"].items():
            tags = {"git_commit": commit(), "data": name, "population": population}
            with mlflow.start_run(run_name=f"{name}, {population}: {model}", tags=tags):
                mlflow.log_params({"model": model, **row["settings"]})
                ends = {
                    f"test/{metric}{end}": value
                    for metric in METRICS
                    for end, value in zip(("", "_low", "_high"), row[metric], strict=True)
                }
                mlflow.log_metrics({**ends, "test/catalogue_coverage_at_20": row["coverage_at_20"]})


def main() -> None:
    """Print the table; write bench/results/quality_<name>.json, and quality.md from all of them, unless only a part was run."""
    parser = argparse.ArgumentParser(description="Two-tower against tuned baselines on real logs.")
    parser.add_argument("name", choices=MATRIX)
    parser.add_argument("--only", choices=("baselines", "towers"), help="run one half, print it, write nothing")
    parser.add_argument("--mlflow", help="also log a run for each model there, e.g. sqlite:///mlflow.db")
    parser.add_argument("overrides", nargs="*", help="of conf/train.yaml, e.g. task.module.temperature=0.07")
    asked = parser.parse_intermixed_args()
    populations, start = POPULATIONS[asked.name], time.perf_counter()
    with initialize(version_base="1.3", config_path="../conf"):
        given = [f"experiment={asked.name}_two_tower", "name=quality", "question=quality", *asked.overrides]
        configs = [compose("train", [*given, f"seed={seed}"]) for seed in SEEDS]
    chosen_by = configs[0].trainer.monitor.removeprefix("val/")
    tables = instantiate(configs[0].data)
    split = instantiate(configs[0].split)(tables)

    by_model: dict[str, dict[str, Result]] = {}
    if asked.only != "towers":
        log = instantiate(configs[0].log)(split)
        by_model |= {name: baseline(name, log, MATRIX[asked.name], populations, chosen_by) for name in BASELINES}
    if asked.only != "baselines":
        seeds = [two_tower(cfg, split, populations, chosen_by) for cfg in configs]
        by_model[TOWERS] = {population: joined([seed[population] for seed in seeds]) for population in populations}
    reports = {population: report({name: of[population] for name, of in by_model.items()}) for population in populations}
    print(table(asked.name, reports))
    if asked.mlflow:
        log_to_mlflow(asked.mlflow, asked.name, reports)
    if not asked.only:
        known = {
            "commit": commit(),
            "data": tables.fingerprint(),
            "chosen_by": chosen_by,
            "seconds": round(time.perf_counter() - start),
            "overrides": asked.overrides,
        }
        write(asked.name, {**known, "populations": reports})


def write(name: str, result: dict) -> None:
    """bench/results/quality_<name>.json, and quality.md of every log that has one."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"quality_{name}.json").write_text(json.dumps(result, indent=1))
    paths = {name: folder / f"quality_{name}.json" for name in MATRIX}
    (folder / "quality.md").write_text(
        "\n".join(table(n, json.loads(p.read_text())["populations"]) for n, p in paths.items() if p.exists())
    )


if __name__ == "__main__":
    main()
