"""A log, and what was logged since: the tables some other reader yields, and the folders that serving wrote after them.

    _target_: data.readers.continued.read
    base: {_target_: data.readers.tables.read, …}   # any other reader's configuration
    folders: [state/retrain/20261125-030000/logs]   # what `python -m serve retrain` wrote, oldest first
    forgotten: state/retrain/forgotten.txt          # SHA-256 of the ids of users that were to be forgotten, a line each

A folder holds any of events.parquet, impressions.parquet and items.parquet, with the columns of `data.schema`. An item that is there
already is replaced by what was told of it later; events told twice are removed and counted, as everywhere, by `data.schema.check`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from data.impressions import with_outcomes
from data.schema import EVENTS, IMPRESSIONS, ITEMS, Column, SchemaError, Tables, check, check_table, empty, user_digest

ANY_WIDTH = ITEMS | {"content_embedding": replace(ITEMS["content_embedding"], valid=None)}


def read(base: Tables, folders: Sequence[str], *, forgotten: str | None = None, liked_from: float = float("-inf")) -> Tables:
    """`base` continued by `folders`. Of a slate in them, what came of it is what the events tell that bear its request_id, by
    `data.impressions.with_outcomes`: a rating of `liked_from` or more is as good as a click. Users in the file `forgotten` are left out of
    everything, and counted.

    Raises:
        SchemaError: a folder is missing, or a table in it is not what it must be.
    """
    events = pl.concat([base.events, *(_table(folder, "events", EVENTS) for folder in folders)])
    shown = pl.concat([empty(IMPRESSIONS), *(_table(folder, "impressions", IMPRESSIONS) for folder in folders)])
    items = pl.concat([base.items, *(_table(folder, "items", ANY_WIDTH) for folder in folders)])
    items, report = _of_one_width(items)
    report |= {f"base_{name}": count for name, count in base.report.items()}
    report["items_told_again"] = len(items) - items["item_id"].n_unique()
    tables = {
        "events": events,
        "items": items.unique("item_id", keep="last").join(_order(items), on="item_id").sort("order").drop("order"),
        "users": base.users,
        "impressions": pl.concat([base.impressions, with_outcomes(shown, events, liked_from=liked_from)]),
    }
    if forgotten is not None and Path(forgotten).is_file():
        tables, report["users_forgotten"] = _without(tables, set(Path(forgotten).read_text().split()))
    return check(**tables, source=", ".join(["the base of data.readers.continued", *folders]), report=report)


def read_without_slates(base: Tables, folders: Sequence[str], *, forgotten: str | None = None, liked_from: float = float("-inf")) -> Tables:
    """`read`, with no slate at all: for a ranker, which learns from slates alone where there are any, while the days it learns from have
    none. Raises as `read`."""
    tables = read(base, folders, forgotten=forgotten, liked_from=liked_from)
    return replace(tables, impressions=empty(IMPRESSIONS), report={**tables.report, "impressions_left_out": len(tables.impressions)})


def _table(folder: str, name: str, columns: Mapping[str, Column]) -> pl.DataFrame:
    path = Path(folder) / f"{name}.parquet"
    if not Path(folder).is_dir():
        raise SchemaError(f"{folder}: no such folder; data.folders names what `python -m serve retrain` wrote, keep it whole.")
    if not path.is_file():
        return empty(columns)
    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{path}: cannot be read ({error}); take the folder out of data.folders, or restore it.") from error
    return check_table(frame, columns, table=name, source=str(path))


def _of_one_width(items: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Embeddings that are not as wide as the first one were made by another model: they are left out, and counted."""
    embedding = pl.col("content_embedding")
    width = embedding.list.len()
    kept = items.with_columns(pl.when(width == width.drop_nulls().first()).then(embedding).alias("content_embedding"))
    return kept, {"embeddings_of_another_width": kept["content_embedding"].null_count() - items["content_embedding"].null_count()}


def _order(items: pl.DataFrame) -> pl.DataFrame:
    """Where each item was first told of: an item keeps its place when it is told of again."""
    return items.select("item_id").with_row_index("order").unique("item_id", keep="first")


def _without(tables: dict[str, pl.DataFrame], digests: set[str]) -> tuple[dict[str, pl.DataFrame], int]:
    of_users = ("events", "users", "impressions")
    user_ids = pl.concat([tables[name]["user_id"] for name in of_users]).unique()
    gone = user_ids.filter([user_digest(user_id) in digests for user_id in user_ids])
    return tables | {name: tables[name].filter(~pl.col("user_id").is_in(gone.implode())) for name in of_users}, len(gone)
