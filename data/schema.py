"""The four tables every room speaks in, and the gate they pass through.

Events, Impressions, Items and Users are Polars frames with the columns below. `check` is the only way in: it names the
file, the column, the first bad row (counted from 0, header not counted), the value found and what was expected.
What may be wrong in honest data (duplicates, events of items nobody described) is removed, counted and reported.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

EVENT_TYPES = ("view", "click", "watch", "complete", "skip", "rate", "not_interested")
SPLITS = ("train", "validation", "test")


class SchemaError(ValueError):
    """A table is not what it must be. The message names file, column, row and remedy."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its dtype, whether it must be there, which values are right, and how to say so."""

    dtype: pl.DataType | type[pl.DataType]
    required: bool = False
    valid: Callable[[pl.Expr], pl.Expr] | None = None
    expected: str = ""


def _text(expr: pl.Expr) -> pl.Expr:
    return expr.str.len_bytes() > 0


def _at_least_zero(expr: pl.Expr) -> pl.Expr:
    return expr.is_finite() & (expr >= 0)


def _finite(expr: pl.Expr) -> pl.Expr:
    return expr.is_finite()


def _same_width(expr: pl.Expr) -> pl.Expr:
    return expr.list.eval(pl.element().is_finite()).list.all() & (expr.list.len() == expr.list.len().drop_nulls().first())


def _id(required: bool = True) -> Column:
    return Column(pl.String, required, _text, "a non-empty id")


def _seconds() -> Column:
    return Column(pl.Float32, valid=_at_least_zero, expected="seconds, finite and at least 0")


def _time() -> Column:
    return Column(pl.Int64, True, lambda e: e >= 0, "milliseconds since 1970 UTC, a whole number of at least 0")


EVENTS: Mapping[str, Column] = {
    "event_id": _id(required=False),
    "user_id": _id(),
    "item_id": _id(),
    "event_type": Column(pl.String, True, lambda e: e.is_in(EVENT_TYPES), f"one of {', '.join(EVENT_TYPES)}"),
    "watch_duration_seconds": _seconds(),
    "rating": Column(pl.Float32, valid=_finite, expected="a finite number"),
    "timestamp": _time(),
    "device": Column(pl.String),
    "region": Column(pl.String),
    "request_id": _id(required=False),
    "split": Column(pl.String, valid=lambda e: e.is_in(SPLITS), expected=f"one of {', '.join(SPLITS)}"),
}

IMPRESSIONS: Mapping[str, Column] = {
    "request_id": _id(),
    "item_id": _id(),
    "user_id": _id(),
    "position": Column(pl.Int32, True, lambda e: e >= 1, "a whole number; 1 is the top"),
    "sources": Column(pl.List(pl.String)),
    "propensity": Column(
        pl.Float64,
        valid=lambda e: e.is_finite() & (e > 0) & (e <= 1),
        expected="a probability in (0, 1], or nothing where the slot was decided without chance",
    ),
    "arm": Column(pl.String),
    "release": Column(pl.String),
    "timestamp": _time(),
    "device": Column(pl.String),
    "region": Column(pl.String),
    "clicked": Column(pl.Boolean),
    "completed": Column(pl.Boolean),
    "skipped": Column(pl.Boolean),
    "watch_duration_seconds": _seconds(),
}

ITEMS: Mapping[str, Column] = {
    "item_id": _id(),
    "title": Column(pl.String),
    "genres": Column(pl.List(pl.String)),
    "tags": Column(pl.List(pl.String)),
    "release_date": Column(pl.Date),
    "duration_seconds": _seconds(),
    "creator": Column(pl.String),
    "franchise": Column(pl.String),
    "regions": Column(pl.List(pl.String)),
    "maturity": Column(pl.Int16, valid=lambda e: (e >= 0) & (e <= 21), expected="an age in years from 0 to 21"),
    "content_embedding": Column(pl.List(pl.Float32), valid=_same_width, expected="a list of finite numbers, as long as the first row's"),
    "popularity_score": Column(pl.Float32, valid=_finite, expected="a finite number"),
    "avg_rating": Column(pl.Float32, valid=_finite, expected="a finite number"),
}

USERS: Mapping[str, Column] = {
    "user_id": _id(),
    "region": Column(pl.String),
    "subscription_tier": Column(pl.String),
    "birth_year": Column(pl.Int16, valid=lambda e: (e >= 1880) & (e <= 2100), expected="a year from 1880 to 2100"),
}


