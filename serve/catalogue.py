"""What may be shown, item row by item row: what a release sealed, and behind it the items that were posted since.

Readers take no lock. A writer (one at a time, `Release.add` sees to it) fills everything of a row before anything tells that the row is
there, and tells its id last: under the GIL, whoever finds a row finds all of it.

Shapes: I catalogue · G genres · R rows with room for items to come · K candidates · N items added.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import polars as pl

from data.features import Vocabulary, multi_hot
from data.schema import ITEMS, Column

POSTED = ITEMS | {"posted_at": Column(pl.Int64, True, lambda e: e >= 0, "milliseconds since 1970 UTC")}
"""The columns of an item that came after the release: those of `ITEMS`, and when it was posted."""
REGIONS_KEPT = 1_000


class CatalogueFull(ValueError):
    """There is no room for so many items more. The message says how much there is."""


class Words:
    """Words to numbers from 0, in the order of their first sight; `words[number]` is the way back."""

    def __init__(self) -> None:
        self.words: list = []
        self._number: dict = {}

    def numbers(self, values: Iterable) -> np.ndarray:
        """int64, −1 for None. A word not seen before gets the next number."""
        return np.fromiter((-1 if value is None else self._of(value) for value in values), np.int64)

    def _of(self, value: object) -> int:
        number = self._number.get(value)
        if number is None:
            self.words.append(value)
            number = self._number[value] = len(self.words) - 1
        return number


class Catalogue:
    """Arrays have R rows, of which the first `len(catalogue)` hold items; lists have just those. All are read and never written outside.

    `titles` has the id of an item without one. `genre_IG` is float32 0 or 1; `release_day_I` float64 days since 1970 and
    `duration_seconds_I` float32, NaN where it is not known; `maturity_I` int16 years, 0 where it is not known; `creator_I` and
    `franchise_I` int64 numbers of `creators.words` and `franchises.words`, −1 where there is none; `posted_at_I` int64 ms UTC, −1 for
    what the release sealed.
    """

    def __init__(self, frame: pl.DataFrame, genres: Vocabulary, *, room: int = 0) -> None:
        """The catalogue of a table whose rows are the item rows, with `room` for items to come."""
        capacity = len(frame) + room
        self.sealed_count = len(frame)
        self.item_ids: list[str] = []
        self.titles: list[str] = []
        self.row_of: dict[str, int] = {}
        self.genre_IG = np.zeros((capacity, len(genres.words)), np.float32)
        self.release_day_I = np.full(capacity, np.nan)
        self.duration_seconds_I = np.full(capacity, np.nan, np.float32)
        self.maturity_I = np.zeros(capacity, np.int16)
        self.creator_I, self.franchise_I = np.full(capacity, -1), np.full(capacity, -1)
        self.posted_at_I = np.full(capacity, -1)
        self.creators, self.franchises = Words(), Words()
        self._genres = genres
        self._region_sets, self._region_set_I = Words(), np.full(capacity, -1)
        self._sealed, self._posted = frame, frame.clear().with_columns(posted_at=pl.lit(None, pl.Int64))
        self.frame = frame
        self._open_to = lru_cache(REGIONS_KEPT)(self._which_sets)
        self._write(frame, slice(0, len(frame)))
        self.titles += frame["title"].fill_null(frame["item_id"]).to_list()
        self.item_ids += frame["item_id"].to_list()
        self.row_of |= {item_id: row for row, item_id in enumerate(self.item_ids)}

    def __len__(self) -> int:
        """How many items there are now."""
        return len(self.item_ids)

    @property
    def room(self) -> int:
        """How many items more can be added."""
        return len(self.posted_at_I) - len(self.item_ids)

    def rows(self, item_ids: Iterable[str]) -> np.ndarray:
        """One int64 row for each id, −1 where the catalogue does not know it: the caller counts those."""
        return np.fromiter((self.row_of.get(item_id, -1) for item_id in item_ids), np.int64)

    def available(self, item_row_K: np.ndarray, region: str | None) -> np.ndarray:
        """bool (K): whether each item may be shown in `region`. An item that names no regions may everywhere, and is all that may where the
        region is not known."""
        set_K = self._region_set_I[item_row_K]  # first: a set is there before a row names it
        return self._open_to(region, len(self._region_sets.words))[set_K]  # the last entry is found by −1, an item without regions

    def bears(self, genre: str, item_row_K: np.ndarray) -> np.ndarray:
        """bool (K): whether each item is of this genre; none is of one that the release does not know."""
        number = int(self._genres.rows([genre])[0]) - 1
        return self.genre_IG[item_row_K, number] > 0 if number >= 0 else np.zeros(len(item_row_K), bool)

    def posted_since(self, ms: int) -> np.ndarray:
        """Rows, int64, of the items that were posted at or after `ms` (UTC)."""
        count = len(self.item_ids)
        return self.sealed_count + np.flatnonzero(self.posted_at_I[self.sealed_count : count] >= ms)

    def posted(self, item_id: str) -> dict[str, object] | None:
        """The columns of `POSTED` of an item that was posted, None where none was by this id."""
        row = self.row_of.get(item_id, -1)  # before the table, which has a row before it is told
        return self._posted.row(row - self.sealed_count, named=True) if row >= self.sealed_count else None

    def place(self, item_ids: Sequence[str]) -> np.ndarray:
        """The rows (int64, N) that posted items will have: their own where they were posted before, else the next ones.

        Raises:
            CatalogueFull: there is not that much room.
            ValueError: an id stands twice or is one of the sealed items, which stay as they are.
        """
        row_N = self.rows(item_ids)
        if len(set(item_ids)) < len(item_ids):
            raise ValueError("an item stands twice among those to add")
        if ((row_N >= 0) & (row_N < self.sealed_count)).any():
            sealed = item_ids[int(np.argmax((row_N >= 0) & (row_N < self.sealed_count)))]
            raise ValueError(f"item {sealed!r} is one of the sealed catalogue")
        new_N = row_N < 0
        if new_N.sum() > self.room:
            raise CatalogueFull(f"has room for {self.room:,} items more, {new_N.sum():,} are to be added")
        row_N[new_N] = len(self.item_ids) + np.arange(new_N.sum())
        return row_N

    def write(self, items: pl.DataFrame, row_N: np.ndarray) -> None:
        """Fill the rows that `place` gave to these items (columns of `POSTED`). Nobody finds a new one by its id until `tell`."""
        self._write(items, row_N)
        self.posted_at_I[row_N] = items["posted_at"].to_numpy()
        titles = items["title"].fill_null(items["item_id"]).to_list()
        count = len(self.item_ids)
        # both tables before a row can be asked for: `posted` and `frame` never know fewer items than `row_of`
        place_P = np.arange(len(self._posted) + (row_N >= count).sum())
        place_P[row_N - self.sealed_count] = len(self._posted) + np.arange(len(items))
        self._posted = pl.concat([self._posted, items.select(self._posted.columns)])[place_P]
        self.frame = pl.concat([self._sealed, self._posted.drop("posted_at")])
        for row, item_id, title in sorted(zip(row_N.tolist(), items["item_id"].to_list(), titles, strict=True)):
            if row < count:
                self.titles[row] = title
            else:
                self.titles.append(title)
                self.item_ids.append(item_id)

    def tell(self, item_ids: Sequence[str], row_N: np.ndarray) -> None:
        """From now on these items are found by their ids."""
        self.row_of.update(zip(item_ids, row_N.tolist(), strict=True))

    def _write(self, items: pl.DataFrame, row_N: np.ndarray | slice) -> None:
        self.genre_IG[row_N] = multi_hot(items["genres"], self._genres)
        self.release_day_I[row_N] = items["release_date"].cast(pl.Int32).cast(pl.Float64).fill_null(float("nan")).to_numpy()
        self.duration_seconds_I[row_N] = items["duration_seconds"].fill_null(float("nan")).to_numpy()
        self.maturity_I[row_N] = items["maturity"].fill_null(0).to_numpy()
        self.creator_I[row_N] = self.creators.numbers(items["creator"])
        self.franchise_I[row_N] = self.franchises.numbers(items["franchise"])
        sets = (None if regions is None else frozenset(regions) for regions in items["regions"].to_list())
        self._region_set_I[row_N] = self._region_sets.numbers(sets)

    def _which_sets(self, region: str | None, count: int) -> np.ndarray:
        """bool (sets + 1): which of the first `count` sets of regions hold `region`; the last is no set, which holds all."""
        return np.array([*(region in regions for regions in self._region_sets.words[:count]), True])
