"""Gradient-boosted trees on what the ranker is told, the baseline that it has to beat: the same rows, the same features, the same judge.

    python -m towers.trees --run runs/<the ranker's run> [--leaves 4 7 15 31 63] [--out trees.json]

LightGBM (Ke et al., NIPS 2017): a binary objective for click and one for completion; watch time three ways (its place among those
of its duration, which is what the ranker learns, and the mean and the median of log seconds), of which each figure takes the one that does
best on the rows to choose by; and LambdaRank (Burges 2010) on graded gains for the order within requests, or within users where every
request showed one item. Learns on the rows that the ranker learns on, with its weights, and stops early by those the ranker is chosen by.

Shapes: N rows · F features.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lightgbm
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.features import MOMENT
from data.judgements import LABELS
from data.split import TEST, VALIDATION
from towers.metrics import Interval, bootstrap_difference
from towers.paired import Difference, Rows, Said, compare, figures
from towers.ranker import HEADS, TASKS
from towers.ranking_batch import DURATION, RankingBatch, feature_matrix
from towers.ranking_data import RankingData
from towers.ranking_figures import graded_ndcg, xauc
from towers.saved import load_script

logger = logging.getLogger(__name__)
FIXED = {
    "learning_rate": 0.08, "min_data_in_leaf": 100, "feature_fraction": 0.4, "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 5.0,
    "max_bin": 63, "verbose": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True,
}  # fmt: skip
ROUNDS, PATIENCE = 2000, 30
TRIED = (4, 7, 15, 31, 63)
"""Numbers of leaves, of which what does best on the rows held out is kept. Where user and item hardly interact the least may be it."""
WATCH = {"place": "cross_entropy", "mean": "regression", "median": "regression_l1"}
"""How watch time is learned, and LightGBM's objective for it."""


class Leaves(NamedTuple):
    """Numbers of leaves to try: for clicks, of which completion and order take the best; for the place of watch times, of which its other
    targets do."""

    click: Sequence[int]
    watch: Sequence[int]


class Table(NamedTuple):
    """Rows that are there, group by group: features (N, F), targets and weights by task (N, T), labels (N, Y), the request and the user of
    each (N,), and the log of its duration."""

    feature_NF: np.ndarray
    names: tuple[str, ...]
    target_NT: np.ndarray
    weight_NT: np.ndarray
    label_NY: np.ndarray
    group_N: np.ndarray
    user_N: np.ndarray
    log_duration_N: np.ndarray

    @classmethod
    def of(cls, batch: RankingBatch, data: RankingData) -> "Table":
        """`batch`, as the ranker of `data` would be told it."""
        there = batch.there_BK
        feature_NF, names = feature_matrix(batch, data.model.row_IW, data.model.width)
        group_N = there.nonzero()[:, 0].numpy()
        columns = (table[there].numpy() for table in (batch.target_BKT, batch.weight_BKT, batch.label_BKY))
        return cls(feature_NF, names, *columns, group_N, batch.user_row_B[group_N].numpy(), batch.number_BKX[there][:, DURATION].numpy())

    def rows(self) -> Rows:
        """Whose each row is, and what came of it."""
        click_N, complete_N, watch_N = (self.label_NY[:, LABELS.index(name)] for name in ("click", "complete", "watch_seconds"))
        return Rows(self.user_N, click_N, complete_N, watch_N)


@dataclass(frozen=True, slots=True)
class Trees:
    """One booster for each thing learned: `click`, `complete`, `order`, and watch time by the names in `WATCH`."""

    booster: dict[str, lightgbm.Booster]
    seconds: Callable[[np.ndarray, np.ndarray], np.ndarray]
    least_error: str
    best_order: str

    def watched(self, name: str, table: Table) -> np.ndarray:
        """Seconds by one of the watch boosters, (N,)."""
        told_N = self.booster[name].predict(table.feature_NF)
        return self.seconds(told_N, table.log_duration_N) if name == "place" else np.expm1(told_N).clip(0)

    def said(self, table: Table) -> Said:
        """What the trees say of rows."""
        click_N, complete_N = (self.booster[name].predict(table.feature_NF) for name in ("click", "complete"))
        return Said(click_N, complete_N, self.watched(self.least_error, table), self.watched(self.best_order, table))


