"""Does a corrected model beat its uncorrected twin where chance chose the test? On stand-ins for Coat, Yahoo! R3 and a click log.

    python -m bench.randomised_test                     # overrides follow: bias.exposure.power=0.5

Each log is written as one CSV and read by the `tables` reader, as anybody's would be, under conf/experiment/randomised_test.yaml; the
twins differ in `bias=` and in nothing else. The rating logs are `tests.worlds.chosen_and_random_ratings`: users chose what they rated, by
popularity and by liking, and chance chose the test part. The click log has the same people and no ratings: what was met and liked was
clicked. Figures: full ranking of the catalogue (NDCG@20, recall@20) for what was liked in the test part, and order within what each user
judged there (GAUC, NDCG@5; a click log's test part shows what chance showed them, clicked or skipped). Differences are paired by seed.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
from hydra.utils import instantiate

from bench.fits import configuration, tested
from tests.worlds import chosen_and_random_ratings
from towers.metrics import bootstrap_mean
from towers.record import commit

LOGS = {
    "coat": {"users": 290, "items": 300, "chosen": 24, "drawn": 16, "popularity": 1.0, "liking": 1.0},
    "yahoo": {"users": 1_200, "items": 300, "chosen": 20, "drawn": 10, "popularity": 1.5, "liking": 0.7},
    "clicks": {"users": 500, "items": 200, "chosen": 40, "drawn": 15, "popularity": 2.0, "liking": 0.0},
}
FIGURES = {"ndcg_at_20": "NDCG@20", "recall_at_20": "recall@20", "judged/gauc": "GAUC, judged", "judged/ndcg_at_5": "NDCG@5, judged"}
COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "at", "split": "split"}
READ = (*(f"data.columns.{ours}={theirs}" for ours, theirs in COLUMNS.items()), "data.timestamp_unit=s")


def write(name: str, seed: int, folder: Path) -> tuple[str, ...]:
    """The log as a CSV in `folder`, and the overrides that read it."""
    ratings, path = chosen_and_random_ratings(**LOGS[name], seed=seed), folder / f"{name}_{seed}.csv"
    if name != "clicks":
        ratings.write_csv(path)
        return (f"data.events={path}", "data.event_type=rate", "log.liked_from=4", *READ)
    liked = pl.col("rating") >= 4
    clicks = ratings.with_columns(event_type=pl.when(liked).then(pl.lit("click")).otherwise(pl.lit("skip"))).drop("rating")
    clicks.filter((pl.col("event_type") == "click") | (pl.col("split") == "test")).write_csv(path)
    return (f"data.events={path}", *READ)


def twins(name: str, seed: int, biases: tuple[str, ...], overrides: list[str]) -> dict[str, dict[str, float]]:
    """The test figures of each choice of bias on one log."""
    with tempfile.TemporaryDirectory() as folder:
        given = ("experiment=randomised_test", *write(name, seed, Path(folder)), f"seed={seed}", *overrides)
        configurations = {bias: configuration(*given, f"bias={bias}") for bias in biases}
        first = configurations[biases[0]]
        log = instantiate(first.log)(instantiate(first.split)(instantiate(first.data)))
    found = {bias: tested(cfg, log) for bias, cfg in configurations.items()}
    return {bias: {figure: of[figure] for figure in FIGURES} for bias, of in found.items()}


def table(results: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Markdown: the means of each twin, and the corrected less the uncorrected with a 95 % bootstrap interval over seeds."""
    lines = [f"| log | seeds | bias | {' | '.join(FIGURES.values())} |", "|---|---|---|" + "---|" * len(FIGURES)]
    for name, seeds in results.items():
        plain, *others = seeds[0]
        value = {bias: {figure: np.array([seed[bias][figure] for seed in seeds]) for figure in FIGURES} for bias in seeds[0]}
        for bias in seeds[0]:
            lines.append(f"| {name} | {len(seeds)} | {bias} | {' | '.join(f'{value[bias][figure].mean():.4f}' for figure in FIGURES)} |")
        for bias in others:
            leads = [bootstrap_mean(torch.as_tensor(value[bias][figure] - value[plain][figure])) for figure in FIGURES]
            cells = ["{:+.4f} [{:+.4f}, {:+.4f}]".format(*lead) for lead in leads]
            lines.append(f"| {name} | {len(seeds)} | {bias} − {plain} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line for each twin, then the table; write bench/results/randomised_test.json and .md when all logs were run."""
    parser = argparse.ArgumentParser(description="Corrected and uncorrected twins on logs with a randomised test part.")
    parser.add_argument("--logs", default=",".join(LOGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--biases", default="none,popularity", help="choices of conf/bias; the first is the uncorrected twin")
    parser.add_argument("overrides", nargs="*", help="of conf/train.yaml, for every twin")
    asked = parser.parse_intermixed_args()
    results: dict[str, list] = {}
    for name in asked.logs.split(","):
        for seed in range(asked.seeds):
            results.setdefault(name, []).append(twins(name, seed, tuple(asked.biases.split(",")), asked.overrides))
            for bias, of in results[name][-1].items():
                print(name, seed, bias, {figure: round(value, 4) for figure, value in of.items()}, flush=True)
    print(table(results))
    if set(results) == set(LOGS):
        folder = Path(__file__).parent / "results"
        known = {"commit": commit(), "biases": asked.biases, "overrides": asked.overrides, "hardware": "2 cores"}
        (folder / "randomised_test.json").write_text(json.dumps({**known, "logs": results}, indent=1))
        (folder / "randomised_test.md").write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
