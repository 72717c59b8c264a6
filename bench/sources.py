"""Whether seven sources and a page of many kinds are better than collaboration alone, by a simulated audience's own truth.

    python -m bench.sources                              # trains on World.strong and exports first: minutes, kept in --folder
    python -m bench.sources --seed 21 --label tuning --set rules.turns.different.every=24

A homepage of 25 for each of some users, at the log's end: of the collaborative source alone, and of all seven, from the same release with
the same ranker and MMR. What a user is satisfied with is what the world says and no log does: the mean probability with which the items
shown attract that user at that moment (`data.world.Truth.relevance`). Coverage is the share of the catalogue that is on some page; new is
what came out within `new_days`; seldom is what belongs to the tenth of the catalogue that the log showed least. Editors show the 50 newest
items: they know no truth. Explore slots draw. Intervals are of the difference, by bootstrap over users, both pages of a user together; of
coverage, to which a user drawn twice adds nothing, by the jackknife (a twentieth of the users left out at a time).

A page without a source is made of the same scored candidates less what that source alone proposed. A source's ms are its own, asked alone,
the best of three, the median over users.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.opened import keep, machine, opened
from data.features import HOUR_MS, genre_share
from data.world import Truth, World
from serve import page
from serve.contract import Candidates, Request
from serve.course import SOURCES_OF, Course, Policy
from serve.panel import BUDGETS, LIMIT, Budget
from serve.recommender import Recommender
from serve.rules import Rules
from serve.settings import settings
from serve.sources import Ask, Collaborative
from serve.tally import Tally

ROOT = Path(__file__).resolve().parents[1]
SEVEN, COUNT, CURATED, RESAMPLES, PARTS, PATIENCE_MS = SOURCES_OF["homepage"], 25, 50, 1_000, 20, 30_000
MEASURES = ("satisfaction", "new", "seldom")


class Arm(NamedTuple):
    """A way to make a page: of what these `sources` proposed, by these rules."""

    course: str
    sources: tuple[str, ...]
    rules: Rules
    first: int = LIMIT


@dataclass(frozen=True, slots=True)
class Deep:
    """The collaborative source with as many candidates as a request may have, however few events a user has."""

    source: Collaborative
    name: str = "collaborative"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        """As many as it may be, whatever the share."""
        return self.source.propose(ask, LIMIT)


@dataclass(frozen=True, slots=True)
class Silent:
    """A source that proposes nothing."""

    name: str

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        """Nothing."""
        return np.zeros(0, np.int64)

    def reserved(self, ask: Ask) -> tuple[tuple[int, int], ...]:
        """Nothing."""
        return ()


def trained(world: World, kind: str, folder: Path) -> Path:
    """The releases folder of a world: what the experiments train on it, by the propensities that its log has (`bias=logged`), exported.
    Once."""
    name = f"{kind}-{world.users}-{world.items}-{world.events}-{world.seed}"
    home = folder / name
    if not (home / "releases" / "current").exists():
        home.mkdir(parents=True, exist_ok=True)
        print(f"training on {name} in {home}: minutes, but only once", flush=True)
        table = "world" if kind == "mild" else f"world_{kind}"
        data = [f"data={table}", *(f"data.{size}={getattr(world, size)}" for size in ("users", "items", "events", "seed"))]
        models = [f"{role}=models/{table}_{model}" for role, model in (("retrieval", "two_tower"), ("ranker", "ranker"))]
        for command in (
            ["train.py", *data, "task=two_tower", "bias=logged"],
            ["train.py", *data, "task=ranker", "bias=logged"],
            ["export.py", *models],
        ):
            env = os.environ | {"PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], cwd=home, env=env, check=True, stdout=subprocess.DEVNULL)
    return home / "releases"


class Audience:
    """What is true of some users at one moment: attraction (U, I) of every item of a release, which items are new, which seldom shown."""

    def __init__(self, world: World, recommender: Recommender, user_ids: Sequence[str], now: int, new_days: float) -> None:
        catalogue, audience = world.populate()
        truth = Truth(catalogue, audience, world.turn, *(np.zeros(0),) * 4)
        user_row = {user_id: row for row, user_id in enumerate(audience.table["user_id"])}
        column = {item_id: row for row, item_id in enumerate(catalogue.table["item_id"])}
        release = recommender.release
        order_I = np.array([column[item_id] for item_id in release.catalogue.item_ids])
        rows_U = np.array([user_row[user_id] for user_id in user_ids])
        self.relevance_UI = truth.relevance(rows_U, np.full(len(rows_U), now))[:, order_I]
        day_I = release.release_day_I[: len(order_I)]
        self.new_I = now / 86_400_000 - day_I <= new_days
        shown_I = np.load(release.path / "exposure.npy")
        self.seldom_I = np.argsort(np.argsort(shown_I, kind="stable"), kind="stable") < len(shown_I) // 10

    def measure(self, row_UN: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Each measure of each user's page, float64 (U)."""
        return {
            "satisfaction": np.array([self.relevance_UI[user, row_N].mean() for user, row_N in enumerate(row_UN)]),
            "new": np.array([self.new_I[row_N].mean() for row_N in row_UN]),
            "seldom": np.array([self.seldom_I[row_N].mean() for row_N in row_UN]),
        }

    def coverage(self, row_UN: Sequence[np.ndarray], chosen_U: np.ndarray) -> float:
        """Share of the catalogue on the pages of `chosen_U`."""
        return len(np.unique(np.concatenate([row_UN[user] for user in chosen_U]))) / len(self.new_I)


