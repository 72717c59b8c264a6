"""The log as arrays: one long run of events sorted by user and time, with everything about items beside it.

Shapes: E events · U users · I catalogue · C moment columns · G genres · T tags · F item features · Q queries.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from data.aggregates import item_clock
from data.content import ContentRecipe, fit_content
from data.features import DAY_MS, EVENT_TYPE_CODE, HOUR_MS, ItemClock, MomentVocabulary, Vocabulary, event_code, is_liked, moment
from data.leaks import refuse_leaks
from data.schema import Tables
from data.split import TRAIN, SeenPolicy, Split, undivided


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All items, row by row. `release_day_I` is days since 1970 and `duration_seconds_I` float32 seconds, NaN where unknown; `genre_IG` and
    `tag_IT` are 0 or 1."""

    item_ids: tuple[str, ...]
    feature_IF: np.ndarray
    genre_IG: np.ndarray
    tag_IT: np.ndarray
    release_day_I: np.ndarray
    duration_seconds_I: np.ndarray
    recipe: ContentRecipe


@dataclass(frozen=True, slots=True)
class Log:
    """Events sorted by user, then time, then item; user u owns offset_U1[u] ≤ e < offset_U1[u + 1], which may be none.

    `propensity_E` is what the log says of having been shown, NaN where it says nothing, and `position_E` where in the slate of its
    request, 0 where nothing says so. `prior_rating`, what an item without ratings is
    taken to have, is the mean of the training part, and stays so whatever part of the log is looked at.
    """

    user_ids: tuple[str, ...]
    offset_U1: np.ndarray
    user_row_E: np.ndarray
    item_row_E: np.ndarray
    event_type_E: np.ndarray
    event_code_E: np.ndarray
    rating_E: np.ndarray
    timestamp_E: np.ndarray
    part_E: np.ndarray
    moment_EC: np.ndarray
    propensity_E: np.ndarray
    position_E: np.ndarray
    vocabulary: MomentVocabulary
    catalogue: Catalogue
    liked_from: float
    prior_rating: float
    split: Split

    def before(self, part: int) -> "Log":
        """The log without `part` and what comes after it: what may be known when `part` is asked about."""
        return self.where(self.part_E < part)

    def where(self, keep_E: np.ndarray) -> "Log":
        """The log of the events kept; users keep their rows even if nothing of theirs is left."""
        count_U = np.bincount(self.user_row_E[keep_E], minlength=len(self.user_ids))
        names = (
            "user_row_E",
            "item_row_E",
            "event_type_E",
            "event_code_E",
            "rating_E",
            "timestamp_E",
            "part_E",
            "moment_EC",
            "propensity_E",
            "position_E",
        )
        return replace(self, offset_U1=np.concatenate([[0], np.cumsum(count_U)]), **{name: getattr(self, name)[keep_E] for name in names})

    def liked(self, part: int) -> np.ndarray:
        """Which events of `part` are something to learn or to be tested on: event positions, int64."""
        return np.flatnonzero((self.part_E == part) & is_liked(self.event_code_E))

    def item_count(self, part: int = TRAIN) -> np.ndarray:
        """How many liked events of `part` each item has: int64 (I,)."""
        return np.bincount(self.item_row_E[self.liked(part)], minlength=len(self.catalogue.item_ids))

    def clock(self, *, half_life_days: float) -> ItemClock:
        """Popularity (of liked events) and mean rating of every item by the hour, over the events of this log."""
        liked_E = is_liked(self.event_code_E)
        events = pl.DataFrame({"item_row": self.item_row_E, "timestamp": self.timestamp_E, "rating": self.rating_E, "liked": liked_E})
        return item_clock(events, half_life_days=half_life_days, prior_rating=self.prior_rating)


