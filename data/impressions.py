"""What was shown, as arrays: the impressions of a log beside the rows and words that the rest of it speaks in.

What came of an impression is what its own row says, and where that says nothing, what the events say that bear its request: so the table
that serving writes, which knows only what was shown, is read like one whose rows know everything.

Shapes: P impressions · N rows to be weighed · I catalogue.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from data.log import Log
from data.overlap import OverlapError
from data.split import TEST, TRAIN

OUTCOMES = ("clicked", "completed", "skipped", "watch_duration_seconds")
OPENED = ("click", "watch", "complete", "skip")
"""Events of whoever opened what was shown. A skip left at once, so it had been opened: a click like the others, of which little came. A
view looked at the page about it, and `not_interested` was said of the title: neither opened it."""


OPEN = TEST + 1
"""What was shown before a cut and answered after it belongs to no part: learned from, it would tell of the test; tested on, it would be
there because it was answered."""


class Shown(NamedTuple):
    """Impressions sorted by request and position. `request_P` counts requests from 0, `position_P` is 1 at the top, `device_P` a row of
    the log's vocabulary (0 unknown), `arm_P` a place in `arms` (the null arm is ""), `logged_P` the logged propensity (NaN: none),
    `clicked_P` 1, 0 or NaN where the log does not say."""

    request_P: np.ndarray
    user_row_P: np.ndarray
    item_row_P: np.ndarray
    position_P: np.ndarray
    device_P: np.ndarray
    arm_P: np.ndarray
    arms: tuple[str, ...]
    logged_P: np.ndarray
    clicked_P: np.ndarray
    timestamp_P: np.ndarray

    def where(self, keep_P: np.ndarray) -> "Shown":
        """The impressions kept; requests keep their numbers."""
        return self._replace(**{name: getattr(self, name)[keep_P] for name in self._fields if name.endswith("_P")})


class Observed(NamedTuple):
    """What an estimator may look at, of the training part alone: how many users each item has an event of, liked or not (I,), and what was
    shown (no rows where the log has no impressions)."""

    count_I: np.ndarray
    shown: Shown


class Rows(NamedTuple):
    """Rows to be weighed: their item, the logged propensity (NaN: none), the position they were shown at (0: unknown, or nothing says
    that they were shown) and the device (a vocabulary's row)."""

    item_row_N: np.ndarray
    logged_N: np.ndarray
    position_N: np.ndarray
    device_N: np.ndarray


def of_arms(shown: Shown, arms: Sequence[str]) -> Shown:
    """The impressions of these arms.

    Raises:
        OverlapError: one of them is not in the log; those that are, are named.
    """
    missing = [arm for arm in arms if arm not in shown.arms]
    if missing or not arms:
        there = ", ".join(repr(arm) for arm in shown.arms) or "none"
        raise OverlapError(f"the log has no randomised arm {', '.join(map(repr, missing)) or '(none was named)'}; its arms: {there}")
    return shown.where(np.isin(shown.arm_P, [shown.arms.index(arm) for arm in arms]))


def frame(log: Log) -> pl.DataFrame:
    """The impressions whose user and item the log knows, with `user_row`, `item_row` and `part` beside their own columns, what came of them
    where they do not say (`with_outcomes`), the region of who gave none filled with their home, and what is known of the user. Sorted by
    request, then position. The part is that of the request (`parts`), or `OPEN`."""
    tables = log.split.tables
    user_row = pl.DataFrame(
        {"user_id": log.user_ids, "user_row": np.arange(len(log.user_ids))}, schema={"user_id": pl.String, "user_row": pl.Int64}
    )
    item_row = pl.DataFrame(
        {"item_id": log.catalogue.item_ids, "item_row": np.arange(len(log.catalogue.item_ids))},
        schema={"item_id": pl.String, "item_row": pl.Int64},
    )
    home = tables.users.select("user_id", pl.col("region").alias("home"), "subscription_tier", "birth_year")
    answered = log.split.events.filter(pl.col("request_id").is_not_null()).group_by("request_id", "user_id").agg(pl.col("part").max())
    rows = (
        with_outcomes(tables.impressions, tables.events, liked_from=log.liked_from)
        .join(user_row, on="user_id", how="inner", maintain_order="left")
        .join(item_row, on="item_id", how="inner", maintain_order="left")
        .join(home, on="user_id", how="left", maintain_order="left")
        .join(answered, on=["request_id", "user_id"], how="left", maintain_order="left")
        .with_columns(region=pl.coalesce("region", "home"))
        .sort("request_id", "position", maintain_order=True)
    )
    user_row_P, now_P = rows["user_row"].to_numpy(), rows["timestamp"].to_numpy()
    part = pl.Series(parts(log, user_row_P, events_before(log, user_row_P, now_P), now_P))
    return rows.with_columns(part=pl.when(pl.col("part") > part).then(pl.lit(OPEN, pl.Int8)).otherwise(part))


def with_outcomes(impressions: pl.DataFrame, events: pl.DataFrame, *, liked_from: float) -> pl.DataFrame:
    """`impressions` (of `data.schema`) with what came of them filled from `events`, cell by cell where they say nothing.

    An impression was clicked if an event of its request, user and item opened it (`OPENED`) or rated it `liked_from` or more; completed or
    skipped if one of them says so; watched as long as the longest of them says, which of what was not clicked is 0 seconds. No event is
    an answer too: it was shown, and passed over. But where no event bears the request of any impression, the log does not tell what came
    of them, and nothing is filled in; nor is `completed` or `skipped` where no event of the log is ever of that type.
    """
    kind, of = pl.col("event_type"), ["request_id", "user_id", "item_id"]
    answers = events.join(impressions.select("request_id").unique(), on="request_id", how="semi")
    if not len(answers):
        return impressions
    rated = (kind == "rate") & (pl.col("rating") >= liked_from).fill_null(False)
    came = answers.group_by(of).agg(
        told_clicked=(kind.is_in(OPENED) | rated).any(),
        told_completed=(kind == "complete").any(),
        told_skipped=(kind == "skip").any(),
        told_seconds=pl.col("watch_duration_seconds").max(),
    )
    there = set(events["event_type"].unique())
    clicked = pl.coalesce("clicked", pl.col("told_clicked").fill_null(False))
    told = {
        name: pl.col(f"told_{name}").fill_null(False) for name, type_ in (("completed", "complete"), ("skipped", "skip")) if type_ in there
    }
    seconds = pl.when(clicked).then(pl.col("told_seconds")).otherwise(pl.lit(0.0, pl.Float32))
    return (
        impressions.join(came, on=of, how="left", maintain_order="left")
        .with_columns(
            clicked.alias("clicked"),
            pl.coalesce("watch_duration_seconds", seconds).alias("watch_duration_seconds"),
            *(pl.coalesce(name, value).alias(name) for name, value in told.items()),
        )
        .select(impressions.columns)
    )


def shown(log: Log, impressions: pl.DataFrame) -> Shown:
    """Rows of `frame` as arrays."""
    arm = impressions["arm"].fill_null("")
    arms = tuple(sorted(arm.unique()))
    return Shown(
        request_P=impressions["request_id"].rle_id().to_numpy().astype(np.int64),
        user_row_P=impressions["user_row"].to_numpy(),
        item_row_P=impressions["item_row"].to_numpy(),
        position_P=impressions["position"].to_numpy().astype(np.int64),
        device_P=log.vocabulary.device.rows(impressions["device"].to_list()),
        arm_P=np.searchsorted(np.array(arms, dtype=str), arm.to_numpy().astype(str)) if arms else np.zeros(0, np.int64),
        arms=arms,
        logged_P=impressions["propensity"].fill_null(float("nan")).to_numpy(),
        clicked_P=impressions["clicked"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        timestamp_P=impressions["timestamp"].to_numpy(),
    )


def shown_in(impressions: pl.DataFrame) -> Shown:
    """An impressions table by itself, without a log around it, in the order of its requests: users, items and devices are numbered by name,
    devices from 1 (a null one is 0)."""
    impressions = impressions.sort("request_id", "position", maintain_order=True)
    code = {name: impressions[name].rank("dense").fill_null(0).to_numpy().astype(np.int64) for name in ("user_id", "item_id", "device")}
    arm = impressions["arm"].fill_null("")
    arms = tuple(sorted(arm.unique()))
    return Shown(
        request_P=impressions["request_id"].rle_id().to_numpy().astype(np.int64),
        user_row_P=code["user_id"] - 1,
        item_row_P=code["item_id"] - 1,
        position_P=impressions["position"].to_numpy().astype(np.int64),
        device_P=code["device"],
        arm_P=np.searchsorted(np.array(arms, dtype=str), arm.to_numpy().astype(str)),
        arms=arms,
        logged_P=impressions["propensity"].fill_null(float("nan")).to_numpy(),
        clicked_P=impressions["clicked"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        timestamp_P=impressions["timestamp"].to_numpy(),
    )


def observed(log: Log, *, before: int) -> Observed:
    """What may be looked at when the parts from `before` on are asked about."""
    rows = frame(log)
    return Observed(_users_of(log.before(before)), shown(log, rows).where(rows["part"].to_numpy() < before))


def _users_of(log: Log) -> np.ndarray:
    """Who rates an item low, or skips it, has met it too: an item's users, int64 (I,)."""
    items = len(log.catalogue.item_ids)
    return np.bincount(np.unique(log.user_row_E * items + log.item_row_E) % items, minlength=items)


def events_before(log: Log, user_row_P: np.ndarray, timestamp_P: np.ndarray) -> np.ndarray:
    """For each moment of a user, the position just after their last event strictly before it: int64 (P,)."""
    times, rank = np.unique(np.concatenate([log.timestamp_E, timestamp_P]), return_inverse=True)
    key_E = log.user_row_E * len(times) + rank[: len(log.timestamp_E)]
    return np.searchsorted(key_E, user_row_P * len(times) + rank[len(log.timestamp_E) :], side="left")


def parts(log: Log, user_row_G: np.ndarray, end_G: np.ndarray, now_G: np.ndarray) -> np.ndarray:
    """The part of each request: of its time where one cut parts all users, else of the user's next event at end_G, of their last where
    there is none after it, and training where they have no event at all."""
    if (cut := log.split.cut_ms) is not None:
        validation = cut.test if cut.validation is None else cut.validation
        return (now_G >= validation).astype(np.int8) + (now_G >= cut.test).astype(np.int8)
    if not len(log.part_E):
        return np.full(len(now_G), TRAIN, np.int8)
    last_G = log.offset_U1[user_row_G + 1] - 1
    nobody_G = last_G < log.offset_U1[user_row_G]
    return np.where(nobody_G, TRAIN, log.part_E[np.minimum(end_G, last_G).clip(0)])
