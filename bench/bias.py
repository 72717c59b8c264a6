"""How much of what position and exposure spoil does correction give back? Ten seeds of simulated worlds, judged by what people want.

    python -m bench.bias                                        # the strong and the misspecified world
    python -m bench.bias --exponents 0.8,1.2,2 --neighbour 0.3  # any other attention, by device, under the strong world's policy

The two-tower of conf/experiment/world_two_tower.yaml is trained on one log in four ways:

- raw: `bias=none`, its clicks as they are.
- corrected: `--bias` (bias=slates): exposure counted, examination estimated from the clicks of the training part.
- ceiling, the true curve: the same, told the true probability of being looked at of every impression.
- true, shown: the same shown rows, each drawn as often as its true attraction over its true exposure says, whatever was clicked.
- true, drawn: as many positives as there are clicks, of the same users at the same moments, but each drawn in proportion to true relevance
  from the whole catalogue: what would have been clicked had everything been shown and looked at. log q is of what was drawn.

All are trained for as many epochs. Those that know the truth stop where the truth is best, which favours them. The settings that the
experiment has beyond its task (how little an item's own embedding is trusted) were chosen on seeds 200 and 201, which are not among these.
Judged by NDCG@20 over the whole catalogue: gains are `Truth.relevance` at the log's end, history is the whole log, what was clicked is
removed for all alike. Recovered is (corrected − raw) / (true − raw) of the means, with a bootstrap interval over seeds. The log has the
size of data=world; bigger logs have less noise to lose by.

Shapes: U users · I catalogue · N rows · P impressions.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import polars as pl
import pytorch_lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from bench.fits import configuration
from data.audience import END_MS
from data.datamodule import Batches, Events, RetrievalBatch, RetrievalData
from data.examination import Examination
from data.features import moment, pack
from data.impressions import events_before, frame, shown
from data.log import Log, Queries, read_log
from data.outcomes import Attention
from data.split import VALIDATION, by_time, seen_targets_miss
from data.world import World
from towers.negatives import InBatchNegatives
from towers.record import commit

K = 20
SIZE = {"users": 1_000, "items": 500, "events": 40_000}
SMALL = ("experiment=world_two_tower", "task.history_length=10", "trainer.trainer.max_epochs=8")


class Drawn(RetrievalData):
    """Rows of our own making instead of clicks: arrays of user, item, end of history, time, moment and chance; an epoch draws `count` of
    them in proportion to their chance, or takes them all."""

    def take(self, rows: dict[str, np.ndarray], count: int | None) -> "Drawn":
        """These rows."""
        self.rows, self.count = {name: torch.as_tensor(column) for name, column in rows.items()}, count
        return self

    def train_dataloader(self) -> Batches:
        """This epoch's draw."""
        events, rows, epoch = Events.of(self.train_log, self.weight_E, torch.device("cpu")), self.rows, self.trainer.current_epoch
        place = torch.arange(len(rows["user"]))
        if self.count is not None:
            generator = torch.Generator().manual_seed(self.seed * 7919 + epoch)
            place = torch.multinomial(rows["chance"].double(), self.count, replacement=True, generator=generator)

        def make(at_N: torch.Tensor) -> RetrievalBatch:
            n = place[at_N]
            user_N, end_N, now_N = rows["user"][n], rows["end"][n], rows["now"][n]
            columns = (events.item_row_E, events.event_code_E, events.timestamp_E)
            history = pack(*columns, start_B=events.offset_U1[user_N], end_B=end_N, now_B=now_N, length=self.history_length)
            nothing = events.beside.of(torch.zeros_like(n), rows["item"][n])
            return RetrievalBatch(user_N, rows["item"][n], *history.arrays(), rows["moment"][n], torch.ones(len(n)), now_N, *nothing)

        order = partial(self.order, rows["now"][place])
        return Batches(torch.arange(len(place)), make, order=order, batch_size=self.batch_size, seed=self.seed, epoch=epoch)


