"""Film ratings as GroupLens publishes them: `ratings.csv movies.csv tags.csv`, and the older `ratings.dat movies.dat`.

A rating becomes an event of type `rate`, its second a millisecond. "Toy Story (1995)" becomes the title "Toy Story" and
the release date 1995-01-01 (the year is all that is known); a title without a year stays as it is.
"""

import hashlib
import http.client
import io
import logging
import os
import re
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import polars as pl

from data.schema import SchemaError, Tables, check

ARCHIVE_URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
FOLDER = "ml-latest-small"
# A year, or the years of a series ("2006–2007", "2011–"), in brackets at the very end.
YEAR = r"\s*\(((?:18|19|20)\d\d)(?:\s?[-–]\s?(?:\d{4})?)?\)\s*$"
log = logging.getLogger(__name__)


class DownloadError(OSError):
    """The archive could not be had, or is not what its publisher says. The message says what to do instead."""


def read_csv_layout(path: str | Path | None = None, *, url: str = ARCHIVE_URL, tags_before_ms: int | None = None) -> Tables:
    """Read `ratings.csv`, `movies.csv` and, if there, `tags.csv`.

    `path` is the folder that holds them or the parent of a folder `ml-latest-small`; without one the archive at `url` is
    downloaded once to `$XDG_CACHE_HOME/towers` (or `~/.cache/towers`) and held against the sum published at `url` + ".md5".
    An item's tags are in lower case, the most given first. They carry the time they were given at, and a split by time
    must not know later ones: `tags_before_ms` leaves those out (counted as `tags_left_out`).

    Raises:
        FileNotFoundError: `path` holds no such files.
        DownloadError: the archive cannot be fetched, or its sum is not the published one.
        SchemaError: a value is wrong, by file, column and row.
    """
    folder = _downloaded(url) if path is None else _folder(Path(path), "ratings.csv", FOLDER)
    ratings = _csv(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"])
    movies = _csv(folder / "movies.csv", ["movieId", "title", "genres"])
    items = _items(movies, folder / "movies.csv")
    report = {"tags_read": 0, "tags_left_out": 0}
    if (folder / "tags.csv").exists():
        tags = _csv(folder / "tags.csv", ["movieId", "tag", "timestamp"]).drop_nulls("tag")
        at = _milliseconds(tags["timestamp"], folder / "tags.csv")
        kept = tags if tags_before_ms is None else tags.filter(at < tags_before_ms)
        report = {"tags_read": len(tags), "tags_left_out": len(tags) - len(kept)}
        items = items.join(_tags_by_item(kept), on="item_id", how="left", maintain_order="left")
    sources = {"events": str(folder / "ratings.csv"), "items": str(folder / "movies.csv")}
    return check(_events(ratings, folder / "ratings.csv"), items, source=str(folder), sources=sources, report=report)


def read_dat_layout(path: str | Path | None, *, folder: str = "movietweetings-100k", encoding: str = "utf-8") -> Tables:
    """Read `ratings.dat` and `movies.dat`, fields parted by `::` and no header (MovieTweetings, MovieLens 100K+ of old).

    `path` is the folder that holds them or the parent of one called `folder`. MovieLens 1M and 10M need
    `encoding=latin-1`. `users.dat` is not read: it holds the users' accounts elsewhere, which nothing here may learn from.

    Raises:
        FileNotFoundError: `path` holds no such files.
        SchemaError: a line or value is wrong, by file and line or file, column and row.
    """
    if path is None:
        raise FileNotFoundError(f"No path to {folder}: set DATA_ROOT to the folder that holds it, or pass data.path=…")
    there = _folder(Path(path), "ratings.dat", folder)
    ratings = _dat(there / "ratings.dat", ["userId", "movieId", "rating", "timestamp"], encoding)
    movies = _dat(there / "movies.dat", ["movieId", "title", "genres"], encoding)
    sources = {"events": str(there / "ratings.dat"), "items": str(there / "movies.dat")}
    return check(_events(ratings, there / "ratings.dat"), _items(movies, there / "movies.dat"), source=str(there), sources=sources)


def _folder(path: Path, file: str, name: str) -> Path:
    for folder in (path, path / name):
        if (folder / file).is_file():
            return folder
    raise FileNotFoundError(
        f"Neither {path / file} nor {path / name / file} is there; set DATA_ROOT or data.path to a folder that holds one."
    )


def _csv(path: Path, columns: list[str]) -> pl.DataFrame:
    """All columns as text: ids keep their zeros, and a bad value is still there to be named."""
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except FileNotFoundError as missing:
        raise FileNotFoundError(f"{path} is missing; the layout is ratings.csv, movies.csv, tags.csv.") from missing
    except pl.exceptions.PolarsError as broken:
        raise SchemaError(f"{path}: not a CSV file with a header {','.join(columns)}: {broken}") from broken
    for name in columns:
        if name not in frame.columns:
            raise SchemaError(f"{path} has no column {name!r}; expected {', '.join(columns)}. Columns there: {', '.join(frame.columns)}.")
    return frame.select(columns)


def _dat(path: Path, columns: list[str], encoding: str) -> pl.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the layout is ratings.dat, movies.dat.")
    try:
        text = path.read_text(encoding=encoding)
    except UnicodeDecodeError as broken:
        line = broken.object[: broken.start].count(b"\n") + 1
        raise SchemaError(f"{path}, line {line}: not {encoding} text; MovieLens 1M and 10M need data.encoding=latin-1.") from broken
    if not text.strip():
        raise SchemaError(f"{path}: the file is empty, expected lines of {'::'.join(columns)}.")
    line = pl.Series("line", text.rstrip().split("\n"), dtype=pl.String).str.strip_chars_end("\r")
    fields = line.str.split("::")
    bad = fields.list.len() != len(columns)
    if bad.any():
        first = int(bad.arg_true()[0])
        raise SchemaError(
            f"{path}, line {first + 1}: found {line[first][:80]!r}, expected {'::'.join(columns)} ({bad.sum():,} such lines)."
        )
    return fields.list.to_struct(fields=columns).struct.unnest()


def _milliseconds(second: pl.Series, path: Path) -> pl.Series:
    whole = second.cast(pl.Int64, strict=False)
    bad = whole.is_null() | (whole < 0).fill_null(False)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise SchemaError(f"{path}, column 'timestamp', row {row}: found {second[row]!r}, expected whole seconds since 1970 UTC.")
    return whole * 1000


def _events(ratings: pl.DataFrame, path: Path) -> pl.DataFrame:
    return ratings.select(
        user_id="userId", item_id="movieId", event_type=pl.lit("rate"), rating="rating", timestamp=_milliseconds(ratings["timestamp"], path)
    )


def _items(movies: pl.DataFrame, path: Path) -> pl.DataFrame:
    title = movies["title"].fill_null("")
    bare = title.str.replace(YEAR, "")
    genres = movies["genres"].fill_null("").str.split("|").list.eval(pl.element().filter(~pl.element().is_in(["", "(no genres listed)"])))
    return movies.select(
        item_id="movieId",
        title=pl.when(bare != "").then(bare).otherwise(title),
        genres=genres,
        release_date=pl.date(title.str.extract(YEAR).cast(pl.Int32), 1, 1),
    )


def _tags_by_item(tags: pl.DataFrame) -> pl.DataFrame:
    """item_id, tags: its different tags, those given most often first, then by the alphabet."""
    return (
        tags.select(item_id="movieId", tags=pl.col("tag").str.strip_chars().str.to_lowercase())
        .filter(pl.col("tags") != "")
        .group_by("item_id", "tags")
        .len("given")
        .sort(["item_id", "given", "tags"], descending=[False, True, False])
        .group_by("item_id", maintain_order=True)
        .agg("tags")
    )


def _downloaded(url: str) -> Path:
    """The folder in the cache, fetched, checked and unpacked on first use; it appears whole or not at all."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "towers"
    if (cache / FOLDER / "ratings.csv").is_file():
        return cache / FOLDER
    cache.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s to %s", url, cache)
    archive, published = _fetched(url), _fetched(url + ".md5").decode("ascii", "replace")
    sums = re.findall(r"\b[0-9a-fA-F]{32}\b", published)
    if len(sums) != 1:
        raise DownloadError(f"{url}.md5 holds {len(sums)} MD5 sums, expected one; pass data.path=… to a copy you trust.")
    found = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    if found != sums[0].lower():
        raise DownloadError(
            f"{url}: its MD5 sum is {found}, expected {sums[0].lower()} as published beside it; try again or pass data.path=…"
        )
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        unpacked = Path(scratch, FOLDER)
        unpacked.mkdir()
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as members:
                for name in ("ratings.csv", "movies.csv", "tags.csv"):
                    (unpacked / name).write_bytes(members.read(f"{FOLDER}/{name}"))
        except (zipfile.BadZipFile, KeyError) as broken:
            raise DownloadError(f"{url}: not a zip of {FOLDER}/ratings.csv, movies.csv, tags.csv ({broken}); pass data.path=…") from broken
        try:
            os.replace(unpacked, cache / FOLDER)
        except OSError:
            if not (cache / FOLDER / "ratings.csv").is_file():  # another process may have been first: its copy is as good
                raise
    return cache / FOLDER


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()
    except (OSError, http.client.HTTPException, ValueError) as failed:
        raise DownloadError(
            f"Tried to fetch {url}: {failed!r}. Download and unpack it by hand, then pass data.path=<that folder> or set DATA_ROOT."
        ) from failed
