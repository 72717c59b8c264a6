"""The quiz on the worlds, where the truth says what a stranger would answer and how much what they are shown attracts them.

Of each world some users are held out of everything: of the two-tower's training, of the prototypes and of the counts. Their answers
come from the truth. "Don't know it" is what a user answers about an item they never looked at during the world's eight weeks
(`Truth.examined_N`); of any other they say "like it" with the probability that it attracts them at the log's end (`Truth.relevance`),
else "dislike it", drawn once for each user and item, so that all questioners hear the same. Such people know one askable item in seven
or so; `all known` asks them as if they knew every item. The taste is judged by the 20 items nearest to it in the whole catalogue, asked
ones too: the mean of `Truth.relevance` for that user; and by its cosine with the user's own query, that of their whole history.

Shapes: U users · I catalogue · H held-out users · D width.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytorch_lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from data.features import pack
from data.log import Log
from data.schema import Tables
from data.split import Split, as_given
from data.world import Truth, World
from serve.cold_start import Answers, Quiz, draw_users, fit_quiz, passed_over, verdicts
from towers.metrics import bootstrap_difference, bootstrap_mean
from towers.retrieval import RetrievalTask

WORLDS = {"mild": World.mild, "strong": World.strong}
SIZE = {"users": 1_250, "items": 400, "events": 40_000}
HELD_OUT, QUESTIONS, SHOWN = 250, (5, 10), 20
SEEDS = (11, 12, 13)
KNOWN = {"what they looked at is known": False, "all known": True}
QUIZ, NOTHING, OWN = "quiz", "nothing asked", "own query"
FIGURES = {"attraction": "mean attraction of the 20", "cosine": "cosine with their own query"}


def fit(cfg: DictConfig, split: Split) -> tuple[RetrievalTask, Log]:
    """The two-tower of an experiment as train.py leaves it: stopped early and taken back to the best epoch of the validation part."""
    L.seed_everything(cfg.seed, verbose=False)
    log = instantiate(cfg.log)(split)
    data = instantiate(cfg.task.datamodule)(log)
    task = instantiate(cfg.task.module)(data=data)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, "best", monitor=cfg.trainer.monitor, mode=cfg.trainer.mode)
        stop = EarlyStopping(cfg.trainer.monitor, mode=cfg.trainer.mode, patience=cfg.trainer.patience)
        quiet = {"logger": False, "enable_progress_bar": False}
        instantiate(cfg.trainer.trainer, callbacks=[best, stop], **quiet).fit(task, data)
        task.load_state_dict(torch.load(best.best_model_path, weights_only=False)["state_dict"])
    return task.eval(), log


def world_split(tables: Tables, held_out: int) -> Split:
    """All events of the last `held_out` users are the test, one in ten of the others' the validation part."""
    stranger = pl.col("user_id").is_in(tables.users["user_id"].tail(held_out).to_list())
    named = pl.when(stranger).then(pl.lit("test")).otherwise(pl.lit("train"))
    return as_given(replace(tables, events=tables.events.with_columns(split=named)), validation_fraction=0.1)


@torch.no_grad()
def queries_at_last_event(task: RetrievalTask, log: Log) -> tuple[np.ndarray, np.ndarray]:
    """Queries of all users of the log (U, D), from all that they did, and the items' vectors (I, D)."""
    input_ID, vector_ID = task.item_rows(log).split(task.width, dim=1)
    last_U = log.offset_U1[1:] - 1
    history = pack(
        log.item_row_E, log.event_code_E, log.timestamp_E,
        start_B=log.offset_U1[:-1], end_B=last_U + 1, now_B=log.timestamp_E[last_U], length=task.history_length,
    )  # fmt: skip
    row_UL, code_UL, age_UL = (torch.as_tensor(array) for array in history.arrays())
    return task.user_tower(input_ID[row_UL], code_UL, age_UL, torch.as_tensor(log.moment_EC[last_U])).numpy(), vector_ID.numpy()


@dataclass(frozen=True, slots=True)
class Strangers:
    """Held-out users: their own queries (H, D), which items attract them how much, they have looked at and they would like (H, I)."""

    query_HD: np.ndarray
    vector_ID: np.ndarray
    attraction_HI: np.ndarray
    looked_at_HI: np.ndarray
    likes_HI: np.ndarray

    def answer(self, place: int, item_row: int, *, all_known: bool) -> bool | None:
        """What one of them says of an item."""
        return bool(self.likes_HI[place, item_row]) if all_known or self.looked_at_HI[place, item_row] else None

    def figures(self, place: int, taste_D: np.ndarray) -> tuple[float, float]:
        """(mean attraction of the 20 items nearest to a taste, its cosine with the user's own query)."""
        shown = np.argsort(-(self.vector_ID @ taste_D), kind="stable")[:SHOWN]
        own_D = self.query_HD[place]
        cosine = own_D @ taste_D / (np.linalg.norm(own_D) * np.linalg.norm(taste_D))
        return float(self.attraction_HI[place, shown].mean()), float(cosine)


