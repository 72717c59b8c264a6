"""Erasing a user from all that serving keeps, and saying what could not be erased."""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from data.schema import user_digest
from serve.store import Store

FORGOTTEN = "forgotten.txt"


def forget(user_id: str, store: Store, folders: Sequence[Path], *, releases: Path, forgotten: Path) -> dict[str, int]:
    """Erase a user; what was erased and what still holds them, each with a count.

    "store: events" and so on are what the store erased; "<path>" is a Parquet file under one of `folders` that was rewritten without the
    user's rows; "still held: <path>" is a file of a release, sealed and therefore left as it is. Those users the store does not load again,
    and the digest in `forgotten` keeps them out of the next training (`data.readers.continued`), so that no later release holds them.
    Erasing again finds nothing. Safe to repeat after a kill: the digest is written first, each file replaced in one step.

    Raises:
        StoreError: the store does not answer; files are erased all the same when it is asked again.
    """
    _remember(user_id, forgotten)
    counts = {f"store: {name}": count for name, count in store.forget(user_id).items()}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.parquet")):
        if rows := _erase(user_id, path):
            counts[str(path)] = rows
    for path in sorted([*releases.glob("*/histories.parquet"), *releases.glob("*/users.parquet")]):
        if not path.parent.is_symlink() and (rows := _rows_of(user_id, path)):
            counts[f"still held: {path}"] = rows
    return counts


def _remember(user_id: str, forgotten: Path) -> None:
    told = user_digest(user_id)
    if forgotten.is_file() and told in forgotten.read_text().split():
        return
    forgotten.parent.mkdir(parents=True, exist_ok=True)
    with forgotten.open("a") as file:
        file.write(f"{told}\n")
        file.flush()
        os.fsync(file.fileno())


def _erase(user_id: str, path: Path) -> int:
    rows = _rows_of(user_id, path)
    if rows:
        passing = path.with_name(f".{path.name}-{os.getpid()}")
        pl.scan_parquet(path).filter(pl.col("user_id") != user_id).collect().write_parquet(passing)
        passing.replace(path)
    return rows


def _rows_of(user_id: str, path: Path) -> int:
    table = pl.scan_parquet(path)
    if "user_id" not in table.collect_schema().names():
        return 0
    return table.filter(pl.col("user_id") == user_id).select(pl.len()).collect().item()
