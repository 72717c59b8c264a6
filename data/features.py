"""What a user, an item and a moment look like in numbers: one set of functions, called by training and by serving.

Everything here runs over whole arrays, so that a training table of millions of rows and a request of one row pass
through the same code. `tests/test_data_features.py` holds the law: a training row replayed as a request is bit for bit the same.

Shapes: B rows · L history length · K candidates · G genres · T tags · I catalogue · C moment columns · U profile columns · X numbers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from array_api_compat import array_namespace
from array_api_compat import device as device_of

from data.schema import EVENT_TYPES

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PAD = 0
EVENT_TYPE_CODE = {name: code for code, name in enumerate(EVENT_TYPES, start=1)}
DISLIKED = len(EVENT_TYPES) + 1
EVENT_CODES = DISLIKED + 1
LIKED = tuple(EVENT_TYPE_CODE[name] for name in ("click", "watch", "complete", "rate"))
LIKED_OF_CODE = np.isin(np.arange(EVENT_CODES), LIKED)  # looked up in a tenth of the time that isin takes
MOMENT = ("hour", "weekday", "device", "region", "subscription_tier", "age_band")
AGE_BANDS = 12
NUMBERS = (
    "dot", "genre_match", "tag_match", "log_popularity", "mean_rating", "log_age_days", "log_duration_seconds", "history_count"
)  # fmt: skip
PROFILE = ("log_session_minutes", "log_history_count")
"""What `profile` says of a user after the share of each genre."""
SESSION_GAP_MINUTES = 30


def event_code(event_type: np.ndarray, rating: np.ndarray, *, liked_from: float) -> np.ndarray:
    """Codes of `EVENT_TYPE_CODE`, with a rating below `liked_from` told apart as `DISLIKED`; int64, any shape."""
    low = (event_type == EVENT_TYPE_CODE["rate"]) & (rating < liked_from)
    return np.where(low, DISLIKED, event_type).astype(np.int64)


def is_liked(code: np.ndarray) -> np.ndarray:
    """Which codes say that the user wanted the item: what a model learns to predict."""
    return LIKED_OF_CODE[code]


def age_minutes(now, then):
    """Whole minutes from `then` to `now` (ms UTC, numpy or torch, any shapes that broadcast); never below 0.

    A clock that runs ahead writes events from the future: they count as just now.
    """
    return ((now - then) // 60_000).clip(0)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Outside words to rows: 0 is unknown or missing, the words follow in order of their first sight in training."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[str | None]) -> "Vocabulary":
        """Every distinct word of `values`, sorted, so that the same data give the same rows."""
        return cls(tuple(sorted({value for value in values if value is not None})))

    def __len__(self) -> int:
        return len(self.words) + 1

    def rows(self, values: Iterable[str | None]) -> np.ndarray:
        """int64 rows of `values`; what training never saw is 0."""
        index = {word: row for row, word in enumerate(self.words, start=1)}
        return np.fromiter((index.get(value, 0) for value in values), np.int64)


def multi_hot(lists: pl.Series, vocabulary: Vocabulary) -> np.ndarray:
    """float32 (rows, words): 1 where a row's list holds the word."""
    long = pl.DataFrame({"row": np.arange(len(lists)), "word": lists}).explode("word").drop_nulls()
    column = vocabulary.rows(long["word"].to_list())
    hot = np.zeros((len(lists), len(vocabulary)), np.float32)
    hot[long["row"].to_numpy(), column] = 1.0
    return hot[:, 1:]


@dataclass(frozen=True, slots=True)
class MomentVocabulary:
    """The words a moment is written in."""

    device: Vocabulary
    region: Vocabulary
    subscription_tier: Vocabulary

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each column of `moment` may take."""
        return (24, 7, len(self.device), len(self.region), len(self.subscription_tier), AGE_BANDS)


def moment(
    timestamp_B: np.ndarray,
    device: Sequence[str | None],
    region: Sequence[str | None],
    subscription_tier: Sequence[str | None],
    birth_year_B: np.ndarray,
    vocabulary: MomentVocabulary,
) -> np.ndarray:
    """When, where and who, as int64 (B, C) in the order of `MOMENT`.

    `timestamp_B` is ms UTC and so is the hour; Monday is 0. `birth_year_B` is float with NaN where it is not known.
    The age band is 0 unknown, then one per ten years.
    """
    day = timestamp_B // DAY_MS
    year = 1970 + day // 365.2425
    age = np.nan_to_num((year - birth_year_B) // 10 + 1, nan=0.0)
    return np.stack(
        [
            timestamp_B // HOUR_MS % 24,
            (day + 3) % 7,
            vocabulary.device.rows(device),
            vocabulary.region.rows(region),
            vocabulary.subscription_tier.rows(subscription_tier),
            age.clip(0, AGE_BANDS - 1).astype(np.int64),
        ],
        axis=1,
    ).astype(np.int64)


@dataclass(frozen=True, slots=True)
class PackedHistory:
    """The last L events of B users, oldest first, padded on the left with code 0 and row 0. All int64 (B, L)."""

    item_row_BL: np.ndarray
    event_code_BL: np.ndarray
    age_minutes_BL: np.ndarray

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(item rows, event codes, ages), the order in which the user tower takes them."""
        return self.item_row_BL, self.event_code_BL, self.age_minutes_BL