def prepare(make: Callable[..., World], cfg: DictConfig, **fitting) -> tuple[Quiz, Strangers]:
    """Simulate a world, train on all but the held-out users, fit the quiz on the same; `fitting` is for `fit_quiz`."""
    tables, truth = make(**SIZE, seed=cfg.seed).simulate()
    task, log = fit(cfg, world_split(tables, HELD_OUT))
    query_UD, vector_ID = queries_at_last_event(task, log)
    user_of = {user_id: row for row, user_id in enumerate(tables.users["user_id"])}
    world_row_U = np.array([user_of[user_id] for user_id in log.user_ids])
    held_U = world_row_U >= SIZE["users"] - HELD_OUT
    learnt_E = ~held_U[log.user_row_E]
    said = verdicts(log.user_row_E[learnt_E], log.item_row_E[learnt_E], log.event_code_E[learnt_E])
    row_of = {user_id: row for row, user_id in enumerate(log.user_ids)}
    shown_user_N = np.array([row_of.get(user_id, -1) for user_id in tables.impressions["user_id"]])
    item_of = {item_id: row for row, item_id in enumerate(log.catalogue.item_ids)}
    shown_item_N = np.array([item_of[item_id] for item_id in tables.impressions["item_id"]])
    learnt_N = (shown_user_N >= 0) & ~held_U[shown_user_N]
    user_row_U, said = draw_users(passed_over(said, shown_user_N[learnt_N], shown_item_N[learnt_N]))
    quiz = fit_quiz(query_UD[user_row_U], said, priors=0, **fitting)
    return quiz, strangers(tables, truth, world_row_U[held_U], query_UD[held_U], vector_ID, cfg.seed)


def strangers(
    tables: Tables, truth: Truth, world_row_H: np.ndarray, query_HD: np.ndarray, vector_ID: np.ndarray, seed: int
) -> Strangers:  # fmt: skip
    """What the truth says of the held-out users."""
    user_N, item_N = (tables.impressions[name].str.slice(1).cast(pl.Int64).to_numpy() for name in ("user_id", "item_id"))
    looked_at_UI = np.zeros((len(tables.users), len(tables.items)), bool)
    looked_at_UI[user_N[truth.examined_N], item_N[truth.examined_N]] = True
    end_ms = int(tables.events["timestamp"].max())
    attraction_HI = truth.relevance(world_row_H, np.full(len(world_row_H), end_ms))
    likes_HI = np.random.default_rng([seed, 77]).random(attraction_HI.shape) < attraction_HI
    return Strangers(query_HD, vector_ID, attraction_HI, looked_at_UI[world_row_H], likes_HI)


Next = Callable[[Answers], int | None]


def questioners(quiz: Quiz, rng: np.random.Generator) -> Mapping[str, Next]:
    """Ways to choose the next question about the quiz's own items: what tells most, the best known first, any."""
    at_random = rng.permutation(quiz.item_row_Q).tolist()
    popular = quiz.item_row_Q.tolist()
    return {QUIZ: quiz.next, "most popular": lambda answers: popular[len(answers)], "random": lambda answers: at_random[len(answers)]}


def interview(ask: Next, answer: Callable[[int], bool | None]) -> Iterator[Answers]:
    """The answers after each question; those of an interview that ended early go on unchanged."""
    answers: dict[int, bool | None] = {}
    for _ in range(max(QUESTIONS)):
        item_row = ask(answers)
        if item_row is not None:
            answers[item_row] = answer(item_row)
        yield dict(answers)


def ask_strangers(quiz: Quiz, people: Strangers, *, all_known: bool, seed: int) -> dict[str, np.ndarray]:
    """ "quiz, 5" → (H, 4): attraction, cosine, questions asked, questions whose item was known; and so on for every questioner."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for place in range(len(people.query_HD)):
        rows.setdefault(OWN, []).append((*people.figures(place, people.query_HD[place]), 0, 0))
        rows.setdefault(NOTHING, []).append((*people.figures(place, quiz.taste({})), 0, 0))
        for name, ask in questioners(quiz, np.random.default_rng([seed, place])).items():
            heard = list(interview(ask, lambda item_row, place=place: people.answer(place, item_row, all_known=all_known)))
            for count in QUESTIONS:
                answers = heard[count - 1]
                known = sum(answer is not None for answer in answers.values())
                rows.setdefault(f"{name}, {count}", []).append((*people.figures(place, quiz.taste(answers)), len(answers), known))
    return {name: np.array(values) for name, values in rows.items()}


def on_worlds(configs: Mapping[int, DictConfig], told: Callable[[str], None]) -> dict:
    """World → how much is known → questioner → figures over the held-out users of all seeds, and the quiz's paired lead over it."""
    result = {}
    for world, make in WORLDS.items():
        heard: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in KNOWN}
        for seed, cfg in configs.items():
            quiz, people = prepare(make, cfg)
            for name, all_known in KNOWN.items():
                heard[name].append(ask_strangers(quiz, people, all_known=all_known, seed=seed))
            told(f"{world} {seed}: {len(quiz.weight_P)} prototypes, {len(quiz.item_row_Q)} askable items")
        result[world] = {name: _summary(seeds) for name, seeds in heard.items()}
    return result


def _summary(seeds: list[dict[str, np.ndarray]]) -> dict:
    pooled = {name: torch.as_tensor(np.concatenate([seed[name] for seed in seeds])) for name in seeds[0]}
    rows = {}
    for name, value_H4 in pooled.items():
        rows[name] = {figure: bootstrap_mean(value_H4[:, place]) for place, figure in enumerate(FIGURES)}
        rows[name] |= {"by_seed": [float(seed[name][:, 0].mean()) for seed in seeds]}
        rows[name] |= {"asked": float(value_H4[:, 2].mean()), "known": float(value_H4[:, 3].mean()), "users": len(value_H4)}
        count = name.rpartition(", ")[2]
        if count.isdigit() and not name.startswith(QUIZ):
            rows[name]["quiz_leads_by"] = _lead(pooled[f"{QUIZ}, {count}"], value_H4)
    return rows


def _lead(quiz_H4: Tensor, other_H4: Tensor) -> dict:
    return {figure: bootstrap_difference(quiz_H4[:, place], other_H4[:, place]) for place, figure in enumerate(FIGURES)}
