"""Small logs for tests: hand-made events, and the log of a small world."""

import functools

import polars as pl

from data.log import Log, read_log
from data.schema import Tables, check
from data.split import Split, by_time
from tests.worlds import SMALL_MILD, TINY, simulated


def tables(rows: list[tuple], items: pl.DataFrame | None = None) -> Tables:
    """Tables of (user, item, event_type, timestamp in ms[, rating])."""
    columns = ("user_id", "item_id", "event_type", "timestamp", "rating")
    frame = pl.DataFrame([dict(zip(columns, (*row, None)[:5], strict=True)) for row in rows], schema_overrides={"rating": pl.Float32})
    return check(frame, items, source="a test")


@functools.cache
def tiny() -> tuple[Split, Log]:
    """The tiniest world, split by time."""
    split = by_time(simulated(TINY)[0])
    return split, read_log(split)


@functools.cache
def small() -> tuple[Split, Log]:
    """A world of which something can be learnt in a second."""
    split = by_time(simulated(SMALL_MILD)[0])
    return split, read_log(split)
