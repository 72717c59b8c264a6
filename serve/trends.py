"""What people take up lately, and what they were shown: the counts of a release and all that came since, as immutable values.

An event of time t weighs 2^((t − t₀) / half-life), t₀ being when the release's log ended. So a later event adds its weight to a sum, no
other event's weight changes, and no order of arrival matters: counting live comes to what counting all at once comes to.

Shapes: N items counted · C columns · E events · I catalogue.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from data.aggregates import DAY_PARTS, day_part
from data.features import DAY_MS, HOUR_MS
from serve.manifest import Manifest, ReleaseError

# A weight leaves float64 at 2^1023; before it gets near, t₀ moves on by whole half-lives, which changes no digit of any count.
MOST_HALF_LIVES = 500


@dataclass(frozen=True, slots=True)
class Decayed:
    """Decayed counts of distinct items in C columns. `item_row_N` is sorted, `count_CN` float64; in column c an event of time t weighs
    2^((t − at_C[c]) / half_life_ms_C[c])."""

    item_row_N: np.ndarray
    count_CN: np.ndarray
    at_C: np.ndarray
    half_life_ms_C: np.ndarray

    @classmethod
    def of(cls, item_row_N: np.ndarray, count_CN: np.ndarray, *, at: int, half_life_days_C: Sequence[float]) -> Self:
        """Counts as of `at` (ms UTC), of items that may come in any order but each once."""
        order = np.argsort(item_row_N, kind="stable")
        half_life_ms_C = np.array([round(days * DAY_MS) for days in half_life_days_C], np.int64)
        count_CN = np.ascontiguousarray(count_CN[:, order], np.float64)
        return cls(item_row_N[order].astype(np.int64), count_CN, np.full(len(half_life_ms_C), at, np.int64), half_life_ms_C)

    @classmethod
    def nothing(cls, like: Self) -> Self:
        """No item yet, in columns like those of `like`."""
        return replace(like, item_row_N=like.item_row_N[:0], count_CN=like.count_CN[:, :0])

    def add(self, item_row_E: np.ndarray, timestamp_E: np.ndarray, share_EC: np.ndarray) -> Self:
        """With more events, of which event e counts `share_EC[e, c]` times in column c."""
        if not len(item_row_E):
            return self
        ahead_C = (int(timestamp_E.max()) - self.at_C) // self.half_life_ms_C
        step_C = np.where(ahead_C > MOST_HALF_LIVES, ahead_C, 0)
        at_C = self.at_C + step_C * self.half_life_ms_C
        weight_EC = share_EC * np.exp2((timestamp_E[:, None] - at_C) / self.half_life_ms_C)
        distinct_M = np.unique(item_row_E)
        new_M = distinct_M[~self._holds(distinct_M)]
        place_M = np.searchsorted(self.item_row_N, new_M)
        item_row_N = np.insert(self.item_row_N, place_M, new_M)
        count_CN = np.insert(self.count_CN, place_M, 0.0, axis=1)
        if step_C.any():
            count_CN = np.ldexp(count_CN, -step_C[:, None])
        np.add.at(count_CN.T, np.searchsorted(item_row_N, item_row_E), weight_EC)
        return replace(self, item_row_N=item_row_N, count_CN=count_CN, at_C=at_C)

    def worth(self, now: int) -> np.ndarray:
        """The counts decayed to `now` (ms UTC, after every event): float64 (C, N)."""
        return self.count_CN * np.exp2((self.at_C - now) / self.half_life_ms_C)[:, None]

    def _holds(self, item_row_M: np.ndarray) -> np.ndarray:
        place_M = np.searchsorted(self.item_row_N, item_row_M).clip(max=max(len(self.item_row_N) - 1, 0))
        return self.item_row_N[place_M] == item_row_M if len(self.item_row_N) else np.zeros(len(item_row_M), bool)


@dataclass(frozen=True, slots=True)
class Exposure:
    """How often each item was shown, int64 (I,), −1 in a row that holds no item; the day it was released or posted, days since 1970 as
    float64 with NaN where unknown; and its place among all by that day, the newest 0, the lower row first among equals."""

    count_I: np.ndarray
    day_I: np.ndarray
    place_I: np.ndarray

    @classmethod
    def of(cls, count_I: np.ndarray, day_I: np.ndarray) -> Self:
        """Places follow from the days."""
        place_I = np.empty(len(day_I), np.int64)
        place_I[np.lexsort((np.arange(len(day_I)), -np.nan_to_num(day_I, nan=-np.inf)))] = np.arange(len(day_I))
        return cls(count_I, day_I, place_I)

    def holds(self, item_row_E: np.ndarray) -> np.ndarray:
        """Which rows hold an item that is counted here: bool (E)."""
        within_E = (item_row_E >= 0) & (item_row_E < len(self.count_I))
        return within_E & (self.count_I[np.where(within_E, item_row_E, 0)] >= 0)

    def shown(self, item_row_E: np.ndarray) -> Self:
        """Each of these rows (which hold items) shown once more."""
        return replace(self, count_I=self.count_I + np.bincount(item_row_E, minlength=len(self.count_I)))

    def posted(self, item_row_P: np.ndarray, day_P: np.ndarray) -> Self:
        """With items new in these rows, never shown. An item posted again keeps its count and its first day."""
        more = max(int(item_row_P.max(initial=-1)) + 1 - len(self.count_I), 0)
        count_I = np.concatenate([self.count_I, np.full(more, -1)])
        day_I = np.concatenate([self.day_I, np.full(more, np.nan)])
        new_P = count_I[item_row_P] < 0
        count_I[item_row_P[new_P]], day_I[item_row_P[new_P]] = 0, day_P[new_P]
        return Exposure.of(count_I, day_I)


@dataclass(frozen=True, slots=True)
class Trends:
    """All counts at one moment. `regions` maps a region, or None for everywhere, to counts with columns short and long; `day_parts` has a
    column for each part of the day. `log_end` and `shown_end` are when (ms UTC) the release's events and its record of what was shown
    ended: only what came later is added. `newest` is the time of the newest event; `words` the regions that are told apart.
    """

    regions: Mapping[str | None, Decayed]
    day_parts: Decayed
    exposure: Exposure
    log_end: int
    shown_end: int
    newest: int
    words: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, *, release_day_I: np.ndarray, words: Sequence[str]) -> Self:
        """Read what export wrote of a release: trends.json, trends.parquet, day_parts.parquet and exposure.npy.

        Raises:
            ReleaseError: a file is missing, cut short, or does not go with the catalogue.
        """
        told = _read(folder, "trends.json", lambda path: json.loads(path.read_bytes()))
        by_region = _read(folder, "trends.parquet", pl.read_parquet)
        by_part = _read(folder, "day_parts.parquet", pl.read_parquet)
        count_I = _read(folder, "exposure.npy", np.load)
        for file, rows in (("trends.parquet", by_region["item_row"]), ("day_parts.parquet", by_part["item_row"])):
            if len(rows) and not 0 <= rows.min() <= rows.max() < manifest.item_count:
                raise ReleaseError(folder, file, f"counts item row {rows.max()} of {manifest.item_count} items")
        if count_I.shape != (manifest.item_count,):
            raise ReleaseError(folder, "exposure.npy", f"has shape {count_I.shape}, expected ({manifest.item_count},)")
        days, at = told["half_life_days"], told["log_end"]
        regions = {None: Decayed.of(np.zeros(0, np.int64), np.zeros((2, 0)), at=at, half_life_days_C=(days["short"], days["long"]))}
        for (region,), table in by_region.partition_by("region", as_dict=True).items():
            count_CN = table.select("short", "long").to_numpy().T
            regions[region] = Decayed.of(
                table["item_row"].to_numpy(), count_CN, at=at, half_life_days_C=(days["short"], days["long"])
            )  # fmt: skip
        item_row_N, place = np.unique(by_part["item_row"].to_numpy(), return_inverse=True)
        part_CN = np.zeros((DAY_PARTS, len(item_row_N)))
        part_CN[by_part["part"].to_numpy(), place] = by_part["count"].to_numpy()
        day_parts = Decayed.of(item_row_N, part_CN, at=at, half_life_days_C=[days["popular"]] * DAY_PARTS)
        exposure = Exposure.of(count_I, release_day_I)
        return cls(regions, day_parts, exposure, at, told["shown_end"], at, tuple(words))

    @property
    def hour_end(self) -> int:
        """When (ms UTC) the hour of the newest event ends: the moment that everything is counted as of."""
        return (self.newest // HOUR_MS + 1) * HOUR_MS

    @property
    def last_hour(self) -> int:
        """The hour (since 1970 UTC) after the last of the release's log, whatever came since."""
        return self.log_end // HOUR_MS + 1

    def taken_up(self, item_row_E: np.ndarray, timestamp_E: np.ndarray, region_E: np.ndarray) -> Self:
        """With more liked events, all after `log_end`. `region_E` is of objects: what is none of `words` counts everywhere and nowhere
        else."""
        if not len(item_row_E):
            return self
        both_E = np.ones((len(item_row_E), 2))
        regions = dict(self.regions) | {None: self.regions[None].add(item_row_E, timestamp_E, both_E)}
        for region in set(region_E.tolist()) & set(self.words):
            here_E = region_E == region
            counted = regions.get(region, Decayed.nothing(self.regions[None]))
            regions[region] = counted.add(item_row_E[here_E], timestamp_E[here_E], both_E[here_E])
        part_EC = np.eye(DAY_PARTS)[day_part(timestamp_E)]
        day_parts = self.day_parts.add(item_row_E, timestamp_E, part_EC)
        return replace(self, regions=regions, day_parts=day_parts, newest=max(self.newest, int(timestamp_E.max())))


def _read(folder: Path, file: str, read):
    try:
        return read(folder / file)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ReleaseError(folder, file, f"cannot be read ({error})") from error
