"""Does the loop narrow? Serve, let people respond, log, retrain, release, and again: by raw clicks, and by clicks corrected for bias.

    python -m bench.loop                                     # everything, from what is there on: half an hour of one core and more
    python -m bench.loop --rounds 2 --seeds 0 --users 200 --items 150 --visits 100
    python -m bench.loop --arms none counted_position        # names of conf/bias; or two, of the two-tower / of the ranker

Each arm begins with the same log of a simulated world, and lives with the same people, who come at the same times. A round is a training by
train.py's own parts (two-tower, then ranker) on all that was logged so far, an export by export.py, and days of homepages from the real
engine, over a Triton of its own. People look by position and click what attracts them (`bench.crowd`); their events go through the engine's
event door, and what it logged is written by `serve.continuation` and read back by the reader of one's own tables. Explore slots are on in
every arm. What is true of people's tastes is known here and nowhere else.

bench/results/loop.json and docs/pictures/loop.png are written at the end; what is done is kept in --folder, and not done again.
"""

import argparse
import json
import os
import runpy
import sys
import tempfile
import time
from contextlib import chdir, closing
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np
import pytorch_lightning as L
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.crowd import Crowd, Shown, answered, day_of_visits, figures
from data.logging_policy import Policy
from data.outcomes import Attention
from data.world import World
from serve import continuation
from serve.commands import engine
from serve.panel import BUDGETS
from serve.settings import settings
from serve.store import open_store
from towers.record import commit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "loop.json"
PICTURE = ROOT / "docs" / "pictures" / "loop.png"
PATIENT = ("triton.timeout_ms=10000", "deadline_ms=20000", "time=log-end", *(f"sources.{name}.timeout_ms=10000" for name in BUDGETS))
BARE = ("editorial=null", "judged=0", "~rules.boosts", "~rules.caps", "~rules.turns")
"""What editors and rules do to a page is the same in every arm, and hides what models do: it is left out."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How large everything is. `visits` is about how many homepages a day of `days` a round has, `count` how many places a page,
    `exponent` how fast eyes tire down it, `candidates` how many items the two-tower proposes for a page and `pool` how many the
    source that chance draws from (each other source: one), `train` and `ranker` more words for every training of either."""

    users: int
    items: int
    events: int
    days: int
    visits: int
    count: int
    exponent: float
    epsilon: float
    candidates: int
    pool: int
    mmr_lambda: float
    rounds: int
    train: tuple[str, ...]
    ranker: tuple[str, ...]

    def world(self, seed: int) -> World:
        """Whose log everything begins with: a policy that trusts its own beliefs, and people who look at the top."""
        policy = Policy(slots=self.count, popularity=1.5, popularity_error=1.5, order_noise=0.2)
        return World(self.users, self.items, self.events, seed, Attention((self.exponent,) * 3), policy, turn=0.0)

    def serving(self) -> tuple[str, ...]:
        """The slots that chance may fill, two of ten; and what sources may propose. A small catalogue's whole would leave nothing to the
        two-tower; what lies near in content, and what was seldom shown and is ranked by merit, keep any loop wide. One candidate is the
        least that a source can be told."""
        places = [place for place in (self.count // 2, self.count) if place]
        told = dict.fromkeys(BUDGETS, 1) | {"collaborative": self.candidates, "explore": self.pool}
        return (
            f"rules.explore.places={places}", f"rules.explore.epsilon={self.epsilon}",
            *(f"sources.{name}.candidates={most}" for name, most in told.items()),
        )  # fmt: skip


def words(folder: Path, bias: str, seed: int, number: int, setting: Setting) -> list[str]:
    """What every training of an arm is told: all that was logged so far, by the column names it was written with. The ranker learns from
    the last round (before the first, from the last two weeks), the two-tower from all before it; some hours are left for a test."""
    days = 14 if number == 1 else setting.days
    return [
        "data=tables", f"data.items={folder}/logs/base/items.parquet", f"data.users={folder}/logs/base/users.parquet",
        f"data.events='{folder}/logs/*/events*.parquet'", f"data.impressions='{folder}/logs/*/impressions*.parquet'",
        "split._target_=data.split.by_days", "~split.test_quantile", "~split.validation_quantile", "+split.test_days=0.25",
        f"+split.validation_days={days}", f"bias={bias}", f"seed={seed}", "name=loop", "question=loop", "trainer.trainer.accelerator=cpu",
    ]  # fmt: skip


def fitted(told: list[str], folder: Path) -> Path:
    """The model folder of one training by train.py's own parts, of a fixed number of epochs and with no lab book; its configuration
    beside it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", told)
    folder.mkdir(parents=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    L.seed_everything(cfg.seed, verbose=False)
    log = instantiate(cfg.log)(instantiate(cfg.split)(instantiate(cfg.data)))
    data = instantiate(cfg.task.datamodule)(log)
    task = instantiate(cfg.task.module)(data=data)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    instantiate(cfg.trainer.trainer, **quiet).fit(task, data)
    instantiate(cfg.task.save)(task, data, folder / "model")
    return folder / "model"


def released(folder: Path, arm: str, seed: int, number: int, setting: Setting) -> None:
    """Train both models on what is logged, and make them what is served."""
    runs, (finds, _, orders) = folder / "runs", arm.partition("/")
    to_find, to_order = (words(folder, bias, seed, number, setting) for bias in (finds, orders or finds))
    retrieval = fitted([*to_find, "task=two_tower", *setting.train], runs / f"{number}_retrieval")
    ranker = fitted([*to_order, "task=ranker", f"task.retrieval={retrieval}", *setting.ranker], runs / f"{number}_ranker")
    export = [
        f"retrieval={retrieval}", f"ranker={ranker}", f"releases={folder}/releases", f"version=round-{number}", "golden_requests=2",
        "frontier_requests=2", f"mlflow=sqlite:///{folder}/mlflow.db", f"hydra.run.dir={runs}/{number}_export",
    ]  # fmt: skip
    exported(export, folder)


def exported(told: list[str], folder: Path) -> None:
    """Run export.py in `folder`. It runs in this process, whose imports are most of what it needs; a fault of it is raised as it is."""
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    with chdir(folder), patch.object(sys, "argv", ["export.py", *told, *quiet]), patch.dict(os.environ, HYDRA_FULL_ERROR="1"):
        runpy.run_path(str(ROOT / "export.py"), run_name="__main__")


def lived(folder: Path, arm: str, seed: int, setting: Setting) -> list[dict[str, float]]:
    """All rounds of one arm and seed: the figures of each; round 0 is the log that everything begins with."""
    crowd, reached = Crowd.of(setting.world(seed)), continuation.Reached()
    tables, truth = crowd.world.simulate()
    (folder / "logs" / "base").mkdir(parents=True)
    for name in ("events", "impressions", "items", "users"):
        getattr(tables, name).write_parquet(folder / "logs" / "base" / f"{name}.parquet")
    found = [{"round": 0} | figures(Shown.before(tables, truth), setting.items)]
    chosen = settings([*PATIENT, *BARE, *setting.serving(), f"releases={folder}/releases", f"state={folder}/state"])
    for number in range(1, setting.rounds + 1):
        began = time.perf_counter()
        released(folder, arm, seed, number, setting)
        trained = time.perf_counter()
        days = range((number - 1) * setting.days, number * setting.days)
        with engine(chosen) as served:
            slates = [
                day_of_visits(
                    served, crowd, day, visits=setting.visits, count=setting.count, mmr_lambda=setting.mmr_lambda, seed=seed
                )
                for day in days
            ]  # fmt: skip
        with closing(open_store(folder / "state" / "live.sqlite")) as store:
            reached, _ = continuation.write(store, folder / "logs" / f"round-{number}", reached)
        ended = time.perf_counter()
        seconds = {"seconds_training": round(trained - began, 1), "seconds_serving": round(ended - trained, 1)}
        found.append({"round": number} | figures(Shown.of(slates), setting.items) | answered(slates) | seconds)
        print(arm, seed, json.dumps(found[-1]), flush=True)
    return found


def arms(folder: Path, names: list[str], seeds: list[int], setting: Setting) -> dict[str, list[list[dict[str, float]]]]:
    """arm → seed → round → figures; what a former run of the same setting finished is read."""
    found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in names}
    for seed in seeds:
        for name in names:
            called = f"{name}-{seed}".replace("/", "+")
            kept = folder / f"{called}.json"
            if not kept.is_file():
                with tempfile.TemporaryDirectory(prefix=f"{called}-", dir=folder) as place:
                    kept.write_text(json.dumps(lived(Path(place), name, seed, setting), indent=1))
            found[name].append(json.loads(kept.read_text()))
    return found


FIGURES = {
    "satisfaction": "true satisfaction\n(mean attraction of what was shown)",
    "clicks_expected": "expected clicks per page",
    "coverage": "share of the catalogue shown",
    "effective_share": "effective share of the catalogue",
    "gini": "Gini of exposure",
    "top_share": "exposure of the most shown 1 %",
}


def draw(found: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Every figure by round: a line for each arm, thin for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 3).ravel(), FIGURES.items(), strict=True):
        for (arm, seeds), colour in zip(found.items(), ("#888888", "#1f6feb", "#2da44e", "#bf8700", "#8250df"), strict=False):
            value_SR = np.array([[one[name] for one in rounds] for rounds in seeds])
            number_R = np.arange(value_SR.shape[1])
            axes.plot(number_R, value_SR.T, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(number_R, value_SR.mean(0), color=colour, linewidth=2, label=f"bias={arm}")
        axes.set_title(title, fontsize=9)
        axes.set_xticks(number_R)
        axes.tick_params(labelsize=8)
    axes.legend(fontsize=8)
    figure.supxlabel("round", fontsize=9)
    figure.savefig(path, dpi=90)


def table(found: dict[str, list[list[dict[str, float]]]]) -> str:
    """What the old policy showed (round 0) and every round of each arm: the mean over seeds."""
    lines = ["| arm | round | " + " | ".join(FIGURES) + " |", "|---|---:|" + "---:|" * len(FIGURES)]
    for arm, seeds in found.items():
        for place in range(len(seeds[0])):
            means = [np.mean([rounds[place][name] for rounds in seeds]) for name in FIGURES]
            lines.append(f"| {arm} | {seeds[0][place]['round']} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Live through all arms and seeds, print the table, write the figures and the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench.loop", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["none", "counted_position/position"],
        help="names of conf/bias, one, or that of the two-tower / that of the ranker",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--users", type=int, default=1200)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--events", type=int, default=4_000, help="of the log that everything begins with")
    parser.add_argument("--days", type=int, default=3, help="of a round")
    parser.add_argument("--visits", type=int, default=200, help="homepages a day")
    parser.add_argument("--exponent", type=float, default=1.0, help="place k is looked at with probability k^-exponent")
    parser.add_argument("--epsilon", type=float, default=0.1, help="of explore slots")
    parser.add_argument("--candidates", type=int, default=40, help="of the two-tower, for a page")
    parser.add_argument("--pool", type=int, default=1, help="of the least shown items, to draw from by chance or to rank by merit")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "towers-bench-loop", help="keeps what is done")
    parser.add_argument("--train", nargs="*", default=[], help="more words for every training of the two-tower")
    parser.add_argument("--ranker", nargs="*", default=[], help="and of the ranker")
    parser.add_argument("--try", dest="trying", action="store_true", help="print, but write no results")
    told = parser.parse_args()
    setting = Setting(
        told.users, told.items, told.events, told.days, told.visits, 10, told.exponent, told.epsilon, told.candidates,
        told.pool, 1.0, told.rounds,
        ("trainer.trainer.max_epochs=8", "task.batch_size=256", "task.module.width=32", "task.recency_half_life_days=7", *told.train),
        ("trainer.trainer.max_epochs=10", "task.batch_size=32", "task.datamodule.depth=50", *told.ranker),
    )  # fmt: skip
    told.folder.mkdir(parents=True, exist_ok=True)
    found = arms(told.folder, told.arms, told.seeds, setting)
    print(table(found))
    if told.trying:
        draw(found, told.folder / "loop.png")
        return
    rounds = [one for seeds in found.values() for lived_through in seeds for one in lived_through]
    seconds = round(sum(one.get(name, 0.0) for one in rounds for name in ("seconds_training", "seconds_serving")))
    facts = {"commit": commit(), "hardware": f"{os.cpu_count()} cores", "seconds": seconds, "seeds": told.seeds}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(facts | {"setting": {n: getattr(setting, n) for n in setting.__slots__}, "arms": found}, indent=1))
    draw(found, PICTURE)


if __name__ == "__main__":
    main()
