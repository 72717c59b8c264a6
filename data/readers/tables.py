"""Your own logs: Parquet, CSV or Arrow files, and a map from their columns to ours.

Say you have `logs/2024-*.parquet` with columns `visitor, sku, action, at` and `films.csv` with `sku, name, genre`
("Drama|Crime"). Then this is all there is to do:

    python train.py data=tables \\
        'data.events=logs/2024-*.parquet' \\
        data.columns.user_id=visitor data.columns.item_id=sku \\
        data.columns.event_type=action data.columns.timestamp=at data.timestamp_unit=s \\
        data.items=films.csv \\
        data.item_columns.item_id=sku data.item_columns.title=name data.item_columns.genres=genre

or the same lines as a file of your own, `conf/data/mine.yaml`, beginning with `defaults: [tables, _self_]`.

Files.    `events` is required; `items`, `users` and `impressions` may stay null: users and items are then those of the
          log, without properties. Each is a file, a folder (all its data files, in order of name) or a glob. By their
          endings: .parquet .pq, .csv .tsv (with a header), .arrow .ipc .feather.
Columns.  `columns` maps events, `item_columns`, `user_columns` and `impression_columns` the others. The left side is
          our name (`data.schema` says what each means), the right side your column. null means "the same name, if it is
          there"; a column you name must be there. Columns nobody asked for are left alone, named in the log and counted.
Ids.      Text or whole numbers; both become text, and in CSV keep their leading zeros. The same thing must be spelt the
          same in every file. Ids stored as floats are refused.
Times.    `timestamp_unit` says what a number in `timestamp` counts: s, ms, us or ns since 1970 UTC. Text is read as a number too,
          unless the unit is `iso` (2024-05-01T12:30:00Z). Date and datetime columns need no unit; without a zone they are
          UTC. The span of the log is logged: 1970 there means that the unit is wrong.
Types.    `event_type` holds view, click, watch, complete, skip or rate. A file without such a column takes the constant
          `event_type` (click) for all its rows, counted as `events_given_the_constant_type`.
Lists.    genres, tags, sources and content_embedding are list columns, or text parted by `list_separator`.
Parts.    With your own `split` column (train, validation, test): `split=given data.columns.split=…`. Else by time.

What the tables say about an item is used at every time: an `avg_rating` or `popularity_score` computed over the whole log
knows the test, so leave such columns out or compute them before the cut.
"""

import glob
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from data import schema
from data.schema import Column, SchemaError, Tables

log = logging.getLogger(__name__)


# CSV is read as text: an id keeps its zeros, and a bad value is still there to be named.
FORMATS: Mapping[str, Callable[[Path], pl.LazyFrame]] = {
    ".parquet": partial(pl.scan_parquet, glob=False),
    ".pq": partial(pl.scan_parquet, glob=False),
    ".csv": partial(pl.scan_csv, infer_schema=False, glob=False),
    ".tsv": partial(pl.scan_csv, infer_schema=False, glob=False, separator="\t"),
    ".arrow": partial(pl.scan_ipc, glob=False),
    ".ipc": partial(pl.scan_ipc, glob=False),
    ".feather": partial(pl.scan_ipc, glob=False),
}
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
YEAR_9999_S = 253_402_300_799
TRUTH = {"true": True, "false": False, "1": True, "0": False}


