"""What items did, hour by hour: narwhals expressions, the same on Polars and on Spark.

Time is int64 milliseconds throughout. An aggregate of hour h may be seen by rows of hour h + 1 and later, never by its own hour:
`item_clock` hands the table to `data.features.ItemClock`, which looks up the hour before.
"""

import narwhals as nw
import numpy as np
import polars as pl

from data.features import DAY_MS, HOUR_MS, ItemClock, half_life_hours

DAY_PARTS = 6
"""Parts of four hours that a day (UTC, as everywhere) is counted by."""


@nw.narwhalify
def item_hours(events: nw.LazyFrame) -> nw.LazyFrame:
    """One row per item and hour with events: `events`, `rating_sum`, `rating_count` of that hour alone, sorted by item and hour.

    `events` holds item_row, timestamp (ms UTC), rating (null or NaN where nothing was rated) and liked: `events` counts those, while a
    rating counts whatever it says.
    """
    rated = ~nw.col("rating").is_null() & ~nw.col("rating").cast(nw.Float64).is_nan()
    return (
        events.with_columns(
            hour=nw.col("timestamp") // HOUR_MS,
            one=nw.when(nw.col("liked")).then(nw.lit(1.0)).otherwise(nw.lit(0.0)),
            rated=nw.when(rated).then(nw.lit(1.0)).otherwise(nw.lit(0.0)),
            value=nw.when(rated).then(nw.col("rating").cast(nw.Float64)).otherwise(nw.lit(0.0)),
        )
        .group_by("item_row", "hour")
        .agg(nw.col("one").sum().alias("events"), nw.col("value").sum().alias("rating_sum"), nw.col("rated").sum().alias("rating_count"))
        .sort("item_row", "hour")
    )


@nw.narwhalify
def running(hours: nw.LazyFrame, *, half_life_hours: float) -> nw.LazyFrame:
    """`item_hours` with its counts run up: `popularity` decayed to the end of each hour, ratings summed since the beginning.

    Σ cⱼ·2^((hⱼ−h)/λ) for j ≤ now is 2^((h₀−h)/λ) · Σ cⱼ·2^((hⱼ−h₀)/λ), a running sum that needs no loop. h₀ is the item's first hour.
    """
    first = nw.col("hour").min().over("item_row")
    hours = hours.with_columns(elapsed=(nw.col("hour") - first).cast(nw.Float64) / half_life_hours)
    hours = hours.with_columns(growth=(nw.col("elapsed") * float(np.log(2.0))).exp())
    hours = hours.with_columns(weighted=nw.col("events") * nw.col("growth"))
    return hours.with_columns(
        nw.col("weighted").cum_sum().over("item_row", order_by="hour").alias("run"),
        nw.col("rating_sum").cum_sum().over("item_row", order_by="hour").alias("rating_sum"),
        nw.col("rating_count").cum_sum().over("item_row", order_by="hour").alias("rating_count"),
    ).with_columns(popularity=nw.col("run") / nw.col("growth"))


def item_clock(events: pl.DataFrame, *, half_life_days: float, prior_rating: float) -> ItemClock:
    """The clock of all items over `events` (as of `item_hours`); an item's span may be at most 1,000 half-lives.

    `prior_rating` is what an item without ratings is taken to have; its caller knows which events it may be the mean of.

    Raises:
        ValueError: the half-life is so short that 2^(span / half-life) leaves float64.
    """
    half_life = half_life_hours(half_life_days)
    hours = item_hours(events.lazy())
    table = running(hours, half_life_hours=half_life).sort("item_row", "hour").collect()
    if len(table) and (longest := table["elapsed"].max()) > 1000:
        raise ValueError(
            f"half_life_days={half_life_days} is too short for this log: an item's events span {longest:,.0f} half-lives, 1,000 is the most"
        )
    return ItemClock(
        key=(table["item_row"].cast(pl.Int64).to_numpy() << 32) + table["hour"].cast(pl.Int64).to_numpy(),
        popularity=table["popularity"].to_numpy(),
        rating_sum=table["rating_sum"].to_numpy(),
        rating_count=table["rating_count"].to_numpy(),
        half_life_hours=half_life,
        prior_rating=prior_rating,
    )


def day_part(timestamp):
    """Which of the `DAY_PARTS` of a day a moment (ms UTC) lies in: 0 from midnight on. Numbers, arrays and narwhals expressions alike."""
    return timestamp // (DAY_MS // DAY_PARTS) % DAY_PARTS


@nw.narwhalify
def region_counts(events: nw.LazyFrame, *, as_of: int, short_half_life_days: float, long_half_life_days: float) -> nw.LazyFrame:
    """One row per region and item with liked events there: `short` and `long`, the count decayed to `as_of` (ms UTC) at two speeds.

    Rows whose region is null count everywhere: all events, whether their region is known or not. `events` holds item_row, timestamp,
    region (or null) and liked. Sorted by region, null first, and item.
    """
    liked = events.filter(nw.col("liked")).with_columns(
        _decayed(as_of, short_half_life_days).alias("short"), _decayed(as_of, long_half_life_days).alias("long")
    )
    summed = [nw.col("short").sum(), nw.col("long").sum()]
    there = liked.filter(~nw.col("region").is_null()).group_by("region", "item_row").agg(*summed)
    everywhere = liked.group_by("item_row").agg(*summed).with_columns(region=nw.lit(None, nw.String))
    names = ("region", "item_row", "short", "long")
    return nw.concat([everywhere.select(*names), there.select(*names)]).sort("region", "item_row")


@nw.narwhalify
def day_part_counts(events: nw.LazyFrame, *, as_of: int, half_life_days: float) -> nw.LazyFrame:
    """One row per item and part of the day (`day_part`) with liked events then: `count`, decayed to `as_of` (ms UTC). `events` as above."""
    liked = events.filter(nw.col("liked")).with_columns(
        day_part(nw.col("timestamp")).alias("part"), _decayed(as_of, half_life_days).alias("count")
    )
    return liked.group_by("part", "item_row").agg(nw.col("count").sum()).sort("part", "item_row")


def _decayed(as_of: int, half_life_days: float) -> nw.Expr:
    """2^((t − as_of) / half-life) of each event."""
    half_lives = (nw.col("timestamp") - as_of).cast(nw.Float64) / (half_life_hours(half_life_days) * HOUR_MS)
    return (half_lives * float(np.log(2.0))).exp()
