"""What a user did, as bytes: how a history is kept, joined from two tellings, and read from a release.

An event told again (same item, type and timestamp) takes the place of the earlier telling, so that events which went into training and came
back in the next release do not count double.

Shapes: L history length · E events of many users · U users.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from data.features import EVENT_TYPE_CODE
from serve.contract import History

USERS_AT_ONCE = 50_000
HEADER_BYTES = 8
LISTS = {"item_id": pl.String, "event_type": pl.UInt8, "rating": pl.Float32, "timestamp": pl.Int64}
NOTHING = History((), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
CODES = tuple(EVENT_TYPE_CODE.values())
EXPORT_AGAIN = "export the release again"


class StoreError(Exception):
    """The store, or a file to be loaded into it, cannot be used. The message names the place, the cause and the remedy."""


class Seen(NamedTuple):
    """One event as a history keeps it: `code` of `data.features.EVENT_TYPE_CODE`, `rating` NaN where there is none."""

    timestamp: int
    item_id: str
    code: int
    rating: float

    @classmethod
    def of(cls, timestamp: int, item_id: str, event_type: str, rating: float | None) -> "Seen":
        """From the words of the events table."""
        return cls(timestamp, item_id, EVENT_TYPE_CODE[event_type], math.nan if rating is None else rating)


def union(known: Iterable[Seen], told: Iterable[Seen], *, length: int) -> list[Seen]:
    """The last `length` events of a history and of those told since, each in order of arrival; ordered by (timestamp, arrival).

    What is told takes the place of the latest equal event, if there is one. `known` stays as it is, twins included, for so it was trained
    on. union(union(a, b), c) = union(a, b + c): a history may be kept event by event or built from all of them.
    """
    merged = list(known)
    present = {event[:3] for event in merged}
    for event in told:
        if event[:3] in present:
            del merged[max(place for place, earlier in enumerate(merged) if earlier[:3] == event[:3])]
        present.add(event[:3])
        merged.append(event)
    return sorted(merged, key=lambda event: event.timestamp)[-length:]


def pack(seen: Sequence[Seen]) -> bytes:
    """One blob: the count, int64 timestamps, float32 ratings, uint8 codes, and the item ids joined by NUL."""
    timestamp_L, item_ids, code_L, rating_L = zip(*seen, strict=True)
    return _packed(np.array(timestamp_L, "<i8"), np.array(rating_L, "<f4"), np.array(code_L, "u1"), "\0".join(item_ids))


def unpack(packed: bytes) -> History:
    """What `pack` packed, in read-only arrays; about 5 µs for 50 events, as nothing is parsed but the ids.

    Raises:
        ValueError: it is something else.
    """
    count = int.from_bytes(packed[:HEADER_BYTES], "little")
    item_ids = tuple(packed[HEADER_BYTES + 13 * count :].decode().split("\0"))
    if len(item_ids) != count:
        raise ValueError(f"{len(item_ids)} ids for {count} events")
    code_L = np.frombuffer(packed, "u1", count, HEADER_BYTES + 12 * count).astype(np.int64)
    code_L.flags.writeable = False
    rating_L = np.frombuffer(packed, "<f4", count, HEADER_BYTES + 8 * count)
    return History(item_ids, code_L, rating_L, np.frombuffer(packed, "<i8", count, HEADER_BYTES))


def _packed(timestamp_L: np.ndarray, rating_L: np.ndarray, code_L: np.ndarray, ids: str) -> bytes:
    header = len(timestamp_L).to_bytes(HEADER_BYTES, "little")
    return b"".join((header, timestamp_L.tobytes(), rating_L.tobytes(), code_L.tobytes(), ids.encode()))


def remembered(history: History) -> Iterator[Seen]:
    """The events of a history, oldest first."""
    columns = (history.timestamp_L.tolist(), history.item_ids, history.event_type_L.tolist(), history.rating_L.tolist())
    return itertools.starmap(Seen, zip(*columns, strict=True))


def joined(base: History, told: Sequence[Seen], *, length: int) -> History:
    """The `union` of a history and of what was told since, both in order of time, where only the stretch that both reach is looked at
    event by event."""
    if not told:
        return base
    apart = int(np.searchsorted(base.timestamp_L, told[0].timestamp))  # all before it is older than anything told
    tail = History(base.item_ids[apart:], base.event_type_L[apart:], base.rating_L[apart:], base.timestamp_L[apart:])
    mixed = union(remembered(tail), told, length=length)
    timestamp_L, item_ids, code_L, rating_L = zip(*mixed, strict=True)
    head = slice(max(apart + len(mixed) - length, 0), apart)
    return History(
        base.item_ids[head] + item_ids,
        np.concatenate((base.event_type_L[head], np.array(code_L, np.int64))),
        np.concatenate((base.rating_L[head], np.array(rating_L, np.float32))),
        np.concatenate((base.timestamp_L[head], np.array(timestamp_L, np.int64))),
    )


def read_parquet(path: Path, *, offset: int = 0, rows: int | None = None) -> pl.DataFrame:
    """Some or all rows of a Parquet file.

    Raises:
        StoreError: it is missing or cannot be read.
    """
    try:
        return pl.scan_parquet(path).slice(offset, rows).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); {EXPORT_AGAIN}") from error


def read_histories(path: Path, *, length: int) -> Iterator[list[tuple[str, bytes]]]:
    """(user_id, packed) of every user of histories.parquet who did anything, the last `length` events; 50,000 users at a time.

    Raises:
        StoreError: the file cannot be read, or a list is missing, of another type, of another length, or not in order of time.
    """
    for offset in itertools.count(0, USERS_AT_ONCE):
        frame = read_parquet(path, offset=offset, rows=USERS_AT_ONCE)
        if not len(frame):
            return
        missing = [name for name in ("user_id", *LISTS) if name not in frame.columns]
        if missing:
            raise StoreError(f"{path}: no column {missing[0]!r}; {EXPORT_AGAIN}")
        try:
            frame = frame.select("user_id", *(pl.col(name).cast(pl.List(dtype)) for name, dtype in LISTS.items()))
        except pl.exceptions.PolarsError as error:
            raise StoreError(f"{path}: a list is not of the type it must be ({error}); {EXPORT_AGAIN}") from error
        yield _pack_all(frame, path, length)


def _pack_all(frame: pl.DataFrame, path: Path, length: int) -> list[tuple[str, bytes]]:
    """Whole columns at a time: a list is cut out of its column as bytes, and never made a list of Python's."""
    counts = frame.select(pl.col(name).list.len() for name in LISTS)
    uneven = counts.select(~pl.all_horizontal(pl.all() == pl.col("item_id")).fill_null(False)).to_series()
    if uneven.any():
        user_id = frame["user_id"][int(uneven.arg_true()[0])]
        raise StoreError(f"{path}: the lists of user {user_id!r} differ in length; {EXPORT_AGAIN}")
    frame = frame.filter(pl.col("item_id").list.len() > 0).with_columns(pl.col(name).list.tail(length) for name in LISTS)
    flat = frame.select(*LISTS).explode(*LISTS).with_columns(pl.col("rating").fill_null(math.nan))
    nul = flat["item_id"].str.contains("\0", literal=True).any()
    if flat.null_count().sum_horizontal()[0] or nul or not flat["event_type"].is_in(CODES).all():
        raise StoreError(f"{path}: an item or a time is missing, an id holds a NUL, or a type is none of {CODES}; {EXPORT_AGAIN}")
    count_U = frame["item_id"].list.len().to_numpy().astype(np.int64)
    end_U = count_U.cumsum()
    timestamp_E, rating_E, code_E = (flat[name].to_numpy() for name in ("timestamp", "rating", "event_type"))
    if not np.isin(np.flatnonzero(np.diff(timestamp_E) < 0) + 1, end_U).all():
        raise StoreError(f"{path}: a history is not in order of time; {EXPORT_AGAIN}")
    cuts = zip(frame["user_id"], frame["item_id"].list.join("\0"), (end_U - count_U).tolist(), end_U.tolist(), strict=True)
    return [(user_id, _packed(timestamp_E[start:end], rating_E[start:end], code_E[start:end], ids)) for user_id, ids, start, end in cuts]