@dataclass(frozen=True, slots=True)
class Queries:
    """One question per user who has targets in a part. CSR: query q's targets are target_row[target_offset[q]:target_offset[q + 1]].

    `history` is the log that may be seen; query q sees history events start_Q[q] ≤ e < end_Q[q], and its items are `seen`, of which
    a ranking removes those that `seen_policy` says.
    """

    history: Log
    user_row_Q: np.ndarray
    start_Q: np.ndarray
    end_Q: np.ndarray
    now_Q: np.ndarray
    moment_QC: np.ndarray
    target_offset: np.ndarray
    target_row: np.ndarray
    seen_offset: np.ndarray
    seen_row: np.ndarray
    seen_policy: SeenPolicy


def queries(log: Log, part: int) -> Queries:
    """The questions of `part`: each user's distinct liked items there, asked at the moment of the first of them.

    What is seen is every item of the user's earlier parts, whatever the event. A target that was seen before stays a target, whose fate is
    the split's `seen_policy`.

    Raises:
        LeakError: what was learned of the log, or told with it, has seen what is asked (`data.leaks`).
    """
    refuse_leaks(log)
    history, event = log.before(part), target_events(log, part)
    user_row, item_row = log.user_row_E[event], log.item_row_E[event]
    user_row_Q, start, count = np.unique(user_row, return_index=True, return_counts=True)
    start_Q, end_Q = history.offset_U1[user_row_Q], history.offset_U1[user_row_Q + 1]
    seen_offset = np.concatenate([[0], np.cumsum(end_Q - start_Q)])
    seen = np.repeat(start_Q - seen_offset[:-1], end_Q - start_Q) + np.arange(seen_offset[-1])
    return Queries(
        history, user_row_Q, start_Q, end_Q, log.timestamp_E[event[start]], log.moment_EC[event[start]],
        np.concatenate([[0], np.cumsum(count)]), item_row, seen_offset, history.item_row_E[seen],
        log.split.seen_policy,
    )  # fmt: skip


def target_events(log: Log, part: int) -> np.ndarray:
    """The event behind each target of `queries`, in its order: a user's first liked event of each item in `part`, (T,)."""
    event = log.liked(part)
    _, first = np.unique(log.user_row_E[event] * len(log.catalogue.item_ids) + log.item_row_E[event], return_index=True)
    return event[np.sort(first)]


def popularity_clocks(log: Log, half_lives_days: tuple[float, ...]) -> tuple[ItemClock, ...]:
    """One clock of the log's liked events for each half-life."""
    liked = log.where(is_liked(log.event_code_E))
    return tuple(liked.clock(half_life_days=days) for days in half_lives_days)


def hour_after(log: Log) -> int:
    """The first hour (since 1970 UTC) that no event of the log lies in or after; 0 for an empty log."""
    return int(log.timestamp_E.max(initial=-1)) // HOUR_MS + 1


def read_catalogue(items: pl.DataFrame, recipe: ContentRecipe) -> Catalogue:
    """The items table by the recipe; an item's row is its place in the table."""
    feature_IF = recipe.features(items)
    day = items["release_date"].cast(pl.Int32).cast(pl.Float64).fill_null(float("nan"))
    genre_IG, tag_IT = np.split(feature_IF[:, : sum(recipe.blocks[:2])], [recipe.blocks[0]], axis=1)
    duration = items["duration_seconds"].fill_null(float("nan"))
    return Catalogue(tuple(items["item_id"]), feature_IF, genre_IG, tag_IT, day.to_numpy(), duration.to_numpy(), recipe)


def read_log(split: Split, *, liked_from: float = float("-inf"), text_width: int = 64, tags: int = 128, seed: int = 0) -> Log:
    """Turn a split into arrays. Vocabularies of device, region and tier hold the words of the training part alone.

    `liked_from` is the rating from which on a rated item counts as liked.
    """
    frame = _with_context(split)
    train = frame.filter(split.part == TRAIN)
    vocabulary = MomentVocabulary(*(Vocabulary.of(train[name].unique().to_list()) for name in ("device", "region", "subscription_tier")))
    recipe = fit_content(split.tables.items, text_width=text_width, tags=tags, seed=seed)
    prior_rating = float(train["rating"].cast(pl.Float64).mean() or 0.0)
    return _arrays(split, frame, recipe, vocabulary, liked_from=liked_from, prior_rating=prior_rating)


