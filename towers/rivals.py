"""Two saved retrieval models on the same test questions, asked as they would be served: which is better, and how surely?

    python -m towers.rivals --run runs/<the challenger's run> --champion runs/<the champion's run>/model --out rivals.json

The questions are those of the challenger's run: its data, its split, its test part. The champion's rows are laid in that log's order; an
item it never met is encoded by its item tower, as serving does with what is posted. What it writes is JSON: see `measure`.

Shapes: Q questions · I catalogue · D width · C moment columns · N drawn slots · K a slot's pool.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.content import read_recipe
from data.features import MomentVocabulary, is_liked, moment
from data.impressions import events_before
from data.log import Log, Queries, queries
from data.split import TEST
from towers.evaluation import DotProduct, ItemLists, Ranking, per_user, rank
from towers.intervals import bootstrap_difference as drawn_difference
from towers.metrics import bootstrap_difference
from towers.off_policy import best_share_weight, effective_size, snips
from towers.ranking_data import ask, history_at
from towers.saved import SavedRetrieval

K = 20
WORDS = {2: "device", 3: "region", 4: "subscription_tier"}  # columns of a moment that hold a vocabulary's rows


def in_log_order(saved: SavedRetrieval, log: Log) -> SavedRetrieval:
    """The model with a row for every item of `log`, in its order: by item_id, and by the item tower where it never met the item."""
    place = {item_id: row for row, item_id in enumerate(saved.item_ids)}
    row_I = np.array([place.get(item_id, -1) for item_id in log.catalogue.item_ids])
    row_IW = saved.row_IW[torch.as_tensor(np.maximum(row_I, 0))].clone()
    new = np.flatnonzero(row_I < 0)
    if len(new):
        feature_IF = read_recipe(saved.folder / "recipe.npz").features(log.split.tables.items[new])
        with torch.no_grad():
            row_IW[torch.as_tensor(new)] = saved.item_tower(torch.as_tensor(feature_IF))
    return replace(saved, row_IW=row_IW, item_ids=log.catalogue.item_ids)


def in_words_of(vocabulary: MomentVocabulary, spoken: MomentVocabulary, moment_QC: np.ndarray) -> np.ndarray:
    """Moments written in the words of `spoken`, rewritten in those of `vocabulary`; a word it does not know is its 0."""
    rewritten_QC = moment_QC.copy()
    for column, name in WORDS.items():
        row_of = np.concatenate([[0], getattr(vocabulary, name).rows(getattr(spoken, name).words)])
        rewritten_QC[:, column] = row_of[moment_QC[:, column]]
    return rewritten_QC


def answers(saved: SavedRetrieval, log: Log, asked: Queries) -> Ranking:
    """Full ranking of the catalogue by a model `in_log_order`, for every question, as it would be served."""
    history = history_at(asked.history, asked.start_Q, asked.end_Q, asked.now_Q, saved.history_length)
    query_QD = ask(saved, history, in_words_of(saved.vocabulary, log.vocabulary, asked.moment_QC))
    vector_ID = saved.rows_after(asked.history)[:, saved.width :].float()
    lists = ((asked.target_offset, asked.target_row), (asked.seen_offset, asked.seen_row))
    targets, seen = (ItemLists(*map(torch.as_tensor, pair)) for pair in lists)
    return rank(
        DotProduct(query_QD, vector_ID), torch.arange(len(query_QD)), targets, seen, item_count=len(vector_ID), depth=100,
        seen_policy=asked.seen_policy,
    )  # fmt: skip


def measure(champion: SavedRetrieval, challenger: SavedRetrieval, log: Log) -> dict:
    """NDCG@20 and recall@20 over the test users, of both, and the difference with its paired bootstrap interval (95 %)."""
    asked = queries(log, TEST)
    values = [per_user(answers(model, log, asked), (K,)) for model in (champion, challenger)]
    figures = {}
    for name in (f"ndcg_at_{K}", f"recall_at_{K}"):
        difference = bootstrap_difference(values[1][name], values[0][name])
        figures[name] = {
            "champion": float(values[0][name].mean()), "challenger": float(values[1][name].mean()),
            "difference": difference.mean, "low": difference.low, "high": difference.high,
        }  # fmt: skip
    return {"users": len(asked.user_row_Q), "targets": len(asked.target_row), "figures": figures}


def drawn_slots(draws: pl.DataFrame) -> list[dict]:
    """One row for each slot that chance filled: the slate's own fields, `pool` (what was left to draw from) and `drawn`."""
    slots = []
    for slate in draws.iter_rows(named=True):
        pool = list(slate["pool"])
        for item_id in slate["drawn"]:
            if item_id is not None:
                slots.append({**slate, "pool": list(pool), "drawn": item_id})
                pool.remove(item_id)  # without replacement: given the first draw, the second is even over what is left
    return slots


