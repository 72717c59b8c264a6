"""What a stranger gets: the two-tower by length of history on real logs, and the quiz against other questions on the worlds' truth.

    DATA_ROOT=… python -m bench.cold_start            # --only towers | quiz runs one half and keeps the other's figures

Writes bench/results/cold_start.json and prints its tables. Intervals are 95 %, bootstrapped over users; differences are paired by user.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize
from hydra.utils import instantiate
from omegaconf import DictConfig
from scipy import sparse
from torch import Tensor

from bench.baseline_search import interactions, liked_events
from bench.cold_start_quiz import FIGURES, SEEDS, fit, on_worlds
from bench.quality import evaluate
from data.log import Log, Queries, queries
from data.split import TEST
from towers.baselines import FallbackScorer, Popularity
from towers.evaluation import DotProduct, Ranking, Scorer, per_user, target_slices
from towers.metrics import bootstrap_difference, bootstrap_mean
from towers.record import commit

RESULT = Path(__file__).parent / "results" / "cold_start.json"
METRICS = {"recall_at_20": "Recall@20", "ndcg_at_20": "NDCG@20"}
SLICES = {"history_0": "0 events", "history_1_3": "1–3", "history_4_10": "4–10", "history_11_up": "11 and more"}
COLD, AMONG_COLD = "items unseen, ranked among all", "items unseen, ranked among the unseen"
# The best half-life of the validation part, in bench/results/quality_movietweetings.json.
HALF_LIFE_DAYS = {"popularity": float("inf"), "recent popularity": 30.0}
TOWERS = "two-tower"


@dataclass(frozen=True, slots=True)
class Content:
    """Cosine of an item's content with the mean of the unit content vectors of what the user liked; knows nobody who liked nothing."""

    feature_IF: np.ndarray

    def fit(self, liked_UI: sparse.csr_matrix) -> DotProduct:
        """The scorer for users of these rows."""
        centred_IF = self.feature_IF - self.feature_IF.mean(0)
        unit_IF = centred_IF / np.maximum(np.linalg.norm(centred_IF, axis=1, keepdims=True), 1e-12)
        return DotProduct(torch.as_tensor(liked_UI.sign() @ unit_IF, dtype=torch.float32), torch.as_tensor(unit_IF, dtype=torch.float32))


def scorers(log: Log) -> dict[str, Scorer]:
    """Popularity of all time and of late, and content. Content knows nothing of strangers and of those who liked nothing: they are shown
    what is popular of late."""
    liked = {name: interactions(log, events=liked_events, half_life_days=days) for name, days in HALF_LIFE_DAYS.items()}
    popular = {name: Popularity().fit(liked_UI) for name, liked_UI in liked.items()}
    liked_UI = liked["popularity"]
    stranger_U = torch.as_tensor(np.diff(liked_UI.indptr) == 0)
    content = FallbackScorer(
        Content(log.catalogue.feature_IF).fit(liked_UI), popular["recent popularity"], stranger_U, int(stranger_U.sum())
    )
    return {**popular, "content": content}


def only(score: Scorer, keep_I: Tensor) -> Scorer:
    """The same scorer with no other item in the running."""
    return lambda user_row_B: score(user_row_B).masked_fill(~keep_I, -torch.inf)


def per_slice(ranking: Ranking, among_cold: Ranking, asked: Queries) -> dict[str, dict[str, Tensor]]:
    """Slice → metric → value of each of its users. An item is unseen where nobody did anything with it before the test."""
    met_I = torch.as_tensor(np.bincount(asked.history.item_row_E, minlength=len(asked.history.catalogue.item_ids)))
    keep = target_slices(ranking, history_length_U=torch.as_tensor(np.diff(asked.seen_offset)), train_count_I=met_I)
    values = {SLICES[name]: per_user(ranking, (20,), keep[name]) for name in SLICES}
    values |= {COLD: per_user(ranking, (20,), keep["cold_items"]), AMONG_COLD: per_user(among_cold, (20,), keep["cold_items"])}
    return {name: {metric: of[metric] for metric in METRICS} for name, of in values.items()}