@dataclass(frozen=True, slots=True)
class Tables:
    """What a reader yields. Every frame has exactly its schema's columns, in the schema's order.

    `report` counts what was found and removed on the way in; whoever reads the tables shows it. Where events are not `timed`, their
    timestamps order each user's events and say nothing of two users.
    """

    events: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    impressions: pl.DataFrame
    report: Mapping[str, int] = field(default_factory=dict)
    timed: bool = True

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any value, column or row order of any table does."""
        return digest(self.events, self.items, self.users, self.impressions)


def digest(*frames: pl.DataFrame) -> str:
    """Sixteen hex digits that change when any value, column or row order of any frame does."""
    summed = hashlib.sha256()
    for frame in frames:
        buffer = io.BytesIO()
        # one chunk of plain buffers: the bytes then follow from the values and not from how the frame came about
        frame.rechunk().write_ipc(buffer, compression="uncompressed", compat_level=pl.CompatLevel.oldest())
        summed.update(buffer.getbuffer())
    return summed.hexdigest()[:16]


def user_digest(user_id: str) -> str:
    """What stands for a user in a list of the forgotten: SHA-256, which does not name them and is recognised where they are named."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def empty(columns: Mapping[str, Column]) -> pl.DataFrame:
    """A table of no rows with these columns."""
    return pl.DataFrame(schema={name: column.dtype for name, column in columns.items()})