def pack(
    item_row_E: np.ndarray,
    event_code_E: np.ndarray,
    timestamp_E: np.ndarray,
    *,
    start_B: np.ndarray,
    end_B: np.ndarray,
    now_B: np.ndarray,
    length: int,
) -> PackedHistory:
    """Cut B windows out of one long log sorted by user and time: row b sees events start_B[b] ≤ e < end_B[b], the last `length`.

    The log is that of training (all users, one behind the other, torch on the training device) or of a request (one user, start 0,
    numpy): the same lines read both, by the array API that the two share.
    """
    xp = array_namespace(end_B)
    position_BL = end_B[:, None] + xp.arange(-length, 0, dtype=xp.int64, device=device_of(end_B))[None, :]
    there_BL = position_BL >= start_B[:, None]
    if not len(item_row_E):
        zero_BL = xp.zeros_like(position_BL)
        return PackedHistory(zero_BL, zero_BL, zero_BL)
    position_BL = xp.where(there_BL, position_BL, xp.zeros_like(position_BL))
    age_BL = age_minutes(now_B[:, None], timestamp_E[position_BL])
    return PackedHistory(item_row_E[position_BL] * there_BL, event_code_E[position_BL] * there_BL, age_BL * there_BL)


def liked_count(label_IG: np.ndarray, history: PackedHistory) -> np.ndarray:
    """How many liked events of a history bear each label (genre, tag): float32 (B, G), of whole numbers, so no order of summing shows."""
    liked_BL = is_liked(history.event_code_BL).astype(np.float32)
    return np.matmul(liked_BL[:, None], label_IG[history.item_row_BL].astype(np.float32, copy=False))[:, 0]


def genre_share(genre_IG: np.ndarray, history: PackedHistory) -> np.ndarray:
    """Which genres the liked part of a history is made of: float32 (B, G), each row sums to 1, or to 0 where nothing is liked."""
    count_BG = liked_count(genre_IG, history)
    total_B1 = count_BG.sum(1, keepdims=True)
    return np.divide(count_BG, total_B1, out=np.zeros_like(count_BG), where=total_B1 > 0)


def label_match(count_BG: np.ndarray, label_IG: np.ndarray, item_row_BK: np.ndarray) -> np.ndarray:
    """The mean share, in the user's `liked_count`, of the labels an item bears: float32 (B, K), 0 for an item without labels.

    `item_row_BK` may have one row, of the same candidates for all B.
    """
    label_BKG = label_IG[item_row_BK].astype(np.float32, copy=False)
    match_BK = np.matmul(label_BKG, count_BG[:, :, None])[:, :, 0]
    return match_BK / np.maximum(label_BKG.sum(2) * count_BG.sum(1, keepdims=True), 1.0)


def session_minutes(history: PackedHistory) -> np.ndarray:
    """Mean length of the sessions in a history, float32 (B,) minutes: half an hour without an event ends one, and a session of one event
    lasts none. 0 for an empty history."""
    there_BL = history.event_code_BL != PAD
    gap_BM = history.age_minutes_BL[:, :-1] - history.age_minutes_BL[:, 1:]
    within_BM = there_BL[:, :-1] & (gap_BM < SESSION_GAP_MINUTES)
    sessions_B = there_BL.sum(1) - within_BM.sum(1)
    return ((gap_BM * within_BM).sum(1) / np.maximum(sessions_B, 1)).astype(np.float32)


def profile(history: PackedHistory, genre_IG: np.ndarray) -> np.ndarray:
    """What the ranker is told of a user beside their query: float32 (B, U), `genre_share`, then `PROFILE`."""
    count_B = (history.event_code_BL != PAD).sum(1)
    numbers_B2 = np.stack([np.log1p(session_minutes(history)), np.log1p(count_B)], axis=1)
    return np.concatenate([genre_share(genre_IG, history), numbers_B2.astype(np.float32)], axis=1)


