"""Do the intervals of off-policy estimates hold what they say? Coverage over 2,000 simulated logs of each setting.

    python -m bench.off_policy                          # one thread; some minutes a setting
    python -m bench.off_policy --logs 200 --only rare

A setting is a population of 4,000 contexts, a logging policy, a target policy and the true reward of every action in every context, all
drawn once; so the truth, the mean over contexts of Σ_a π(a | x) q(x, a), is a sum and not an estimate. Each log draws contexts, actions by
the logging policy and rewards. The reward model of DR is fitted once, on a log of its own (a wrong, linear one: what DR is for). Logs with
an effective sample below 500 are counted and kept: to leave them out would be to choose by the weights.

What must hold: bootstrap intervals of SNIPS and DR cover in 93.5 to 96.5 % of logs, empirical Bernstein in at least 93.5 %.

Shapes: X contexts · A actions · N rounds of a log.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from towers.intervals import bootstrap, empirical_bernstein
from towers.off_policy import Terms, doubly_robust, effective_size, expected, importance_weight, ips, snips
from towers.record import commit

RESULTS = Path(__file__).parent / "results" / "off_policy.json"
CONTEXTS, WIDTH, LEAST = 4_000, 5, 500


class Setting(NamedTuple):
    """`base` is the logit of a common action's reward, `sure` how sharply the target prefers what is good, `explores` the share of the log
    that is even; `minutes` turns a click into a skewed number of minutes, of at most 60; a user has `rounds_of_user` rounds, which share
    what they like beyond the context."""

    rounds: int
    actions: int = 10
    base: float = -1.5
    sure: float = 1.5
    explores: float = 0.1
    minutes: bool = False
    rounds_of_user: int = 1


SETTINGS = {
    "plain": Setting(rounds=2_400),
    "at the bar": Setting(rounds=1_600),
    "rare clicks": Setting(rounds=4_000, base=-4.5),
    "few clicks": Setting(rounds=1_600, base=-3.5),
    "heavy weights": Setting(rounds=5_000, actions=30, sure=6.0, explores=0.04),
    "minutes watched": Setting(rounds=2_000, minutes=True),
    "users of ten rounds": Setting(rounds=8_000, rounds_of_user=10),
}


class World(NamedTuple):
    """Contexts, and of each action in each: the expected reward by a shift of its logit (a user's), what the log and the target do."""

    context_XD: np.ndarray
    logit_XA: np.ndarray
    logged_XA: np.ndarray
    target_XA: np.ndarray


def _softmax(logit_XA: np.ndarray) -> np.ndarray:
    raised_XA = np.exp(logit_XA - logit_XA.max(1, keepdims=True))
    return raised_XA / raised_XA.sum(1, keepdims=True)


def world(of: Setting, rng: np.random.Generator) -> World:
    """Draw the population and both policies; the logging policy knows a little of what is good and believes in something else as well."""
    context_XD = rng.standard_normal((CONTEXTS, WIDTH))
    taste_XA, belief_XA = (context_XD @ (rng.standard_normal((WIDTH, of.actions)) / WIDTH**0.5) for _ in range(2))
    logged_XA = (1 - of.explores) * _softmax(0.5 * taste_XA + 0.5 * belief_XA) + of.explores / of.actions
    return World(context_XD, of.base + taste_XA + 0.3 * rng.standard_normal(of.actions), logged_XA, _softmax(of.sure * taste_XA))


LIKES = np.array([-0.7, 0.7])
"""A user's own shift of every logit, either with chance one half: why a user's rounds are alike."""
LONG = 8.0
"""Minutes of a click: exponential of this mean, cut at 60; the mean of that is LONG·(1 − e^(−60/LONG))."""


def reward_of(of: Setting, here: World) -> np.ndarray:
    """True expected reward of every action in every context, (X, A)."""
    shifts = LIKES if of.rounds_of_user > 1 else np.zeros(1)
    click_XA = np.mean([1 / (1 + np.exp(-(here.logit_XA + shift))) for shift in shifts], axis=0)
    return click_XA * LONG * (1 - np.exp(-60 / LONG)) if of.minutes else click_XA


class Drawn(NamedTuple):
    """One log: context, action, reward, weight and user of each round."""

    context_N: np.ndarray
    action_N: np.ndarray
    reward_N: np.ndarray
    weight_N: np.ndarray
    user_N: np.ndarray


def draw(of: Setting, here: World, rng: np.random.Generator) -> Drawn:
    """A log; a user keeps a context and a shift over all their rounds."""
    users = of.rounds // of.rounds_of_user
    user_N = np.repeat(np.arange(users), of.rounds_of_user)
    context_N = rng.integers(0, CONTEXTS, users)[user_N]
    shift_N = rng.choice(LIKES, users)[user_N] if of.rounds_of_user > 1 else np.zeros(of.rounds)
    action_N = (rng.random((of.rounds, 1)) > here.logged_XA[context_N].cumsum(1)).sum(1).clip(max=of.actions - 1)
    click_N = rng.random(of.rounds) < 1 / (1 + np.exp(-(here.logit_XA[context_N, action_N] + shift_N)))
    minutes_N = np.minimum(rng.exponential(LONG, of.rounds), 60) if of.minutes else 1.0
    weight_N = importance_weight(here.target_XA[context_N, action_N], here.logged_XA[context_N, action_N])
    return Drawn(context_N, action_N, click_N * minutes_N, weight_N, user_N)


def reward_model(of: Setting, here: World, told: Drawn) -> np.ndarray:
    """A ridge regression for each action, (X, A), held within the range of rewards."""
    one_XD = np.column_stack([np.ones(CONTEXTS), here.context_XD])
    predicted_XA = np.zeros(here.logit_XA.shape)
    for action in range(of.actions):
        mine = told.action_N == action
        row_ND = one_XD[told.context_N[mine]]
        predicted_XA[:, action] = one_XD @ np.linalg.solve(row_ND.T @ row_ND + 5 * np.eye(WIDTH + 1), row_ND.T @ told.reward_N[mine])
    return predicted_XA.clip(0, 60 if of.minutes else 1)


def coverage(of: Setting, logs: int, resamples: int, seed: int) -> dict:
    """How often each interval holds the truth, and how often it lies wholly above or below it."""
    rng = np.random.default_rng(seed)
    here = world(of, rng)
    truth = float((here.target_XA * reward_of(of, here)).sum(1).mean())
    predicted_XA = reward_model(of, here, draw(of, here, rng))
    expected_X = expected(here.target_XA, predicted_XA)
    most, most_weight = (60 if of.minutes else 1), float((here.target_XA / here.logged_XA).max())
    span = most * most_weight * of.rounds_of_user
    spans = {"IPS": span, "SNIPS": span, "DR": (2 * most * most_weight + most) * of.rounds_of_user}
    ends: dict[str, list[tuple[float, float]]] = {}
    effective, seconds = [], time.process_time()
    for log in range(logs):
        told = draw(of, here, rng)
        effective.append(effective_size(told.weight_N))
        whose_N = told.user_N if of.rounds_of_user > 1 else None
        terms: dict[str, Terms] = {
            "IPS": ips(told.reward_N, told.weight_N),
            "SNIPS": snips(told.reward_N, told.weight_N),
            "DR": doubly_robust(told.reward_N, told.weight_N, predicted_XA[told.context_N, told.action_N], expected_X[told.context_N]),
        }
        for name, of_name in terms.items():
            if name != "IPS":
                ends.setdefault(f"{name}, bootstrap", []).append(bootstrap(of_name, whose_N, resamples=resamples, seed=log)[1:])
            ends.setdefault(f"{name}, Bernstein", []).append(empirical_bernstein(of_name, whose_N, span=spans[name])[1:])
    found = {}
    for name, pairs in ends.items():
        low_G, high_G = np.array(pairs).T
        found[name] = {
            "covers": float(((low_G <= truth) & (truth <= high_G)).mean()), "above": float((low_G > truth).mean()),
            "below": float((high_G < truth).mean()), "median_width": float(np.median(high_G - low_G)),
        }  # fmt: skip
    return {
        **of._asdict(), "truth": truth, "logs": logs, "resamples": resamples, "largest_possible_weight": most_weight,
        "effective": {"least": min(effective), "median": float(np.median(effective)), "below_500": sum(e < LEAST for e in effective)},
        "cpu_seconds": round(time.process_time() - seconds, 1), "intervals": found,
    }  # fmt: skip


def held(result: dict) -> bool:
    """Whether a setting's intervals cover as often as they must."""
    share = {name: of["covers"] for name, of in result["intervals"].items()}
    return all(0.935 <= share[name] <= 0.965 if name.endswith("bootstrap") else share[name] >= 0.935 for name in share)


def show(results: dict[str, dict], line: Callable[..., None]) -> None:
    """A row for each setting and interval."""
    table = Table(title="Coverage of 95 % intervals", title_justify="left")
    for column in ("setting", "effective", "interval", "covers %", "too high %", "too low %", "width / truth"):
        table.add_column(column, justify="left" if column in ("setting", "interval") else "right")
    for name, of in results.items():
        for interval, figure in of["intervals"].items():
            table.add_row(
                name, f"{of['effective']['least']:,.0f} to {of['effective']['median']:,.0f}", interval, f"{100 * figure['covers']:.1f}",
                f"{100 * figure['above']:.1f}", f"{100 * figure['below']:.1f}", f"{figure['median_width'] / of['truth']:.2f}",
            )  # fmt: skip
    line(table)


def main() -> None:
    """Measure, print, and write the results of those settings that were measured beside those that lie there."""
    line = argparse.ArgumentParser(prog="python -m bench.off_policy", description=__doc__.splitlines()[0])
    line.add_argument("--logs", type=int, default=2_000)
    line.add_argument("--resamples", type=int, default=1_000)
    line.add_argument("--seed", type=int, default=0)
    line.add_argument("--only", choices=SETTINGS, nargs="*", default=list(SETTINGS))
    line.add_argument("--out", type=Path, default=RESULTS)
    asked = line.parse_args()
    results = json.loads(asked.out.read_text())["settings"] if asked.out.is_file() else {}
    with threadpool_limits(1):
        for name in asked.only:
            results[name] = {"commit": commit(), **coverage(SETTINGS[name], asked.logs, asked.resamples, asked.seed)}
            print(f"{name}: {results[name]['cpu_seconds']} s, {'holds' if held(results[name]) else 'DOES NOT HOLD'}", flush=True)
            told = {"cores": os.cpu_count(), "threads": 1, "settings": {one: results[one] for one in SETTINGS if one in results}}
            asked.out.write_text(json.dumps(told, indent=1) + "\n")
    show(results, Console(width=120).print)


if __name__ == "__main__":
    main()