def check_table(
    frame: pl.DataFrame, columns: Mapping[str, Column], *, table: str, source: str, called: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Cast `frame` to `columns`; columns that may be absent are added as nulls, unknown ones are refused.

    `table` is the table's name and `source` the file it came from; both stand in the message, and so does what a column is `called` there.

    Raises:
        SchemaError: with file, column, first bad row, value found and what was expected.
    """
    where = f"{source}: {table}"
    unknown = [name for name in frame.columns if name not in columns]
    if unknown:
        raise SchemaError(f"{where} has a column {unknown[0]!r} that is none of {', '.join(columns)}; rename or leave it out.")
    for name, column in columns.items():
        if column.required and name not in frame.columns:
            present = ", ".join(frame.columns) or "none"
            raise SchemaError(f"{where} has no column {name!r}; expected {column.expected}. Columns there: {present}.")
    series = [
        _check_column(frame[name], column, where=where, called=name_there(name, called or {}))
        if name in frame.columns
        else pl.Series(name, [], column.dtype).extend_constant(None, len(frame))
        for name, column in columns.items()
    ]
    return pl.DataFrame(series)


def name_there(name: str, called: Mapping[str, str]) -> str:
    """A column as its owner knows it, and as we do where that is another name: 'at' (our timestamp)."""
    return repr(name) if called.get(name, name) == name else f"{called[name]!r} (our {name})"


def _check_column(raw: pl.Series, column: Column, *, where: str, called: str) -> pl.Series:
    """`raw` as `column` wants it, or SchemaError at the first row that cannot be."""
    expected = column.expected or f"values of type {column.dtype}"
    if (trouble := _wrong_kind(raw.dtype, column.dtype)) is not None:
        raise SchemaError(f"{where}, column {called} holds {raw.dtype}, expected {expected}: {trouble}.")
    try:
        cast = raw.str.to_date(strict=False) if (raw.dtype, column.dtype) == (pl.String, pl.Date) else raw.cast(column.dtype, strict=False)
    except pl.exceptions.PolarsError as refused:
        raise SchemaError(f"{where}, column {called} holds {raw.dtype}, expected {expected}: {refused}.") from refused
    bad = raw.is_not_null() & cast.is_null()
    if raw.dtype.is_float() and column.dtype in (pl.Int16, pl.Int32, pl.Int64):
        bad |= raw != raw.floor()  # a cast would cut the fraction off without a word
    if raw.dtype.is_numeric() and column.dtype == pl.Boolean:
        bad |= ~raw.is_in([0, 1])
    if column.required:
        bad |= raw.is_null()
    if column.valid is not None:
        valid = cast.to_frame().select(column.valid(pl.col(cast.name))).to_series()
        bad |= cast.is_not_null() & ~valid.fill_null(False)
    if isinstance(column.dtype, pl.List):
        bad |= cast.list.eval(pl.element().is_null()).list.any().fill_null(False)
    bad = bad.fill_null(False)
    if bad.any():
        row = int(bad.arg_true()[0])
        found = raw[row].to_list() if isinstance(raw[row], pl.Series) else raw[row]
        raise SchemaError(
            f"{where}, column {called}, row {row}: found {found!r}, expected {expected} ({bad.sum():,} such rows of {len(bad):,})."
        )
    return cast


def _wrong_kind(found: pl.DataType, wanted: pl.DataType | type[pl.DataType]) -> str | None:
    """Why a cast that Polars would carry out is not what its owner means; None where it is."""
    if found == pl.Null:
        return None
    if wanted == pl.String and found.is_float():
        return "an id or a word as a float loses digits and gains '.0'; store it as integers or text"
    if found.is_nested() != (pl.List == wanted):
        return "a list belongs in a list column, one value in any other"
    if found.is_numeric() and wanted == pl.Date:
        return "a bare number would be read as days since 1970; store dates"
    if found.is_temporal() and wanted in (pl.Int16, pl.Int32, pl.Int64, pl.Float32, pl.Float64):
        return "its unit is not ours; convert it to UTC milliseconds first (`dt.epoch('ms')`)"
    return None


def check(
    events: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    impressions: pl.DataFrame | None = None,
    *,
    source: str,
    sources: Mapping[str, str] | None = None,
    report: Mapping[str, int] | None = None,
) -> Tables:
    """Check four tables together and count what does not fit. Messages name `source`, or what `sources` has for a table.

    Without `items` (or `users`) the table is made of the ids found in the logs. Events and impressions that repeat and
    those of items that `items` does not list are removed and counted in `Tables.report`. Reader's own counts come in by
    `report`.

    Raises:
        SchemaError: a table is wrong, an id of items or users stands twice, or no event is left.
    """
    counts: dict[str, int] = dict(report or {})
    of = dict.fromkeys(("events", "items", "users", "impressions"), source) | dict(sources or {})
    events = check_table(events, EVENTS, table="events", source=of["events"])
    log = (
        empty(IMPRESSIONS) if impressions is None else check_table(impressions, IMPRESSIONS, table="impressions", source=of["impressions"])
    )
    items = _or_ids(items, ITEMS, "item_id", "items", [events, log], of["items"])
    users = _or_ids(users, USERS, "user_id", "users", [events, log], of["users"])
    counts["events_read"] = len(events)
    counts["impressions_read"] = len(log)

    identified = events.filter(pl.col("event_id").is_not_null()).unique("event_id", keep="first", maintain_order=True)
    what = ["user_id", "item_id", "event_type", "timestamp", "watch_duration_seconds", "rating"]
    unnamed = events.filter(pl.col("event_id").is_null()).unique(what, keep="first", maintain_order=True)
    once = pl.concat([identified, unnamed]) if len(identified) else unnamed
    counts["events_duplicate"] = len(events) - len(once)
    known = once.join(items.select("item_id"), on="item_id", how="semi", maintain_order="left")
    counts["events_of_unknown_items"] = len(once) - len(known)

    log_once = log.unique(["request_id", "item_id", "position"], keep="first", maintain_order=True)
    counts["impressions_duplicate"] = len(log) - len(log_once)
    log_known = log_once.join(items.select("item_id"), on="item_id", how="semi", maintain_order="left")
    counts["impressions_of_unknown_items"] = len(log_once) - len(log_known)
    strangers = pl.concat([known["user_id"], log_known["user_id"]]).unique()
    strangers = strangers.to_frame().join(users.select("user_id"), on="user_id", how="anti")
    counts["users_without_a_row"] = len(strangers)

    if not len(known):
        cause = "the log is empty" if not len(events) else "none of its items is in the items table"
        raise SchemaError(f"{of['events']}: events has no row left to learn from: {cause} ({len(events):,} rows read).")
    return Tables(known, items, users, log_known, counts)


def _or_ids(
    frame: pl.DataFrame | None, columns: Mapping[str, Column], key: str, table: str, logs: list[pl.DataFrame], source: str
) -> pl.DataFrame:
    if frame is None:
        ids = pl.concat([log[key] for log in logs]).unique(maintain_order=True)
        return check_table(ids.to_frame(), columns, table=table, source=source)
    frame = check_table(frame, columns, table=table, source=source)
    twice = frame[key].is_duplicated()
    if twice.any():
        row = int(twice.arg_true()[0])
        raise SchemaError(
            f"{source}: {table}, column {key!r}, row {row}: {frame[key][row]!r} stands more than once, expected one row per id."
        )
    return frame
