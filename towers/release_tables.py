"""What a release tells of a log besides its models: the item table, how items are told, what was taken up where and when, who did what.

Shapes: I catalogue · D width · U users · E events.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from data.aggregates import day_part_counts, region_counts
from data.content import RecipeFileError, read_recipe
from data.features import MOMENT, is_liked
from data.log import Log
from towers.ranking_data import ask, history_at
from towers.saved import SavedModelError, SavedRetrieval


def room_for(items: int) -> int:
    """Rows kept free for items that are posted later: 5 %, at least 1,000."""
    return max(1_000, items // 20)


def write_items(staging: Path, row_IW: np.ndarray, room: int) -> None:
    """The item table, fp16 (I, 2·D), with rows of zeros behind it for `room` items to come."""
    with (staging / "items.f16").open("wb") as file:
        row_IW.tofile(file)
        file.truncate(row_IW.nbytes + room * row_IW[0].nbytes)


def write_recipe(staging: Path, saved: SavedRetrieval, log: Log) -> None:
    """How the model was told what an item is, held against the items it was told of: what is posted later is told likewise.

    Raises:
        SavedModelError: the recipe cannot be read, or makes other features of the log's items.
    """
    try:
        recipe = read_recipe(saved.folder / "recipe.npz")
    except RecipeFileError as error:
        raise SavedModelError(str(error)) from error
    some = slice(None, None, max(1, len(log.catalogue.item_ids) // 1_000))
    made, known = recipe.features(log.split.tables.items[some]), log.catalogue.feature_IF[some]
    if made.shape != known.shape or not np.allclose(made, known, atol=1e-4):
        raise SavedModelError(f"{saved.folder / 'recipe.npz'} makes other features of this log's items; train on the log as it is now")
    shutil.copyfile(saved.folder / "recipe.npz", staging / "recipe.npz")


def write_trends(staging: Path, log: Log, half_life_days: Mapping[str, float]) -> None:
    """What is taken up lately, by region and by part of the day, and how often each item was shown, all as of the log's end.

    `half_life_days` has short and long, between which a trend is told, and popular. Where the log has no impressions, an item was shown as
    often as something was done with it.
    """
    words = np.array([None, *log.vocabulary.region.words], object)
    region_E = words[log.moment_EC[:, MOMENT.index("region")]]
    events = pl.DataFrame(
        {
            "item_row": log.item_row_E,
            "timestamp": log.timestamp_E,
            "region": pl.Series(region_E.tolist(), dtype=pl.String),
            "liked": is_liked(log.event_code_E),
        }
    ).lazy()
    log_end = int(log.timestamp_E.max())
    two = {"short_half_life_days": half_life_days["short"], "long_half_life_days": half_life_days["long"]}
    region_counts(events, as_of=log_end, **two).collect().write_parquet(staging / "trends.parquet")
    by_part = day_part_counts(events, as_of=log_end, half_life_days=half_life_days["popular"])
    by_part.collect().write_parquet(staging / "day_parts.parquet")
    impressions = log.split.tables.impressions
    shown_end = int(impressions["timestamp"].max()) if len(impressions) else log_end
    row_of = {item_id: row for row, item_id in enumerate(log.catalogue.item_ids)}
    shown_row = [row_of[item_id] for item_id in impressions["item_id"]] if len(impressions) else log.item_row_E
    np.save(staging / "exposure.npy", np.bincount(shown_row, minlength=len(row_of)).astype(np.int64))
    told = {"log_end": log_end, "shown_end": shown_end, "half_life_days": dict(half_life_days)}
    (staging / "trends.json").write_text(json.dumps(told))


def histories(log: Log, length: int) -> pl.DataFrame:
    """The last `length` events of every user, oldest first: one row per user, lists of item_id, event_type, rating and timestamp."""
    place_E = np.arange(len(log.user_row_E))
    last_E = place_E >= log.offset_U1[log.user_row_E + 1] - length
    events = pl.DataFrame(
        {
            "user_id": pl.Series(log.user_ids, dtype=pl.String).gather(log.user_row_E[last_E]),
            "item_id": pl.Series(log.catalogue.item_ids, dtype=pl.String).gather(log.item_row_E[last_E]),
            "event_type": pl.Series(log.event_type_E[last_E], dtype=pl.Int8),
            "rating": pl.Series(log.rating_E[last_E], dtype=pl.Float32),
            "timestamp": log.timestamp_E[last_E],
        }
    )
    return events.group_by("user_id", maintain_order=True).agg("item_id", "event_type", "rating", "timestamp")


def last_queries(log: Log, saved: SavedRetrieval, count: int) -> np.ndarray:
    """What `count` of the users, evenly drawn, asked at their last event: float32 (U, D). An index is tuned to such queries."""
    active = np.flatnonzero(np.diff(log.offset_U1))
    user_row_U = active[np.linspace(0, len(active) - 1, min(count, len(active))).astype(np.int64)]
    return queries_of(log, saved, user_row_U)


def queries_of(log: Log, saved: SavedRetrieval, user_row_U: np.ndarray) -> np.ndarray:
    """Queries of users with events as they stood at their last event, float32 (U, D)."""
    last_U = log.offset_U1[user_row_U + 1] - 1
    history = history_at(log, log.offset_U1[user_row_U], last_U + 1, log.timestamp_E[last_U], saved.history_length)
    return ask(saved, history, log.moment_EC[last_U]).numpy()


def shown_pairs(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """(user rows, item rows) of the impressions of users who have events; none where the log has no impressions."""
    users = pl.DataFrame({"user_id": log.user_ids, "user_row": np.arange(len(log.user_ids))}, schema_overrides={"user_id": pl.String})
    items = pl.DataFrame({"item_id": log.catalogue.item_ids, "item_row": np.arange(len(log.catalogue.item_ids))})
    shown = log.split.tables.impressions.select("user_id", "item_id").join(users, on="user_id").join(items, on="item_id")
    return shown["user_row"].to_numpy(), shown["item_row"].to_numpy()
