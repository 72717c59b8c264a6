"""The best of what is counted, ranked ahead of any request: what is trending, popular by time of day, and worth exploring.

Shapes: N items counted · C parts of the day · I catalogue.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from data.features import DAY_MS
from serve.trends import Decayed, Exposure, Trends

DEEPEST = 1_000
PRIOR_EVENTS = 5.0  # added to what is expected of an item, so that one event of an item nobody expected is no trend
ROUNDING = 1e-9  # of a count: more than sums of the same events in another order differ by, so that no surplus is a rounding error
PRIOR_PART = 20.0  # events an item needs before its own hours say as much as everybody's


@dataclass(frozen=True, slots=True)
class Pool:
    """Which items may be explored: those of the last `new_days` days and the `rare` least exposed of all."""

    new_days: float = 30.0
    rare: int = 25


@dataclass(frozen=True, slots=True)
class Tops:
    """Item rows (int64, at most `DEEPEST`), best first: `trending` by region (None is everywhere), `popular` by part of the day, `explore`.

    All follow from `trends` alone, so the same events give the same tops whenever and in whatever order they were counted.
    """

    trending: Mapping[str | None, np.ndarray]
    popular: tuple[np.ndarray, ...]
    explore: np.ndarray
    trends: Trends
    pool: Pool

    @classmethod
    def of(cls, trends: Trends, pool: Pool = Pool()) -> Self:
        """Rank everything."""
        now = trends.hour_end
        ranked = {region: trending(counted, now) for region, counted in trends.regions.items()}
        return cls(ranked, popular(trends.day_parts, now), explore(trends.exposure, now, pool), trends, pool)

    def after(self, trends: Trends) -> Self:
        """The tops of `trends`, where what did not change since these is not ranked again."""
        before, now = self.trends, trends.hour_end
        same_hour = before.hour_end == now
        ranked = {
            region: self.trending[region] if same_hour and before.regions.get(region) is counted else trending(counted, now)
            for region, counted in trends.regions.items()
        }
        parts = self.popular if before.day_parts is trends.day_parts else popular(trends.day_parts, now)
        same_day = before.hour_end // DAY_MS == now // DAY_MS
        seldom = self.explore if same_day and before.exposure is trends.exposure else explore(trends.exposure, now, self.pool)
        return Tops(ranked, parts, seldom, trends, self.pool)


def trending(counted: Decayed, now: int) -> np.ndarray:
    """Items taken up more than their own habit: by z = (s − e) / √(e + `PRIOR_EVENTS`), where it is above 0.

    s is the item's short count at `now`, and e = Σs · l / Σl what it would be if its share of the long count l had stayed: what is always
    popular is expected to be. z is near a standard normal of a Poisson count with mean e, so large items need more than small ones.
    """
    short_N, long_N = counted.worth(now)
    expected_N = long_N / max(long_N.sum(), np.finfo(np.float64).tiny) * short_N.sum()
    surplus_N = short_N - expected_N
    surplus_N[surplus_N < ROUNDING * short_N] = 0
    return best(counted.item_row_N, surplus_N / np.sqrt(expected_N + PRIOR_EVENTS))


def popular(counted: Decayed, now: int) -> tuple[np.ndarray, ...]:
    """Items most taken up lately, for each part c of the day: by n·(nᶜ + κπᶜ) / (n + κ).

    nᶜ is the item's decayed count in that part, n = Σ nᶜ, and πᶜ = (Nᶜ + 1) / (N + C) that part's share of everybody's. An item with many
    more events than κ = `PRIOR_PART` goes by its own count at that time of day, nᶜ; one with few by its overall count, n·πᶜ. Never an item
    nobody took up.
    """
    count_CN = counted.worth(now)
    count_N, total_C = count_CN.sum(0), count_CN.sum(1)
    share_C1 = ((total_C + 1) / (total_C.sum() + len(total_C)))[:, None]

    def score(place_M: np.ndarray) -> np.ndarray:
        return count_N[place_M] * (count_CN[:, place_M] + PRIOR_PART * share_C1) / (count_N[place_M] + PRIOR_PART)

    place_M = np.arange(len(count_N))
    if len(place_M) > DEEPEST:  # no score is above n, so an n below what `DEEPEST` others score leads nowhere
        place_M = np.flatnonzero(count_N >= score(np.argpartition(-count_N, DEEPEST)[:DEEPEST]).min() * (1 - ROUNDING))
    return tuple(best(counted.item_row_N[place_M], score_M) for score_M in score(place_M))


def explore(exposure: Exposure, now: int, pool: Pool) -> np.ndarray:
    """The pool's least exposed items first, the newest first among equals. Chance has no part in it: it enters where a slot draws."""
    key_I = (exposure.count_I << 32) + exposure.place_I
    least = _smallest(key_I, np.flatnonzero(exposure.count_I >= 0), pool.rare)
    new = _smallest(key_I, np.flatnonzero(exposure.day_I >= now // DAY_MS - pool.new_days), DEEPEST)
    both = np.unique(np.concatenate([least, new]))
    return _smallest(key_I, both, DEEPEST)


def best(item_row_N: np.ndarray, score_N: np.ndarray) -> np.ndarray:
    """The `DEEPEST` items of the highest scores above 0, the lower row first among equals.

    Scores are compared as float32: sums of the same events in another order differ in the sixteenth digit, and that is no difference.
    """
    score_N = score_N.astype(np.float32)
    deepest = np.arange(len(score_N))
    if len(score_N) > DEEPEST:
        least = np.partition(score_N, -DEEPEST)[-DEEPEST]
        deepest = np.flatnonzero(score_N >= least)
    deepest = deepest[score_N[deepest] > 0]
    return item_row_N[deepest[np.argsort(-score_N[deepest], kind="stable")]][:DEEPEST]


def _smallest(key_I: np.ndarray, item_row_N: np.ndarray, count: int) -> np.ndarray:
    if len(item_row_N) > count:
        item_row_N = item_row_N[np.argpartition(key_I[item_row_N], count)[:count]]
    return item_row_N[np.argsort(key_I[item_row_N])]
