"""Estimated examination against the truth of simulated worlds: error by position, and how often the 95 % interval holds it.

    python -m bench.examination              # large worlds, two seeds each, then many small ones for the coverage

Truth is the mean probability of being looked at by position, relative to the top. The bar of 5 % is for positions of 5,000 clicks or more.

Shapes: P impressions · K positions.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.curve import Curve
from data.examination import by_item, harvested_curve, randomised_curve, regression_em_curve
from data.impressions import Observed, shown_in
from data.logging_policy import Policy
from data.outcomes import Attention
from data.world import World
from towers.record import commit

ENOUGH, WITHIN = 5_000, 0.05
ESTIMATORS: dict[str, Callable[[Observed], Curve]] = {
    "harvested": harvested_curve,
    "randomised": lambda seen: randomised_curve(seen, arms=("uniform",)),
    "by item": lambda seen: harvested_curve(seen, strata=by_item),
    "regression-EM": regression_em_curve,
}


def kinds(size: dict, seed: int) -> dict[str, World]:
    """The worlds by name."""
    strong = World.strong(**size, seed=seed)
    return {
        "strong": strong,
        "strong, exponent 0.5": replace(strong, attention=Attention((0.5, 0.5, 0.5))),
        "strong, exponent 1": replace(strong, attention=Attention((1.0, 1.0, 1.0))),
        "strong, exponent 2": replace(strong, attention=Attention((2.0, 2.0, 2.0))),
        "strong, by device": replace(strong, attention=Attention((1.6, 0.4, 0.9))),
        "strong, another policy": replace(strong, policy=Policy(popularity=1.0, order_noise=0.5)),
        "mild": World.mild(**size, seed=seed),
        "misspecified": World.misspecified(**size, seed=seed),
    }


def judged(world: World, estimators: dict[str, Callable[[Observed], Curve]]) -> list[dict]:
    """A row for each estimator and position but the top."""
    tables, truth = world.simulate()
    shown = shown_in(tables.impressions)
    place_P = shown.position_P - 1
    true_K = np.bincount(place_P, truth.examination_N) / np.bincount(place_P)
    true_K /= true_K[0]
    del tables, truth
    rows = []
    for name, estimate in estimators.items():
        start = time.perf_counter()
        curve = estimate(Observed(np.zeros(world.items), shown))
        seconds = time.perf_counter() - start
        low, high = (end[0] for end in curve.interval())
        rows += [
            {
                "estimator": name, "position": k + 1, "clicks": int(curve.clicks_DK[0, k]), "truth": float(true_K[k]),
                "estimate": float(curve.slope_DK[0, k]), "low": float(low[k]), "high": float(high[k]),
                "error": float(curve.slope_DK[0, k] / true_K[k] - 1), "seconds": round(seconds, 1),
            }
            for k in range(1, len(true_K))
        ]  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    """By world and seed the error of each position, in percent; the bar's positions are starred where it is missed."""
    lines = []
    for key in dict.fromkeys((row["world"], row["seed"], row["estimator"]) for row in rows):
        mine = [row for row in rows if (row["world"], row["seed"], row["estimator"]) == key]
        told = (f"{100 * r['error']:+6.1f}{'*' if r['clicks'] >= ENOUGH and abs(r['error']) > WITHIN else ' '}" for r in mine)
        lines.append(f"{key[0]:24s} {key[1]:3d} {key[2]:14s} {' '.join(told)}  ({mine[-1]['clicks']:,} clicks at the last)")
    return "\n".join(lines)


def covered(rows: list[dict]) -> dict[str, dict[str, float]]:
    """By estimator: coverage of the 95 % interval where there are fewer clicks than the bar asks for, and share within 5 % elsewhere."""
    found = {}
    for name in dict.fromkeys(row["estimator"] for row in rows):
        few = [r["low"] <= r["truth"] <= r["high"] for r in rows if r["estimator"] == name and r["clicks"] < ENOUGH]
        many = [abs(r["error"]) <= WITHIN for r in rows if r["estimator"] == name and r["clicks"] >= ENOUGH]
        found[name] = {
            "fewer": len(few),
            "coverage": float(np.mean(few or [np.nan])),
            "more": len(many),
            "within": float(np.mean(many or [np.nan])),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--small", type=int, default=20, help="seeds of worlds of 60,000 events, for the coverage")
    parser.add_argument("--out", type=Path, default=Path("bench/results/examination.json"))
    asked = parser.parse_args()
    start, large, small = time.perf_counter(), [], []
    found: dict = {"commit": commit(), "hardware": "2 cores", "asked": {"events": asked.events, "seeds": asked.seeds, "small": asked.small}}
    size = {"users": max(asked.events // 50, 100), "items": 2_000, "events": asked.events}
    few = {"users": 2_000, "items": 500, "events": 60_000}
    quick = {name: ESTIMATORS[name] for name in ("harvested", "randomised")}
    for rows, seeds, sizes, estimators in ((large, asked.seeds, size, ESTIMATORS), (small, asked.small, few, quick)):
        for seed in range(seeds):
            for name, world in kinds(sizes, seed).items():
                fresh = [{"world": name, "seed": seed, **row} for row in judged(world, estimators)]
                rows += fresh
                print(table(fresh), flush=True)
                correct = [row for row in rows if row["world"] != "misspecified"]
                found |= {"seconds": round(time.perf_counter() - start), "large": large} if rows is large else {"small": covered(correct)}
                found["summary"] = covered([row for row in large if row["world"] != "misspecified"])
                asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: found.get(name) for name in ("summary", "small")}, indent=1))


if __name__ == "__main__":
    main()