def off_policy(champion: SavedRetrieval, challenger: SavedRetrieval, log: Log, draws: pl.DataFrame, *, share: float) -> dict:
    """SNIPS of click-through where chance filled a slot, had each model drawn it evenly from the `share` of the pool it scores best.

    Only draws of the test days count: of those before, the challenger has learnt what came. What a slot would have kept had chance not
    struck is not logged, so the pool alone is what both choose from.
    """
    slots = drawn_slots(draws.filter(pl.col("timestamp") >= log.split.cut_ms.test))
    if not slots:
        return {"slots": 0, "said": "no randomised slots in the test days"}
    user_row = {user_id: row for row, user_id in enumerate(log.user_ids)}
    item_row = {item_id: row for row, item_id in enumerate(log.catalogue.item_ids)}
    user_N = np.array([user_row.get(slot["user_id"], -1) for slot in slots])
    met_N = user_N >= 0
    now_N = np.array([slot["timestamp"] for slot in slots])
    end_N = np.where(met_N, events_before(log, np.maximum(user_N, 0), now_N), 0)
    start_N = np.where(met_N, log.offset_U1[np.maximum(user_N, 0)], 0)
    moment_NC = _moments(log, slots, now_N)
    weights = []
    for model in (champion, challenger):
        history = history_at(log, start_N, end_N, now_N, model.history_length)
        query_ND = ask(model, history, in_words_of(model.vocabulary, log.vocabulary, moment_NC)).numpy()
        vector_ID = model.rows_after(log.before(TEST))[:, model.width :].float().numpy()
        weights.append(
            np.array([_weight(query_D, vector_ID, slot, item_row, share) for query_D, slot in zip(query_ND, slots, strict=True)])
        )
    liked = log.split.events.filter(is_liked(log.event_code_E)).select("request_id", "user_id", "item_id")
    clicked = set(liked.drop_nulls("request_id").iter_rows())
    reward_N = np.array([float((slot["request_id"], slot["user_id"], slot["drawn"]) in clicked) for slot in slots])
    whose_N = np.array([slot["user_id"] for slot in slots])
    earned = [snips(reward_N, weight_N) for weight_N in weights]
    difference = drawn_difference(earned[1], earned[0], whose_N)
    return {
        "slots": len(slots), "clicked": int(reward_N.sum()), "share": share,
        "champion": earned[0].value, "challenger": earned[1].value,
        "difference": difference.mean, "low": difference.low, "high": difference.high,
        "effective_slots": [effective_size(weight_N) for weight_N in weights],
    }  # fmt: skip


def _weight(query_D: np.ndarray, vector_ID: np.ndarray, slot: dict, item_row: dict[str, int], share: float) -> float:
    row_K = np.array([item_row.get(item_id, -1) for item_id in slot["pool"]])
    score_K = np.where(row_K >= 0, vector_ID[row_K] @ query_D, -np.inf)
    return best_share_weight(score_K, slot["pool"].index(slot["drawn"]), share=share)


def _moments(log: Log, slots: list[dict], now_N: np.ndarray) -> np.ndarray:
    home = log.split.tables.users.select("user_id", pl.col("region").alias("home"), "subscription_tier", "birth_year")
    who = pl.DataFrame(
        {name: [slot[name] for slot in slots] for name in ("user_id", "device", "region")},
        schema=dict.fromkeys(("user_id", "device", "region"), pl.String),
    ).join(home, on="user_id", how="left", maintain_order="left")
    born_N = who["birth_year"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    region = who.select(pl.coalesce("region", "home")).to_series()
    return moment(now_N, who["device"], region, who["subscription_tier"], born_N, log.vocabulary)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    line = argparse.ArgumentParser(prog="python -m towers.rivals", description=__doc__.splitlines()[0])
    line.add_argument("--run", type=Path, required=True, help="the challenger's run: config.yaml and model/ in it")
    line.add_argument("--champion", type=Path, required=True, help="the champion's model folder")
    line.add_argument("--draws", type=Path, nargs="*", default=(), help="draws.parquet of the folders that serving wrote")
    line.add_argument("--share", type=float, default=0.1, help="of a slot's pool, what a model would draw from")
    line.add_argument("--champion-log-end", type=int, default=0, help="ms UTC of the last event that the champion may have learnt from")
    line.add_argument("--out", type=Path, required=True)
    asked = line.parse_args(arguments)
    cfg = OmegaConf.load(asked.run / "config.yaml")
    tables = instantiate(cfg.data)
    log = instantiate(cfg.log)(instantiate(cfg.split)(tables))
    champion, challenger = (in_log_order(SavedRetrieval.open(folder), log) for folder in (asked.champion, asked.run / "model"))
    told = measure(champion, challenger, log) | {"read": dict(tables.report)}
    test_E = log.part_E == TEST
    told["test_events"] = int(test_E.sum())
    told["test_events_the_champion_may_know"] = int((test_E & (log.timestamp_E <= asked.champion_log_end)).sum())
    draws = [pl.read_parquet(path) for path in asked.draws if path.is_file()]
    told["off_policy"] = (
        off_policy(champion, challenger, log, pl.concat(draws), share=asked.share) if draws else {"slots": 0, "said": "no randomised slots"}
    )
    asked.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