def learned(data: RankingData, table: Table, held: Table, *, leaves: Leaves, seed: int) -> Trees:
    """Trees of the rows that the ranker of `data` learns from, each stopped, and the numbers of leaves chosen, by the rows held out."""

    def best(target: Callable[[Table], np.ndarray], objective: str, tried: Sequence[int]) -> lightgbm.Booster:
        return _best(table, held, target, objective, tried, seed)

    place = best(_place, WATCH["place"], leaves.watch)
    watch_leaves = [place.params["num_leaves"]]
    booster = {"place": place} | {name: best(_log_seconds, WATCH[name], watch_leaves) for name in ("mean", "median")}
    tried = leaves.click
    for name in ("click", "complete"):
        if _varies(table, name):
            booster[name] = best(_label(name), "binary", tried)
            tried = [booster[name].params["num_leaves"]]
    booster["order"] = best(_gain, "lambdarank", tried)

    def seconds(place_N: np.ndarray, log_duration_N: np.ndarray) -> np.ndarray:
        place, duration = (torch.as_tensor(column).float() for column in (place_N, log_duration_N))
        return data.answers.watch_time(place.clamp(0, 1), duration).numpy()

    trees = Trees(booster, seconds, "place", "place")
    known_N = ~np.isnan(held.rows().watch_seconds_N)
    watched_N = held.rows().watch_seconds_N[known_N]
    told = {name: trees.watched(name, held)[known_N] for name in WATCH}
    error = {name: np.abs(told[name] - watched_N).mean() for name in WATCH}
    order = {name: xauc(torch.as_tensor(told[name]), torch.as_tensor(watched_N)) for name in WATCH}
    return Trees(booster, seconds, min(error, key=error.get), max(order, key=order.get))


def _varies(table: Table, name: str) -> bool:
    label_N = table.label_NY[:, LABELS.index(name)]
    return bool((label_N == 0).any() and (label_N == 1).any())


def _label(name: str) -> Callable[[Table], np.ndarray]:
    return lambda table: table.label_NY[:, LABELS.index(name)]


def _place(table: Table) -> np.ndarray:
    return table.target_NT[:, TASKS.index("watch")]


def _log_seconds(table: Table) -> np.ndarray:
    return np.log1p(table.label_NY[:, LABELS.index("watch_seconds")])


def _gain(table: Table) -> np.ndarray:
    """0 for nothing, 1 for a click, 2 for completion: LambdaRank's graded relevance; NaN where neither is known."""
    click_N, complete_N = (table.label_NY[:, LABELS.index(name)] for name in ("click", "complete"))
    return np.where(np.isnan(click_N), np.nan, np.where(np.nan_to_num(complete_N) > 0, 2, click_N))


def _within(table: Table) -> np.ndarray:
    """What LambdaRank orders within: requests, or users where every request showed one item."""
    return table.group_N if len(table.group_N) > table.group_N.max(initial=-1) + 1 else table.user_N


def _dataset(table: Table, target: Callable[[Table], np.ndarray], objective: str, reference: lightgbm.Dataset | None) -> lightgbm.Dataset:
    target_N, task = target(table), {"binary": "click", "lambdarank": "click"}.get(objective, "watch")
    known = np.flatnonzero(~np.isnan(target_N))
    count = None
    if objective == "lambdarank":
        within_N = _within(table)[known]
        order = np.argsort(within_N, kind="stable")
        known, count = known[order], np.unique(within_N, return_counts=True)[1]
    return lightgbm.Dataset(
        table.feature_NF[known], target_N[known], weight=table.weight_NT[known, TASKS.index(task)], group=count, reference=reference,
        feature_name=list(table.names), categorical_feature=list(MOMENT),
    )  # fmt: skip


def _best(
    table: Table, held: Table, target: Callable[[Table], np.ndarray], objective: str, leaves: Sequence[int], seed: int
) -> lightgbm.Booster:
    """The booster whose number of leaves does best on the rows held out."""
    metric = {"binary": "auc", "lambdarank": "ndcg"}.get(objective, objective)
    tried = []
    for count in leaves:
        fit = _dataset(table, target, objective, None)
        parameters = FIXED | {"objective": objective, "metric": metric, "num_leaves": count, "seed": seed}
        booster = lightgbm.train(
            parameters, fit, ROUNDS, [_dataset(held, target, objective, fit)], callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)]
        )
        figure = next(iter(booster.best_score["valid_0"].values()))
        tried.append((figure if metric in ("auc", "ndcg") else -figure, booster))
        logger.info("%s, %s leaves: %s trees, held out %.4f", objective, count, booster.best_iteration, figure)
    return max(tried, key=lambda pair: pair[0])[1]


@torch.no_grad()
def by_network(ranker: torch.jit.ScriptModule, batch: RankingBatch, data: RankingData, *, block: int = 4096) -> np.ndarray:
    """What a saved ranker answers for the rows that are there, (N, H), as it is served."""
    answers = []
    for start in range(0, len(batch.query_BD), block):
        part = RankingBatch(*(column[start : start + block] for column in batch))
        candidate_BKD = data.model.row_IW[part.item_row_BK, : data.model.width]
        answer_BKH = ranker(part.query_BD, part.moment_BC, part.profile_BU, candidate_BKD, part.number_BKX)
        answers.append(answer_BKH[part.there_BK])
    return torch.cat(answers).double().numpy()