def retold(log: Log, tables: Tables) -> Log:
    """Other tables as a log, in the words of `log`: by its content recipe, its vocabularies and its prior rating, which are what a model
    knows that was trained on it. Nothing is held out."""
    split = undivided(tables)
    return _arrays(
        split, _with_context(split), log.catalogue.recipe, log.vocabulary, liked_from=log.liked_from, prior_rating=log.prior_rating
    )  # fmt: skip


def _with_context(split: Split) -> pl.DataFrame:
    """The events of a split, in its order, with the propensity and the position they were shown with and what is known of their users."""
    frame = split.events.with_row_index("order")
    return _join_users(_join_impressions(frame, split.tables), split.tables).sort("order")


def _arrays(
    split: Split, frame: pl.DataFrame, recipe: ContentRecipe, vocabulary: MomentVocabulary, *, liked_from: float, prior_rating: float
) -> Log:
    catalogue = read_catalogue(split.tables.items, recipe)
    user_ids = pl.concat([frame["user_id"], split.tables.impressions["user_id"]]).unique().sort()  # the order of split.events
    rows = pl.DataFrame({"user_id": user_ids}).with_row_index("row")
    user_row_E = frame.join(rows, on="user_id", maintain_order="left")["row"].cast(pl.Int64).to_numpy(writable=True)
    item_row = dict(zip(catalogue.item_ids, range(len(catalogue.item_ids)), strict=True))
    event_type_E = frame["event_type"].replace_strict(EVENT_TYPE_CODE, return_dtype=pl.Int64).to_numpy(writable=True)
    rating_E = frame["rating"].fill_null(float("nan")).to_numpy(writable=True)
    timestamp_E = frame["timestamp"].to_numpy(writable=True)
    return Log(
        user_ids=tuple(user_ids),
        offset_U1=np.concatenate([[0], np.cumsum(np.bincount(user_row_E, minlength=len(user_ids)))]),
        user_row_E=user_row_E,
        item_row_E=np.fromiter((item_row[item_id] for item_id in frame["item_id"]), np.int64, len(frame)),
        event_type_E=event_type_E,
        event_code_E=event_code(event_type_E, rating_E, liked_from=liked_from),
        rating_E=rating_E,
        timestamp_E=timestamp_E,
        part_E=np.asarray(split.part, np.int8),
        moment_EC=moment(
            timestamp_E, frame["device"], frame["region"], frame["subscription_tier"],
            frame["birth_year"].cast(pl.Float64).fill_null(float("nan")).to_numpy(), vocabulary,
        ),
        propensity_E=frame["propensity"].fill_null(float("nan")).to_numpy(),
        position_E=frame["position"].fill_null(0).cast(pl.Int64).to_numpy(),
        vocabulary=vocabulary,
        catalogue=catalogue,
        liked_from=liked_from,
        prior_rating=prior_rating,
        split=split,
    )  # fmt: skip


def _join_impressions(frame: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    shown = tables.impressions.select("request_id", "item_id", "propensity", "position").unique(["request_id", "item_id"], keep="first")
    return frame.join(shown, on=["request_id", "item_id"], how="left")


def _join_users(frame: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """A request's own region stands before the user's home."""
    home = tables.users.select("user_id", pl.col("region").alias("home"), "subscription_tier", "birth_year")
    joined = frame.join(home, on="user_id", how="left")
    return joined.with_columns(pl.coalesce("region", "home").alias("region")).drop("home")


def days_before_end(log: Log) -> np.ndarray:
    """How many days before the log's last training event each event lies: float64 (E,)."""
    end = log.timestamp_E[log.part_E == TRAIN].max()
    return (end - log.timestamp_E) / DAY_MS
