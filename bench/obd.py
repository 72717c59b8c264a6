"""What would a shop's other policy have earned? Open Bandit, campaign men: each policy's value from the other's log, beside its own mean.

    DATA_ROOT=… python -m bench.obd

The log of Bernoulli Thompson sampling (bts) tells of the even policy (random), whose probabilities are known; its own log tells what is
true, within an interval. The other way round, what bts would do in a round of random's log is not logged: its share of each item at each
position stands for it, by its own log, which leaves out how it learnt over the week. Both logs are slices of 10,000 rounds with some fifty
clicks: enough for the form of the data, for refusals and for diagnostics, far too few to tell good estimators from bad.

Shapes: N rounds · A items · S positions.
"""

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from hydra import compose, initialize
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from towers.intervals import bootstrap, empirical_bernstein
from towers.off_policy import (
    Terms,
    clipped_ips,
    direct_method,
    doubly_robust,
    effective_size,
    expected,
    importance_weight,
    ips,
    snips,
    switch_doubly_robust,
)
from towers.record import commit
from towers.verdict import Overlap, Verdict, by_model, by_weights, overlap, overlap_of_policies

RESULTS = Path(__file__).parent / "results" / "obd.json"
FOLDS, CAP = 5, 10.0


class Rounds(NamedTuple):
    """One policy's log: item row, position from 0, click and propensity of each round."""

    item_N: np.ndarray
    position_N: np.ndarray
    click_N: np.ndarray
    propensity_N: np.ndarray


def rounds_of(shown: pl.DataFrame, item_ids: list[str], policy: str) -> Rounds:
    """The rows of one arm."""
    mine = shown.filter(pl.col("arm") == policy)
    return Rounds(
        mine["item_id"].replace_strict(item_ids, range(len(item_ids)), return_dtype=pl.Int64).to_numpy(),
        mine["position"].to_numpy() - 1, mine["clicked"].cast(pl.Float64).to_numpy(), mine["propensity"].to_numpy(),
    )  # fmt: skip


def crossfit(log: Rounds, items: int) -> np.ndarray:
    """P(click) of every item in every round, (N, A): a ridge logistic regression of item and position, each fold's by the other folds."""
    position_NS = np.eye(3)[log.position_N]
    seen_NF = np.concatenate([np.eye(items)[log.item_N], position_NS], axis=1)
    fold_N = np.random.default_rng(0).integers(0, FOLDS, len(log.item_N))
    predicted_NA = np.zeros((len(log.item_N), items))
    for fold in range(FOLDS):
        learnt = LogisticRegression(C=0.3, max_iter=1_000).fit(seen_NF[fold_N != fold], log.click_N[fold_N != fold])
        logit_A, logit_S = np.split(learnt.coef_[0], [items])
        mine = fold_N == fold
        predicted_NA[mine] = 1 / (1 + np.exp(-(learnt.intercept_[0] + logit_A + (position_NS[mine] @ logit_S)[:, None])))
    return predicted_NA


def share_by_position(log: Rounds, items: int) -> np.ndarray:
    """How often a policy showed each item at each position, (S, A), rows summing to 1."""
    count_SA = np.zeros((3, items))
    np.add.at(count_SA, (log.position_N, log.item_N), 1)
    return count_SA / count_SA.sum(1, keepdims=True)