def spread(score_N: np.ndarray, batch: RankingBatch) -> torch.Tensor:
    """Scores of rows that are there as (B, K), for what is judged by the request."""
    score_BK = torch.full(batch.there_BK.shape, -torch.inf, dtype=torch.float64)
    score_BK[batch.there_BK] = torch.as_tensor(score_N, dtype=torch.float64)
    return score_BK


class Measured(NamedTuple):
    """What `measure` found: `figures` of both and their difference by draws of users; NDCG of graded gains within requests of both, and its
    paired difference, where they showed several items; LambdaRank's own figures within users; and what was trained how."""

    figures: dict[str, Difference]
    gain_ndcg: tuple[float, float, Interval] | None
    lambdarank: dict[str, float]
    notes: dict[str, object]


def measure(data: RankingData, network: torch.jit.ScriptModule, *, leaves: Leaves, seed: int, resamples: int = 1000) -> Measured:
    """Train the trees of `data` and hold a ranker against them on its test rows."""
    begun = time.perf_counter()
    cpu = torch.device("cpu")
    held, asked = data.held(VALIDATION, cpu), data.held(TEST, cpu)
    fit, choose, test = (Table.of(batch, data) for batch in (data.fit_batch, held, asked))
    trees = learned(data, fit, choose, leaves=leaves, seed=seed)
    seconds = time.perf_counter() - begun
    answer_NH, rows = by_network(network, asked, data), test.rows()
    click_N, complete_N, watch_N = (answer_NH[:, HEADS.index(name)] for name in ("click", "complete", "watch_seconds"))
    order_N = trees.booster["order"].predict(test.feature_NF)
    gain_BK = spread(np.nan_to_num(_gain(test), nan=0.0), asked).masked_fill(~asked.there_BK, torch.nan)
    value, lambdarank = (graded_ndcg(spread(score_N, asked), gain_BK) for score_N in (answer_NH[:, HEADS.index("value")], order_N))
    several = len(value) > 0
    within = figures(Said(order_N, order_N, watch_N, watch_N), rows)
    return Measured(
        compare(Said(click_N, complete_N, watch_N, watch_N), trees.said(test), rows, resamples=resamples),
        (float(value.mean()), float(lambdarank.mean()), bootstrap_difference(value, lambdarank, resamples=resamples)) if several else None,
        {name: figure for name, figure in within.items() if name.endswith("gauc")},
        {
            "trees": {name: booster.best_iteration for name, booster in trees.booster.items()},
            "leaves": {name: booster.params["num_leaves"] for name, booster in trees.booster.items()},
            "watch": {"least_error": trees.least_error, "best_order": trees.best_order},
            "rows": {"fit": len(fit.user_N), "choose": len(choose.user_N), "test": len(test.user_N), "features": len(fit.names)},
            "trees_seconds": round(seconds),
        },
    )


def told(found: Measured) -> dict:
    """As JSON."""
    rows = {name: _row(pair.one, pair.other, pair.interval()) for name, pair in found.figures.items()}
    if found.gain_ndcg is not None:
        rows["gain_ndcg"] = _row(*found.gain_ndcg)
    return {"figures": rows, "lambdarank": found.lambdarank, **found.notes}


def _row(ranker: float, trees: float, difference: Interval) -> dict[str, float]:
    return {"ranker": ranker, "trees": trees, "difference": difference.mean, "low": difference.low, "high": difference.high}


def lines(told: dict) -> str:
    """What `told` says, to read."""
    text = [f"{'figure':<20}{'ranker':>10}{'trees':>10}{'difference':>12}  95 % interval"]
    for name, row in told["figures"].items():
        text.append(
            f"{name:<20}{row['ranker']:>10.4f}{row['trees']:>10.4f}{row['difference']:>+12.4f}  {row['low']:+.4f} to {row['high']:+.4f}"
        )
    text += [f"{name:<20}{'':>10}{figure:>10.4f}  LambdaRank" for name, figure in told["lambdarank"].items()]
    return "\n".join(text)


def data_of(run: Path) -> RankingData:
    """The groups that a ranker's run learned from and was tested on."""
    cfg = OmegaConf.load(run / "config.yaml")
    return instantiate(cfg.task.datamodule)(instantiate(cfg.log)(instantiate(cfg.split)(instantiate(cfg.data))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print, write."""
    line = argparse.ArgumentParser(prog="python -m towers.trees", description=__doc__.splitlines()[0])
    line.add_argument("--run", type=Path, required=True, help="a ranker's run: config.yaml and model/ in it")
    line.add_argument("--leaves", type=int, nargs="+", default=TRIED, help="tried; what does best on the rows held out is kept")
    line.add_argument("--seed", type=int, default=0)
    line.add_argument("--out", type=Path, help="JSON of all figures")
    asked = line.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = told(
        measure(
            data_of(asked.run), load_script(asked.run / "model" / "ranker.pt"), leaves=Leaves(asked.leaves, asked.leaves), seed=asked.seed
        )
    )
    print(lines(found))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