def rows_of(arm: Arm, recommender: Recommender, request: Request, course: Course) -> np.ndarray:
    """The item rows of a page made of a course's scored candidates, less what only other sources than the arm's proposed."""
    recommender = replace(recommender, policy=replace(recommender.policy, rules=arm.rules))
    bits = sum(bit for name, bit in ((name, 1 << place) for place, name in enumerate(recommender.panel.names)) if name in arm.sources)
    stays_K = (course.candidates.source_K & bits > 0) & np.isin(course.candidates.item_row_K, course.proposed.item_row_K[: arm.first])
    candidates = Candidates(course.candidates.item_row_K[stays_K], course.candidates.source_K[stays_K] & bits)
    factors, scored = recommender._scored(candidates, course.value_KH[stays_K], course.who)
    release, history = recommender.release, course.history
    made = page.arrange(
        scored, release.catalogue, arm.rules, request, reserved={}, share_G=genre_share(release.genre_IG, history)[0],
        history_vector_ED=recommender._liked_vectors(history), now=course.who.now,
    )  # fmt: skip
    _, order_N, _ = recommender._draw(request, replace(course, candidates=candidates, factors=factors, scored=scored, page=made))
    return scored.item_row_K[order_N]


def pages(
    arms: Mapping[str, Arm], recommenders: Mapping[str, Recommender], user_ids: Sequence[str], now: int
) -> dict[str, list[np.ndarray]]:
    """Every arm's page of every user, as item rows."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    for user_id in user_ids:
        request = Request(user_id, now, count=COUNT, live=True, request_id=f"sources-{user_id}")
        known = next(iter(recommenders.values())).store.read(user_id)
        courses = {name: recommender.course(request, known, Tally()) for name, recommender in recommenders.items()}
        if late := [f"{name} {course.missing}" for name, course in courses.items() if course.missing]:
            raise RuntimeError(f"a source is missing, this is no comparison: {late}")
        for name, arm in arms.items():
            found[name].append(rows_of(arm, recommenders[arm.course], request, courses[arm.course]))
    return found


def own_ms(recommender: Recommender, user_ids: Sequence[str], now: int) -> dict[str, float]:
    """ms of each of the seven sources asked alone: the best of three, the median over users."""
    ms: dict[str, list[float]] = {name: [] for name in SEVEN}
    for user_id in user_ids:
        request, known = Request(user_id, now), recommender.store.read(user_id)
        course = recommender.course(request, known, Tally())
        ask = recommender.ask(request, course.who, course.query_BD)
        for name in SEVEN:
            best = np.inf
            for _ in range(3):
                start = time.perf_counter()
                recommender.panel.alone(name, ask, {})
                best = min(best, 1000 * (time.perf_counter() - start))
            ms[name].append(best)
    return {name: float(np.median(values)) for name, values in ms.items()}


def compare(found: Mapping[str, list[np.ndarray]], audience: Audience, base: str) -> dict[str, dict[str, object]]:
    """Each arm's measures, and their difference from those of the arm `base`: (mean, 2.5 %, 97.5 %)."""
    users = len(next(iter(found.values())))
    drawn = np.random.default_rng(0).integers(0, users, (RESAMPLES, users))
    measured = {name: audience.measure(rows) for name, rows in found.items()}
    kept = [np.setdiff1d(np.arange(users), np.arange(part, users, PARTS)) for part in range(PARTS)]
    covered = {name: np.array([audience.coverage(rows, chosen) for chosen in kept]) for name, rows in found.items()}
    table = {}
    for name, rows in found.items():
        row = {what: float(measured[name][what].mean()) for what in MEASURES}
        row["coverage"] = audience.coverage(rows, np.arange(users))
        for what in MEASURES:
            gap_U = measured[name][what] - measured[base][what]
            row[f"{what} difference"] = [float(gap_U.mean()), *map(float, np.percentile(gap_U[drawn].mean(1), [2.5, 97.5]))]
        gap = row["coverage"] - audience.coverage(found[base], np.arange(users))
        half = 1.96 * float(np.sqrt((PARTS - 1) * (covered[name] - covered[base]).var()))
        row["coverage difference"] = [gap, gap - half, gap + half]
        table[name] = row
    return table


