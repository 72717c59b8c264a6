"""Lists of ids, one user a line: `user item item item …`, separated by blanks.

Two shapes of the same format: a train and a test file as they were given (Gowalla in the LightGCN papers), or one file of
time-ordered sequences (the Amazon and Yelp files of S3-Rec and SASRec). Neither holds a time, so an event's `timestamp` is
its place in the user's list (0, 1, 2 …); a user's test events go on counting where the train events ended. It orders
the events of one user and says nothing about two users: split such data `given` or `last_out`, never by time.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from data.schema import SchemaError, Tables, check

NOT_AN_ID = r"[,;\"\x00-\x1f\x7f]"


def read_lists(train: str | Path, test: str | Path) -> Tables:
    """Read a train and a test file of `user item item …`; `events.split` says which file an event came from.

    Users with an empty list are users without events, counted as `users_with_an_empty_train_list` (or `test`).

    Raises:
        FileNotFoundError: no such file.
        SchemaError: an empty file, or a bad line, by file and line number.
    """
    train_lists, test_lists = _lines(train, "data.train"), _lines(test, "data.test")
    ended = train_lists.select("user_id", first=pl.col("items").list.len().cast(pl.Int64))
    test_lists = test_lists.join(ended, on="user_id", how="left", maintain_order="left").with_columns(pl.col("first").fill_null(0))
    events = pl.concat(
        [
            _events(train_lists.with_columns(first=pl.lit(0, pl.Int64))).with_columns(split=pl.lit("train")),
            _events(test_lists).with_columns(split=pl.lit("test")),
        ]
    )
    users = pl.concat([train_lists, test_lists.drop("first")]).select("user_id").unique(maintain_order=True)
    report = {
        "users_with_an_empty_train_list": train_lists.filter(pl.col("items").list.len() == 0).height,
        "users_with_an_empty_test_list": test_lists.filter(pl.col("items").list.len() == 0).height,
    }
    return replace(check(events, users=users, source=f"{train} and {test}", report=report), timed=False)


def read_sequences(path: str | Path) -> Tables:
    """Read one file of `user item item …`, each user's items in the order of time.

    Users with an empty list are users without events, counted as `users_with_an_empty_list`.

    Raises:
        FileNotFoundError: no such file.
        SchemaError: an empty file, or a bad line, by file and line number.
    """
    lists = _lines(path, "data.path")
    report = {"users_with_an_empty_list": lists.filter(pl.col("items").list.len() == 0).height}
    events = _events(lists.with_columns(first=pl.lit(0, pl.Int64)))
    return replace(check(events, users=lists.select("user_id"), source=str(path), report=report), timed=False)


def _lines(path: str | Path, key: str) -> pl.DataFrame:
    """One row a line: user_id, items (list of ids)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; set {key}=… to a file of lines `user item item …`, or DATA_ROOT where it is named.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as broken:
        line = broken.object[: broken.start].count(b"\n") + 1
        raise SchemaError(f"{path}, line {line}: not UTF-8 text, expected ids separated by blanks.") from broken
    if not text.strip():
        raise SchemaError(f"{path}: the file is empty, expected lines `user item item …`.")
    line = pl.Series("line", text.rstrip().split("\n"), dtype=pl.String).str.replace_all("\t", " ", literal=True).str.strip_chars()
    _refuse(line, line == "", path, "an empty line", "a user id, then item ids")
    _refuse(
        line,
        line.str.contains(NOT_AN_ID),
        path,
        "a comma, semicolon, quote or control character",
        "ids separated by blanks (data=tables reads CSV)",
    )
    words = line.str.replace_all(" {2,}", " ").str.split(" ")
    lists = pl.DataFrame({"user_id": words.list.first(), "items": words.list.slice(1)})
    _refuse(line, ~lists["user_id"].is_first_distinct(), path, "a user who has a line above", "one line per user")
    return lists


def _refuse(line: pl.Series, bad: pl.Series, path: Path, found: str, expected: str) -> None:
    if bad.any():
        first = int(bad.arg_true()[0])
        raise SchemaError(
            f"{path}, line {first + 1}: found {found} in {line[first][:80]!r}, expected {expected} ({bad.sum():,} such lines)."
        )


def _events(lists: pl.DataFrame) -> pl.DataFrame:
    """One row an item: user_id, item_id, event_type, timestamp = `first` + place in the list."""
    return (
        lists.with_columns(timestamp=pl.int_ranges(pl.col("first"), pl.col("first") + pl.col("items").list.len().cast(pl.Int64)))
        .filter(pl.col("items").list.len() > 0)
        .explode("items", "timestamp")
        .select("user_id", item_id="items", event_type=pl.lit("click"), timestamp="timestamp")
    )