def estimates(log: Rounds, target_NA: np.ndarray, seen: Overlap) -> tuple[dict, list[Verdict], dict]:
    """(overlap, every estimator's verdict, empirical Bernstein of IPS and SNIPS where the largest possible weight is known)."""
    row = np.arange(len(log.item_N))
    weight_N = importance_weight(target_NA[row, log.item_N], log.propensity_N)
    predicted_NA = crossfit(log, target_NA.shape[1])
    of_shown, of_target = predicted_NA[row, log.item_N], expected(target_NA, predicted_NA)
    by_name: dict[str, Terms] = {
        "IPS": ips(log.click_N, weight_N), f"clipped IPS ({CAP:g})": clipped_ips(log.click_N, weight_N, cap=CAP),
        "SNIPS": snips(log.click_N, weight_N), "DR": doubly_robust(log.click_N, weight_N, of_shown, of_target),
        f"SWITCH-DR ({CAP:g})": switch_doubly_robust(log.click_N, weight_N, of_shown, of_target, threshold=CAP),
    }  # fmt: skip
    told = [by_weights(name, terms, seen) for name, terms in by_name.items()] + [by_model("DM", direct_method(of_target))]
    least = log.propensity_N.min()  # the largest weight that was seen; what bts might have given less to is not known
    span = float(target_NA.max() / least)
    sure = {name: empirical_bernstein(by_name[name], span=span)[1:] for name in ("IPS", "SNIPS")}
    facts = {
        "rounds": seen.rounds, "clicks": int(log.click_N.sum()), "effective": seen.effective, "largest_weight": seen.largest_weight,
        "effective_clicks": effective_size(weight_N * log.click_N), "supported": list(seen.supported), "said": seen.refusal or seen.caution,
    }  # fmt: skip
    return facts, told, sure


def main() -> None:
    """Estimate both ways, print, write."""
    line = argparse.ArgumentParser(prog="python -m bench.obd", description=__doc__.splitlines()[0])
    line.add_argument("--out", type=Path, default=RESULTS)
    asked = line.parse_args()
    with initialize(version_base="1.3", config_path="../conf"):
        tables = instantiate(compose("train", ["data=obd"]).data)
    item_ids = tables.items["item_id"].to_list()
    logs = {policy: rounds_of(tables.impressions, item_ids, policy) for policy in ("bts", "random")}
    even_NA = np.full((len(logs["bts"].item_N), len(item_ids)), 1 / len(item_ids))
    as_bts_NA = share_by_position(logs["bts"], len(item_ids))[logs["random"].position_N]
    told, console = {}, Console(width=140)
    bts, random = logs["bts"], logs["random"]
    seen_by = {
        "bts": overlap(importance_weight(np.full(len(bts.item_N), 1 / len(item_ids)), bts.propensity_N)),  # of what it showed alone
        "random": overlap_of_policies(as_bts_NA, np.full(as_bts_NA.shape, 1 / len(item_ids)), random.item_N),
    }
    for target, logger, target_NA in (("random", "bts", even_NA), ("bts", "random", as_bts_NA)):
        facts, found, sure = estimates(logs[logger], target_NA, seen_by[logger])
        own = bootstrap(Terms(logs[target].click_N, np.ones(len(logs[target].click_N))))
        table = Table(title=f"{target}, from the log of {logger}; its own mean {own.mean:.4f}", title_justify="left")
        for column in ("estimator", "value", "95 % interval", "said"):
            table.add_column(column)
        table.add_row("its own log", f"{own.mean:.4f}", f"{own.low:.4f} to {own.high:.4f}", "")
        table.add_row("naive: the log's mean", f"{logs[logger].click_N.mean():.4f}", "", "")
        for one in found:
            table.add_row(one.estimator, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}", one.said)
        console.print(table)
        console.print(
            f"effective {facts['effective']:,.0f} of {facts['rounds']:,}, as {facts['effective_clicks']:.0f} clicks, largest weight"
            f" {facts['largest_weight']:,.1f}, supported"
            f" {facts['supported'][1]:.2f} to {facts['supported'][2]:.2f}; empirical Bernstein of IPS up to {sure['IPS'][1]:.3f}\n"
        )
        told[f"{target} from {logger}"] = {
            "own": list(own), "naive": float(logs[logger].click_N.mean()), "overlap": facts, "verdicts": [one.as_json() for one in found],
            "empirical_bernstein": sure,
        }  # fmt: skip
    asked.out.write_text(json.dumps({"commit": commit(), "cores": os.cpu_count(), **told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