def read(
    events: str | Path,
    items: str | Path | None = None,
    users: str | Path | None = None,
    impressions: str | Path | None = None,
    *,
    columns: Mapping[str, str | None] = {},
    item_columns: Mapping[str, str | None] = {},
    user_columns: Mapping[str, str | None] = {},
    impression_columns: Mapping[str, str | None] = {},
    timestamp_unit: str = "ms",
    event_type: str = "click",
    list_separator: str = "|",
) -> Tables:
    """Read tables through column maps; the module's own text says how each key is meant.

    Raises:
        FileNotFoundError: no file where one was named.
        SchemaError: a mapped column is absent, a value is wrong (by file, column and row), or a file cannot be read.
    """
    if timestamp_unit not in (*PER_SECOND, "iso"):
        raise SchemaError(f"data.timestamp_unit={timestamp_unit}: expected one of {', '.join(PER_SECOND)}, iso.")
    how = Conversion(timestamp_unit, event_type, list_separator)
    report: Counter[str] = Counter()
    tables = schema.check(
        _table(events, "events", schema.EVENTS, ColumnMap("columns", columns), how, report),
        None if items is None else _table(items, "items", schema.ITEMS, ColumnMap("item_columns", item_columns), how, report),
        None if users is None else _table(users, "users", schema.USERS, ColumnMap("user_columns", user_columns), how, report),
        None
        if impressions is None
        else _table(impressions, "impressions", schema.IMPRESSIONS, ColumnMap("impression_columns", impression_columns), how, report),
        source=str(events),
        sources={name: str(path) for name, path in (("items", items), ("users", users), ("impressions", impressions)) if path is not None},
        report=report,
    )
    time = tables.events["timestamp"]
    first, last = pl.from_epoch(pl.Series([time.min(), time.max()]), "ms")
    log.info("%s: %s events from %s to %s UTC", events, f"{len(time):,}", first, last)
    if last.year < 1990:
        log.warning("%s: the last event is of %s; is data.timestamp_unit=%s the unit of that column?", events, last.year, timestamp_unit)
    return tables


class ColumnMap(NamedTuple):
    """Our column names → the file's; `key` is what the map is called in the configuration."""

    key: str
    theirs: Mapping[str, str | None]


class Conversion(NamedTuple):
    """How values are to be read; the keys of the same names."""

    timestamp_unit: str
    event_type: str
    list_separator: str


def _table(path: str | Path, name: str, its: Mapping[str, Column], names: ColumnMap, how: Conversion, report: Counter[str]) -> pl.DataFrame:
    """One checked table out of one or many files; each file is checked alone, so that a bad row is named where it stands."""
    unknown = [ours for ours in names.theirs if ours not in its]
    if unknown:
        raise SchemaError(f"data.{names.key}.{unknown[0]}: {name} have no such column; expected one of {', '.join(its)}.")
    checked = []
    for file in _files(path, f"data.{name}"):
        frame = _mapped(file, its, names, report)
        if its is schema.EVENTS and "event_type" not in frame.columns:
            frame = frame.with_columns(event_type=pl.lit(how.event_type))
            report["events_given_the_constant_type"] += len(frame)
        called = {ours: theirs for ours, theirs in names.theirs.items() if theirs is not None}
        checked.append(schema.check_table(_converted(frame, its, how, file, called), its, table=name, source=str(file), called=called))
    return pl.concat(checked)


def _files(path: str | Path, key: str) -> list[Path]:
    """The data files of a file, folder or glob, by name; hidden files and `_SUCCESS` marks are no data."""
    path = Path(path)
    if path.is_dir():
        found = path.iterdir()
    elif path.exists():
        found = [path]
    else:
        found = (Path(name) for name in glob.glob(str(path), recursive=True))
    files = sorted(file for file in found if file.is_file() and not file.name.startswith((".", "_")))
    if not files:
        raise FileNotFoundError(
            f"{key}={path}: no file there; give a file, a folder of files or a glob (in quotes, so that the shell leaves it alone)."
        )
    for file in files:
        if file.suffix.lower() not in FORMATS:
            raise SchemaError(f"{file}: {key} reads {', '.join(FORMATS)}; convert the file or give a glob that leaves it out.")
    return files


def _mapped(file: Path, its: Mapping[str, Column], names: ColumnMap, report: Counter[str]) -> pl.DataFrame:
    """The file's columns under our names, and nothing else."""
    try:
        scan = FORMATS[file.suffix.lower()](file)
        there = scan.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as broken:
        raise SchemaError(f"{file}: cannot be read as {file.suffix[1:]}: {broken}") from broken
    present = f"Columns there: {', '.join(there) or 'none'}."
    wanted = {}
    for ours, column in its.items():
        theirs = names.theirs.get(ours)
        if theirs is not None and theirs not in there:
            raise SchemaError(f"{file} has no column {theirs!r}, which data.{names.key}.{ours} names. {present}")
        if (theirs or ours) in there:
            wanted[ours] = theirs or ours
        elif column.required and ours != "event_type":
            raise SchemaError(f"{file} has no column {ours!r}; say which one holds it by data.{names.key}.{ours}=…. {present}")
    unused = [name for name in there if name not in wanted.values()]
    if unused:
        log.info("%s: columns not used: %s (map one by data.%s.<name>=<column>)", file, ", ".join(unused), names.key)
    report[f"{names.key}_unused"] += len(unused)
    try:
        return scan.select(pl.col(theirs).alias(ours) for ours, theirs in wanted.items()).collect()
    except pl.exceptions.PolarsError as broken:
        raise SchemaError(f"{file}: cannot be read as {file.suffix[1:]}: {broken}") from broken