@dataclass(frozen=True, slots=True)
class ItemClock:
    """Popularity and mean rating of any item as they stood before any hour.

    One entry per item and hour with events, sorted by `key` = item_row · 2³² + hour. `popularity` is the exponentially decayed
    count at the end of that hour, `rating_sum` and `rating_count` run from the beginning.
    """

    key: np.ndarray
    popularity: np.ndarray
    rating_sum: np.ndarray
    rating_count: np.ndarray
    half_life_hours: float
    prior_rating: float
    prior_count: float = 5.0

    def before(self, item_row, hour):
        """(popularity, mean rating) of each item just before its hour began; float32, the shape of `item_row`,
        numpy or torch as the clock is.

        An item without ratings has the prior; one with few is drawn towards it by `prior_count` imagined ratings.
        """
        xp = array_namespace(item_row)
        if not len(self.key):
            zero = xp.zeros(item_row.shape, dtype=xp.float32, device=device_of(item_row))
            return zero, zero + self.prior_rating
        key = (item_row << 32) + hour
        entry = xp.searchsorted(self.key, key) - 1
        there = (entry >= 0) & (self.key[entry] >> 32 == item_row)
        elapsed = (key & 0xFFFFFFFF) - (self.key[entry] & 0xFFFFFFFF)
        decay = 2.0 ** (-(elapsed * there) / self.half_life_hours)  # where nothing is there, whatever stands beside it must not overflow
        zero = xp.zeros_like(decay)
        popularity = xp.where(there, self.popularity[entry] * decay, zero)
        ratings = xp.where(there, self.rating_count[entry], zero)
        total = xp.where(there, self.rating_sum[entry], zero) + self.prior_rating * self.prior_count
        return xp.astype(popularity, xp.float32), xp.astype(total / (ratings + self.prior_count), xp.float32)

    def to(self, move: Callable) -> "ItemClock":
        """The clock with each array moved by `move`: onto a training device, say."""
        arrays = (move(array) for array in (self.key, self.popularity, self.rating_sum, self.rating_count))
        return ItemClock(*arrays, self.half_life_hours, self.prior_rating, self.prior_count)

    def latest(self) -> "ItemClock":
        """Only each item's last entry: all that hours after the log can ask for."""
        if not len(self.key):
            return self
        last = np.append(self.key[1:] >> 32 != self.key[:-1] >> 32, True)
        return ItemClock(
            self.key[last], self.popularity[last], self.rating_sum[last], self.rating_count[last],
            self.half_life_hours, self.prior_rating, self.prior_count,
        )  # fmt: skip


def candidate_numbers(
    *,
    dot_BK: np.ndarray,
    item_row_BK: np.ndarray,
    history: PackedHistory,
    now_B: np.ndarray,
    clock: ItemClock,
    genre_IG: np.ndarray,
    tag_IT: np.ndarray,
    release_day_I: np.ndarray,
    duration_seconds_I: np.ndarray,
) -> np.ndarray:
    """What the ranker is told of each candidate beside its row: float32 (B, K, X) in the order of `NUMBERS`.

    `release_day_I` is days since 1970, NaN where unknown (an item of unknown age counts as a year old), `duration_seconds_I` seconds, NaN
    where unknown (told as 0, which no item lasts). Where the same candidates are
    asked about at the same time for all B, `item_row_BK` and `now_B` have one row: what depends on nothing else is found once.
    """
    hour_B1 = (now_B // HOUR_MS)[:, None]
    popularity_BK, rating_BK = clock.before(item_row_BK, np.broadcast_to(hour_B1, item_row_BK.shape))
    age_BK = np.nan_to_num((now_B // DAY_MS)[:, None] - release_day_I[item_row_BK], nan=365.0).clip(0)
    count_B1 = (history.event_code_BL != PAD).sum(1, keepdims=True)
    columns = (
        dot_BK,
        label_match(liked_count(genre_IG, history), genre_IG, item_row_BK),
        label_match(liked_count(tag_IT, history), tag_IT, item_row_BK),
        np.log1p(popularity_BK),
        rating_BK,
        np.log1p(age_BK),
        np.log1p(np.nan_to_num(duration_seconds_I[item_row_BK], nan=0.0)),
        np.log1p(count_B1),
    )
    number_BKX = np.empty((*dot_BK.shape, len(NUMBERS)), np.float32)
    for place, column in enumerate(columns):
        number_BKX[:, :, place] = column
    return number_BKX


def half_life_hours(half_life_days: float) -> float:
    """Hours in which a count loses half its weight.

    Raises:
        ValueError: not a positive finite number of days.
    """
    if not (math.isfinite(half_life_days) and half_life_days > 0):
        raise ValueError(f"half_life_days is {half_life_days}; expected a positive finite number of days")
    return half_life_days * 24