def show(table: Mapping[str, Mapping[str, object]], base: str, title: str) -> None:
    """Print measures and differences in Markdown."""
    columns = ("satisfaction", "coverage", "new", "seldom")
    print(
        f"\n{title}\n\n| page | " + " | ".join(f"{what} | − {base} [95 %]" for what in columns) + " |\n|---|" + "---:|" * 2 * len(columns)
    )
    for name, row in table.items():
        cells = []
        for what in columns:
            gap, low, high = row[f"{what} difference"]
            cells += [f"{row[what]:.4f}", f"{gap:+.4f} [{low:+.4f}, {high:+.4f}]" if name != base else ""]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the tables and write bench/results/sources.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.sources", description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=("mild", "strong"), default="strong", help="of world")
    parser.add_argument("--seed", type=int, default=22, help="of the world")
    for size, usual in (("users", 1_500), ("items", 3_000), ("events", 60_000)):
        parser.add_argument(f"--{size}", type=int, default=usual, help="of the world")
    parser.add_argument("--asked", type=int, default=400, help="users who get pages")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of conf/serve.yaml")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "towers-bench-sources", help="keeps what was trained")
    parser.add_argument("--label", help="what the JSON files these figures under; the world unless told")
    chosen = parser.parse_args()
    world = getattr(World, chosen.kind)(users=chosen.users, items=chosen.items, events=chosen.events, seed=chosen.seed)
    releases = trained(world, chosen.kind, chosen.folder)
    with tempfile.TemporaryDirectory() as state:
        curated = Path(state) / "editorial.yaml"
        newest = world.populate()[0].table.sort("release_date", descending=True)["item_id"].head(CURATED)
        curated.write_text("".join(f"- {{item_id: {item_id}, from: 2020-01-01, until: 2035-01-01}}\n" for item_id in newest))
        patient = [f"deadline_ms={PATIENCE_MS}", f"triton.timeout_ms={PATIENCE_MS}", f"editorial={curated}"]
        with opened(settings([f"releases={releases}", f"state={state}", *patient, *chosen.set])) as parts:
            rules = parts.chosen.rules
            slow = {name: Budget(budget.candidates, PATIENCE_MS) for name, budget in parts.chosen.sources.items()}
            alone = [Deep(source) if source.name == "collaborative" else Silent(source.name) for source in parts.sources]
            policy = Policy(rules, parts.chosen.precomputed, PATIENCE_MS)
            recommenders = {
                "merged": parts.recommender(budgets=slow, policy=policy),
                "alone": parts.recommender(sources=alone, budgets=slow, policy=policy),
            }
            merged = recommenders["merged"]
            now = merged.last_hour * HOUR_MS
            with_history = [
                user_id for user_id in parts.release.users["user_id"].to_list() if len(parts.store.read(user_id).history.item_ids)
            ]
            user_ids = [with_history[place] for place in np.random.default_rng(0).permutation(len(with_history))[: chosen.asked]]
            audience = Audience(world, merged, user_ids, now, rules.new_days)
            few, all_seven = BUDGETS["collaborative"].candidates, "seven sources"
            arms = {
                "collaborative alone": Arm("alone", ("collaborative",), Rules(), first=few),
                "collaborative alone, 1,000 candidates": Arm("alone", ("collaborative",), Rules()),
                "collaborative alone, the rules": Arm("alone", ("collaborative",), rules, first=few),
                "seven sources, no rules": Arm("merged", SEVEN, Rules()),
                all_seven: Arm("merged", SEVEN, rules),
            }
            without = {f"without {gone}": Arm("merged", tuple(name for name in SEVEN if name != gone), rules) for gone in SEVEN}
            found = pages(arms | without, recommenders, user_ids, now)
            ms = own_ms(merged, user_ids[:100], now)
            for recommender in recommenders.values():
                recommender.panel.close()
    bounds = {
        "satisfaction of the best 25": float(np.sort(audience.relevance_UI, axis=1)[:, -COUNT:].mean()),
        "of any 25": float(audience.relevance_UI.mean()),
    }
    first = next(iter(arms))
    table = compare({name: found[name] for name in arms}, audience, first)
    losses = compare({name: found[name] for name in (all_seven, *without)}, audience, all_seven)
    show(
        table,
        first,
        f"{len(user_ids)} users of World.{chosen.kind}, seed {chosen.seed}; " + ", ".join(f"{k} {v:.4f}" for k, v in bounds.items()),
    )
    print("\n| source | its own p50 ms | satisfaction it adds [95 %] | … per ms | coverage it adds | new it adds | seldom it adds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    gains = {}
    for name in SEVEN:
        row = losses[f"without {name}"]
        gain, high, low = (-value for value in row["satisfaction difference"])
        gains[name] = {"p50_ms": ms[name], "satisfaction": [gain, low, high], "per_ms": gain / ms[name]} | {
            what: -row[f"{what} difference"][0] for what in ("coverage", "new", "seldom")
        }
        print(f"| {name} | {ms[name]:.3f} | {gain:+.5f} [{low:+.5f}, {high:+.5f}] | {gain / ms[name]:+.5f} ", end="")
        print("".join(f"| {gains[name][what]:+.4f} " for what in ("coverage", "new", "seldom")) + "|", flush=True)
    told = {
        "kind": chosen.kind,
        "world": {size: getattr(world, size) for size in ("users", "items", "events", "seed")},
        "users": len(user_ids),
    }
    label = chosen.label or f"{chosen.kind} {chosen.users}×{chosen.items}, {chosen.events} events, seed {chosen.seed}"
    keep("sources", label, told | {"set": chosen.set, "bounds": bounds, "pages": table, "gains": gains, "machine": machine()})


if __name__ == "__main__":
    main()