def _converted(frame: pl.DataFrame, its: Mapping[str, Column], how: Conversion, file: Path, called: Mapping[str, str]) -> pl.DataFrame:
    """Times to milliseconds, text to lists and truth values; whatever else is wrong is left for `check_table` to name."""
    changed = []
    for raw in frame:
        dtype, where = its[raw.name].dtype, f"{file}, column {schema.name_there(raw.name, called)}"
        if raw.name == "timestamp":
            changed.append(_milliseconds(raw, how.timestamp_unit, where))
        elif raw.dtype == pl.String and isinstance(dtype, pl.List):
            parts = raw.str.split(how.list_separator).list.eval(pl.element().str.strip_chars())
            changed.append(parts.list.eval(pl.element().filter(pl.element() != "")))
        elif raw.dtype == pl.String and dtype == pl.Boolean:
            truth = raw.str.to_lowercase().replace_strict(TRUTH, default=None, return_dtype=pl.Boolean)
            _refuse(raw, raw.is_not_null() & truth.is_null(), "true, false, 1 or 0", where)
            changed.append(truth)
    return frame.with_columns(changed)


def _milliseconds(raw: pl.Series, unit: str, where: str) -> pl.Series:
    if raw.dtype.is_temporal():
        if raw.dtype not in (pl.Date, pl.Datetime):
            raise SchemaError(f"{where} holds {raw.dtype}, expected a date, a datetime or a number.")
        return raw.cast(pl.Datetime("ms")).dt.epoch("ms") if raw.dtype == pl.Date else raw.dt.epoch("ms")
    if unit == "iso":
        if raw.dtype != pl.String:
            raise SchemaError(f"{where} holds {raw.dtype}, but data.timestamp_unit=iso reads text; say s, ms, us or ns.")
        # a time without a zone is UTC; a bare date is its midnight
        zoned = raw.str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00").str.replace(" ", "T", literal=True).str.replace(r"Z$", "+00:00")
        zoned = zoned.str.replace(r"(T[\d:.]+)$", "${1}+00:00")
        moment = zoned.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="ms", strict=False)
        _refuse(raw, raw.is_not_null() & moment.is_null(), "an ISO time such as 2024-05-01T12:30:00Z", where)
        return moment.dt.epoch("ms")
    if raw.dtype == pl.String:
        number = raw.cast(pl.Float64 if raw.str.contains(".", literal=True).any() else pl.Int64, strict=False)
    elif raw.dtype.is_numeric() or raw.dtype == pl.Null:
        number = raw
    else:
        raise SchemaError(f"{where} holds {raw.dtype}, expected a date, a datetime, a number or text.")
    bad = raw.is_not_null() & ~number.is_finite().fill_null(False)
    _refuse(raw, bad, f"a number of {unit} since 1970 UTC (set data.timestamp_unit to s, ms, us, ns or iso)", where)
    late = (number / PER_SECOND[unit] > YEAR_9999_S).fill_null(False)
    _refuse(raw, (number < 0).fill_null(False), "a time since 1970 UTC", where)
    _refuse(raw, late, f"a time before the year 10000: as {unit} it is not one, so set data.timestamp_unit", where)
    if number.dtype.is_float():
        return (number * (1000 / PER_SECOND[unit])).round().cast(pl.Int64, strict=False)
    whole = number.cast(pl.Int64)
    return whole * 1000 if unit == "s" else whole // (PER_SECOND[unit] // 1000)


def _refuse(raw: pl.Series, bad: pl.Series, expected: str, where: str) -> None:
    if bad.any():
        row = int(bad.arg_true()[0])
        raise SchemaError(f"{where}, row {row}: found {raw[row]!r}, expected {expected} ({bad.sum():,} such rows of {len(bad):,}).")