def by_history(cfg: DictConfig) -> dict:
    """Users by events before the test, and unseen items, on the experiment's own split."""
    split = instantiate(cfg.split)(instantiate(cfg.data))
    task, log = fit(cfg, split)
    asked = queries(log, TEST)
    known = scorers(asked.history)
    with torch.no_grad():
        input_ID, vector_ID = task.item_rows(asked.history).split(task.width, dim=1)
        query_QD = task.queries(asked, input_ID)
    query_UD = torch.zeros(len(log.user_ids), task.width)
    query_UD[torch.as_tensor(asked.user_row_Q)] = query_QD
    known[TOWERS] = DotProduct(query_UD, vector_ID)
    cold_I = torch.as_tensor(np.bincount(asked.history.item_row_E, minlength=len(vector_ID)) == 0)
    values = {name: per_slice(evaluate(score, asked), evaluate(only(score, cold_I), asked), asked) for name, score in known.items()}
    result = {}
    for name in values[TOWERS]:
        rows = {model: {metric: bootstrap_mean(of[name][metric]) for metric in METRICS} for model, of in values.items()}
        leads = {
            model: {metric: bootstrap_difference(values[TOWERS][name][metric], of[name][metric]) for metric in METRICS}
            for model, of in values.items() if model != TOWERS
        }  # fmt: skip
        result[name] = {"users": len(values[TOWERS][name]["recall_at_20"]), "models": rows, "two_tower_leads_by": leads}
    return {
        "unseen_items": int(cold_I.sum()),
        "strangers_to_content": int(known["content"].stranger_U[torch.as_tensor(asked.user_row_Q)].sum()),
        "slices": result,
    }


def history_table(of: Mapping) -> str:
    """Markdown: a row for each slice and model."""
    lines = [f"| test users, by events before the test | users | model | {' | '.join(METRICS.values())} | two-tower leads by, Recall@20 |"]
    lines.append("|---|---|---|---|---|---|")
    for name, row in of["slices"].items():
        for model, figures in row["models"].items():
            cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*figures[metric]) for metric in METRICS]
            lead = row["two_tower_leads_by"].get(model)
            told = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*lead["recall_at_20"]) if lead else ""
            lines.append(f"| {name} | {row['users']:,} | {model} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines)


def quiz_table(of: Mapping) -> str:
    """Markdown: a row for each world, answerer and questioner."""
    lines = [f"| world | answers | questions | {' | '.join(FIGURES.values())} | asked (known) | quiz leads by, attraction | by seed |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for world, by_known in of.items():
        for known, rows in by_known.items():
            for name, row in rows.items():
                cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*row[figure]) for figure in FIGURES]
                lead = row.get("quiz_leads_by")
                told = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*lead["attraction"]) if lead else ""
                seeds = " ".join(f"{value:.3f}" for value in row["by_seed"])
                asked = f"{row['asked']:.1f} ({row['known']:.1f})"
                lines.append(f"| {world} | {known} | {name} | {' | '.join(cells)} | {asked} | {told} | {seeds} |")
    return "\n".join(lines)


def configured(experiment: str, *overrides: str) -> DictConfig:
    """The experiment's configuration."""
    with initialize(version_base="1.3", config_path="../conf"):
        return compose("train", [f"experiment={experiment}", "name=cold_start", "question=cold_start", *overrides])


def main() -> None:
    """Run, print, write; what was not run keeps the figures it had."""
    parser = argparse.ArgumentParser(description="Cold start: the two-tower by length of history, and the quiz on the worlds.")
    parser.add_argument("--only", choices=("towers", "quiz"), help="run one half")
    asked = parser.parse_args()
    if asked.only != "quiz":
        start = time.perf_counter()
        figures = by_history(configured("movietweetings_two_tower"))
        print(history_table(figures), "\n", flush=True)
        keep("towers", {"seconds": round(time.perf_counter() - start), **figures})
    if asked.only != "towers":
        start = time.perf_counter()
        configs = {seed: configured("world_two_tower", f"seed={seed}", "trainer.patience=2") for seed in SEEDS}
        figures = on_worlds(configs, lambda line: print(line, flush=True))
        print(quiz_table(figures))
        keep("quiz", {"seconds": round(time.perf_counter() - start), "worlds": figures})


def keep(half: str, figures: Mapping) -> None:
    """Put one half into the results' file beside the other."""
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(result | {half: {"commit": commit(), **figures}}, indent=1))


if __name__ == "__main__":
    main()