class Case:
    """One world: its log, and the truth in the log's own rows."""

    def __init__(self, world: World, cfg: DictConfig):
        self.cfg = cfg
        tables, self.truth = world.simulate()
        self.log: Log = read_log(by_time(tables, validation_quantile=0.98, test_quantile=0.99))
        log, self.tables = self.log, tables
        self.person_U = pl.DataFrame({"user_id": log.user_ids}).join(
            tables.users.with_row_index("row"), on="user_id", how="left", maintain_order="left"
        )
        self.truth_row_U = self.person_U["row"].to_numpy()
        known = tables.impressions.select("request_id", "item_id").with_columns(
            examination=pl.Series(self.truth.examination_N), attraction=pl.Series(self.truth.attraction_N)
        )
        self.frame = frame(log).join(known, on=["request_id", "item_id"], how="left", maintain_order="left")

    @cached_property
    def asked(self) -> Queries:
        """Everybody, at the log's end, with all their history."""
        log, user_U = self.log, np.arange(len(self.log.user_ids))
        user_U = user_U[np.diff(log.offset_U1) > 0]
        people, now_U = self.person_U[user_U], np.full(len(user_U), END_MS)
        moment_UC = moment(
            now_U, ["desktop"] * len(user_U), people["region"], people["subscription_tier"],
            people["birth_year"].cast(pl.Float64).fill_null(float("nan")).to_numpy(), log.vocabulary,
        )  # fmt: skip
        nothing = np.zeros(len(user_U) + 1, np.int64)
        start_U, end_U = log.offset_U1[user_U], log.offset_U1[user_U + 1]
        return Queries(
            log,
            user_U,
            start_U,
            end_U,
            now_U,
            moment_UC,
            nothing,
            nothing[:0],
            np.append(start_U, end_U[-1:]),
            log.item_row_E,
            seen_targets_miss,
        )

    @cached_property
    def gain_UI(self) -> np.ndarray:
        """True relevance of what was not clicked yet."""
        user_U = self.asked.user_row_Q
        gain_UI = self.truth.relevance(self.truth_row_U[user_U], np.full(len(user_U), END_MS))
        seen_UI = np.zeros((len(self.log.user_ids), gain_UI.shape[1]), bool)
        seen_UI[self.log.user_row_E, self.log.item_row_E] = True
        return np.where(seen_UI[user_U], -1.0, gain_UI)

    def judge(self, task) -> float:
        """NDCG@20 against true relevance."""
        task.eval()
        with torch.no_grad():
            query_UD, vector_ID = task.vectors(self.asked)
            score_UI = (query_UD @ vector_ID.T).numpy()
        task.train()
        return float(ndcg(np.where(self.gain_UI < 0, -np.inf, score_UI), self.gain_UI.clip(0)).mean())

    def clicks(self, *overrides: str) -> float:
        """By conf/bias alone."""
        cfg = configuration(*SMALL, f"seed={self.cfg.seed}", *overrides)
        return self.judge(self.fitted(cfg, instantiate(cfg.task.datamodule)(self.log)))

    def clicks_told(self, *overrides: str) -> float:
        """The same, told how likely each position was to be looked at, on the mean."""
        cfg = configuration(*SMALL, f"seed={self.cfg.seed}", *overrides)
        bias = replace(instantiate(cfg.bias), examination=self.true_curve())
        cfg.task.datamodule.bias = None
        return self.judge(self.fitted(cfg, instantiate(cfg.task.datamodule)(self.log, bias=bias)))

    def fitted(self, cfg: DictConfig, data: RetrievalData, *, watch: tuple[L.Callback, ...] = (), **module):
        """The task after its last epoch; without checkpoints, a logger or a validation part."""
        L.seed_everything(cfg.seed, verbose=False)
        task = instantiate(cfg.task.module)(data=data, **module)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
        instantiate(cfg.trainer.trainer, callbacks=list(watch), **quiet).fit(task, data)
        return task

    def told(self, rows: dict[str, np.ndarray], count: int | None, sampled_I: np.ndarray) -> float:
        """By rows that know the truth, at the epoch that the truth likes best."""
        cfg = configuration(*SMALL, f"seed={self.cfg.seed}")
        data = instantiate(cfg.task.datamodule, _target_="bench.bias.Drawn")(self.log).take(rows, count)
        negatives = lambda count_I, batch_size: InBatchNegatives(count_I=sampled_I, batch_size=batch_size)  # noqa: E731
        watch, judged = L.Callback(), []
        watch.on_train_epoch_end = lambda trainer, task: judged.append(self.judge(task))
        self.fitted(cfg, data, watch=(watch,), negatives=negatives)
        return max(judged)

    def true_drawn(self) -> float:
        """As many positives as there are clicks, drawn from the whole catalogue by true relevance."""
        log, rng = self.log.before(VALIDATION), np.random.default_rng([self.cfg.seed, 5])
        event_N = log.liked(0)
        item_N = np.empty(len(event_N), np.int64)
        for place in np.array_split(np.arange(len(event_N)), max(1, len(event_N) // 2_000)):
            event = event_N[place]
            chance = self.truth.relevance(self.truth_row_U[log.user_row_E[event]], log.timestamp_E[event]).cumsum(1)
            item_N[place] = (chance < rng.random((len(event), 1)) * chance[:, -1:]).sum(1)
        rows = {
            "user": log.user_row_E[event_N], "item": item_N, "end": event_N, "now": log.timestamp_E[event_N],
            "moment": log.moment_EC[event_N], "chance": np.ones(len(event_N)),
        }  # fmt: skip
        return self.told(rows, None, np.bincount(item_N, minlength=len(log.catalogue.item_ids)))

    def true_shown(self) -> float:
        """What was shown before the validation part, drawn by true attraction over true exposure."""
        log = self.log.before(VALIDATION)
        early = (self.frame["timestamp"] < self.log.split.cut_ms.validation).to_numpy()
        rows_P, told = self.frame.filter(early), shown(self.log, self.frame).where(early)
        birth_P = rows_P["birth_year"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        moment_PC = moment(told.timestamp_P, rows_P["device"], rows_P["region"], rows_P["subscription_tier"], birth_P, self.log.vocabulary)
        chance_P = rows_P["attraction"].to_numpy() / told.logged_P
        end_P = events_before(log, told.user_row_P, told.timestamp_P)
        rows = {
            "user": told.user_row_P, "item": told.item_row_P, "end": end_P, "now": told.timestamp_P, "moment": moment_PC, "chance": chance_P
        }  # fmt: skip
        return self.told(rows, len(log.liked(0)), np.bincount(told.item_row_P, chance_P, minlength=len(log.catalogue.item_ids)))

    def true_curve(self) -> Callable:
        """An estimator that looks up the truth: the mean true examination of each position and device."""
        told = shown(self.log, self.frame)
        key_P, truth_P = told.position_P * 100 + told.device_P, self.frame["examination"].to_numpy()
        size = int(key_P.max()) + 101
        mean_K = np.bincount(key_P, truth_P, size) / np.maximum(np.bincount(key_P, minlength=size), 1)

        def examination(observed, rows) -> Examination:
            slope_N = mean_K[np.minimum(rows.position_N * 100 + rows.device_N, size - 1)]
            return Examination(np.where(slope_N > 0, slope_N, 1.0), np.zeros(len(slope_N)))

        return examination


def ndcg(score_UI: np.ndarray, gain_UI: np.ndarray) -> np.ndarray:
    """Σ gain / log2(1 + rank) over the first 20, over the most that could be: (U,)."""
    top_UK, discount_K = np.argsort(-score_UI, axis=1)[:, :K], 1 / np.log2(np.arange(2, K + 2))
    best_UK = -np.sort(-gain_UI, axis=1)[:, :K]
    return (np.take_along_axis(gain_UI, top_UK, 1) * discount_K).sum(1) / (best_UK * discount_K).sum(1)


def recovered(raw: np.ndarray, corrected: np.ndarray, true: np.ndarray) -> tuple[float, float, float] | None:
    """(corrected − raw) / (true − raw) of the means over seeds, with the ends of a 95 % bootstrap interval over seeds; None where the truth
    does not lead in every resample, so that there is nothing to recover a share of."""
    place = np.random.default_rng(0).integers(0, len(raw), (4_000, len(raw)))
    lead = (true - raw)[place].mean(1)
    if lead.min() <= 0:
        return None
    share = (corrected - raw)[place].mean(1) / lead
    return float((corrected - raw).mean() / (true - raw).mean()), *np.quantile(share, [0.025, 0.975]).tolist()


def gain(raw: np.ndarray, corrected: np.ndarray) -> tuple[float, float, float]:
    """corrected − raw, mean and the ends of a 95 % bootstrap interval over seeds."""
    place = np.random.default_rng(0).integers(0, len(raw), (4_000, len(raw)))
    return float((corrected - raw).mean()), *np.quantile((corrected - raw)[place].mean(1), [0.025, 0.975]).tolist()


WAYS: dict[str, Callable[[Case, str, list[str]], float]] = {
    "raw": lambda case, bias, extra: case.clicks("bias=none", *extra),
    "corrected": lambda case, bias, extra: case.clicks(f"bias={bias}", *extra),
    "true curve": lambda case, bias, extra: case.clicks_told(f"bias={bias}", *extra),
    "true, shown": lambda case, bias, extra: case.true_shown(),
    "true, drawn": lambda case, bias, extra: case.true_drawn(),
}


def table(results: dict[str, dict]) -> str:
    """Markdown: a row for each world."""
    names = [name for name in WAYS if all(name in seed for of in results.values() for seed in of["seeds"])]
    truths = [name for name in names if name in ("true, shown", "true, drawn")]
    ends = " | ".join(f"recovered of {name}" for name in truths)
    lines = [f"| world | seeds | {' | '.join(names)} | corrected − raw | {ends} |", "|---|" + "---|" * (len(names) + 2 + len(truths))]
    for world, of in results.items():
        value = {name: np.array([seed[name] for seed in of["seeds"]]) for name in names}
        cells = [f"{value[name].mean():.4f}" for name in names]
        cells.append("{:+.4f} [{:+.4f}, {:+.4f}]".format(*gain(value["raw"], value["corrected"])))
        for true in truths:
            share = recovered(value["raw"], value["corrected"], value[true])
            cells.append("{:.0%} [{:.0%}, {:.0%}]".format(*share) if share else "the truth leads too little")
        lines.append(f"| {world} | {len(of['seeds'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line for each seed, then the table; write bench/results/bias.json and bias.md where the worlds are our own."""
    parser = argparse.ArgumentParser(description="What correction gives back, on worlds whose truth is known.")
    parser.add_argument("--worlds", default="strong,misspecified")
    parser.add_argument("--exponents", help="of attention on mobile, desktop and tv: 1.5,1.5,1.5; under the strong world's policy")
    parser.add_argument("--neighbour", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=10, help="the first seed")
    parser.add_argument("--bias", default="slates", help="a choice of conf/bias")
    parser.add_argument("--ways", default=";".join(WAYS), help="raw and corrected, and others of these, parted by semicolons")
    parser.add_argument("overrides", nargs="*", help="of conf/train.yaml, for every way of training")
    asked = parser.parse_intermixed_args()
    worlds = {name: getattr(World, name) for name in asked.worlds.split(",")}
    if asked.exponents:
        attention = Attention(tuple(map(float, asked.exponents.split(","))), neighbour=asked.neighbour)
        policy = World.strong(**SIZE, seed=0).policy
        worlds = {f"{asked.exponents}, neighbour {asked.neighbour:g}": lambda **size: World(**size, attention=attention, policy=policy)}
    start, results = time.perf_counter(), {}
    for name, world in worlds.items():
        results[name] = {"seeds": []}
        for seed in range(asked.first, asked.first + asked.seeds):
            case = Case(world(**SIZE, seed=seed), configuration(*SMALL, f"seed={seed}", *asked.overrides))
            results[name]["seeds"].append({way: WAYS[way](case, asked.bias, asked.overrides) for way in asked.ways.split(";")})
            print(name, seed, {way: round(value, 4) for way, value in results[name]["seeds"][-1].items()}, flush=True)
    print(table(results))
    known = {
        "commit": commit(),
        "size": SIZE,
        "first_seed": asked.first,
        "bias": asked.bias,
        "overrides": asked.overrides,
        "hardware": "2 cores",
    }
    known["seconds"] = round(time.perf_counter() - start)
    folder = Path(__file__).parent / "results"
    if not asked.exponents and asked.seeds >= 10:
        kept = json.loads((folder / "bias.json").read_text())["worlds"] if (folder / "bias.json").exists() else {}
        kept |= {name: {**known, **of} for name, of in results.items()}
        (folder / "bias.json").write_text(json.dumps({"worlds": kept}, indent=1))
        (folder / "bias.md").write_text(table(kept) + "\n")


if __name__ == "__main__":
    main()
