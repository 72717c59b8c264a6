"""Short videos as KuaiRand publishes them (Gao et al., CIKM 2022, arXiv 2208.10696): `log_*.csv`, `video_features_basic_*.csv`,
`user_features_*.csv`. What the files hold counts, whatever span their names promise.

Impressions. KuaiRand names no request and no place on a page, and 99 rows in 100 stand alone in their millisecond. So every row is a
    request of its own and its position is 1: estimators that compare positions have nothing to compare, and an order within a group is an
    order of one user's rows. `clicked` is is_click, `completed` is long_view, watched is play_time_ms, which runs on as a video loops.
    `skipped`: begun, left within `skip_seconds` and not clicked; null where nothing was played (a cover that was passed over).
    `device` is the tab, the surface that the video was shown on. Rows of is_rand = 1, videos drawn at random, have the arm "random", all
    others "standard"; neither has a propensity, for the log tells none.
Events.  One of each row that was played, clicked or hated, known when it ended: time_ms + play_time_ms. Its type is the most it came to:
    not_interested (is_hate), complete, click, skip, else view. What was clicked has the rating 1 where the user liked, followed,
    forwarded or commented, else 0; so an item's mean rating is the share of its viewers who did.
Items.  Genres are the topic ids of `tag`; tags are the kinds of video, upload and music and the shape of the picture. The statistics file
    is not read: it sums over the whole log, and so knows the test.
Users.  `user_active_degree` stands in for a subscription tier, which the data lack: both say how close somebody is to the house. It is one
    snapshot for the whole log.
"""

from pathlib import Path

import polars as pl

from data.schema import SchemaError, Tables, check

LOG = (
    "user_id", "video_id", "time_ms", "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view",
    "play_time_ms", "is_rand", "tab",
)  # fmt: skip
VIDEO = (
    "video_id", "author_id", "video_type", "upload_dt", "upload_type", "video_duration", "server_width", "server_height", "music_type",
    "tag",
)  # fmt: skip
USER = ("user_id", "user_active_degree")
NUMBERS = ("time_ms", "play_time_ms", "video_duration", "server_width", "server_height", "music_type")
FLAGS = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "is_rand")
VOICED = ("is_like", "is_follow", "is_forward", "is_comment")


def read(path: str | Path | None, *, layout: str = "pure", folder: str = "kuairand-pure", skip_seconds: float = 3.0) -> Tables:
    """Read every `log_*_{layout}.csv` beside `video_features_basic_{layout}.csv` and `user_features_{layout}.csv`.

    `path` is the folder that holds them or the parent of one called `folder`. Rows that repeat one above in every column are dropped and
    counted as `rows_duplicate`; then those of the same user, video and millisecond (logged again an hour on), as `rows_of_one_moment`.

    Raises:
        FileNotFoundError: `path` is not given, or holds no such files.
        SchemaError: a column is missing, or a value is wrong, by file, column and row.
    """
    if path is None:
        raise FileNotFoundError(f"No path to {folder}: set DATA_ROOT to the folder that holds it, or pass data.path=…")
    there = _there(Path(path), folder, f"video_features_basic_{layout}.csv")
    logs = sorted(there.glob(f"log_*_{layout}.csv"))
    if not logs:
        raise FileNotFoundError(
            f"{there} holds no log_*_{layout}.csv, as log_standard_4_22_to_5_08_{layout}.csv; add one or pass data.path=…"
        )
    read_rows = pl.concat([_csv(file, LOG, whole_rows=True) for file in logs])
    once = read_rows.unique(maintain_order=True)
    rows = once.unique(["user_id", "video_id", "time_ms"], keep="first", maintain_order=True)
    report = {"rows_read": len(read_rows), "rows_duplicate": len(read_rows) - len(once), "rows_of_one_moment": len(once) - len(rows)}
    videos, people = there / f"video_features_basic_{layout}.csv", there / f"user_features_{layout}.csv"
    source = ", ".join(file.name for file in logs)
    sources = {"items": str(videos), "users": str(people), "events": f"{there}: {source}", "impressions": f"{there}: {source}"}
    rows = _told(rows, skip_seconds)
    users = _csv(people, USER).select("user_id", subscription_tier="user_active_degree")
    return check(
        _events(rows), _items(_csv(videos, VIDEO)), users, _impressions(rows), source=str(there), sources=sources, report=report
    )  # fmt: skip


def _there(path: Path, folder: str, file: str) -> Path:
    for candidate in (path, path / folder):
        if (candidate / file).is_file():
            return candidate
    raise FileNotFoundError(
        f"Neither {path / file} nor {path / folder / file} is there; set DATA_ROOT or data.path to a folder that holds one."
    )


def _csv(path: Path, columns: tuple[str, ...], *, whole_rows: bool = False) -> pl.DataFrame:
    """Text, but for numbers and flags. With `whole_rows` a column `row` tells rows apart by all that the file says of them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the layout is log_*.csv, video_features_basic_*.csv and user_features_*.csv.")
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as broken:
        raise SchemaError(f"{path}: not a CSV file with a header {','.join(columns)}: {broken}") from broken
    for name in columns:
        if name not in frame.columns:
            raise SchemaError(f"{path} has no column {name!r}; expected {', '.join(columns)}. Columns there: {', '.join(frame.columns)}.")
    row = [pl.concat_str(pl.all().fill_null(""), separator=",").alias("row")] if whole_rows else []
    frame = frame.select(*columns, *row)
    return frame.with_columns(_number(frame[name], path) for name in columns if name in NUMBERS + FLAGS)


def _number(text: pl.Series, path: Path) -> pl.Series:
    number = text.cast(pl.Float64, strict=False)
    flag = text.name in FLAGS
    bad = (text.is_not_null() & number.is_null()) | (flag & ~number.is_in([0.0, 1.0])) | (number < 0)
    if text.name in LOG:
        bad |= text.is_null()
    bad = bad.fill_null(False)
    if bad.any():
        row = int(bad.arg_true()[0])
        expected = "0 or 1" if flag else "a number of at least 0"
        raise SchemaError(f"{path}, column {text.name!r}, row {row}: found {text[row]!r}, expected {expected} ({bad.sum():,} such rows).")
    return number.cast(pl.Boolean) if flag else number


def _told(rows: pl.DataFrame, skip_seconds: float) -> pl.DataFrame:
    seconds = pl.col("play_time_ms") / 1000
    return rows.select(
        "user_id", "is_rand", *FLAGS[:-1], "play_time_ms",
        item_id="video_id",
        request_id=pl.concat_str("user_id", "video_id", pl.col("time_ms").cast(pl.Int64), separator="-"),
        timestamp=pl.col("time_ms").cast(pl.Int64),
        device=pl.concat_str(pl.lit("tab "), "tab"),
        seconds=seconds,
        skipped=pl.when(pl.col("is_click") | (seconds > 0)).then(~pl.col("is_click") & (seconds < skip_seconds)),
        voiced=pl.any_horizontal(*VOICED),
    )  # fmt: skip


def _impressions(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        "request_id", "item_id", "user_id", "timestamp", "device", "skipped",
        position=pl.lit(1),
        arm=pl.when("is_rand").then(pl.lit("random")).otherwise(pl.lit("standard")),
        clicked="is_click",
        completed="long_view",
        watch_duration_seconds="seconds",
    )  # fmt: skip


def _events(rows: pl.DataFrame) -> pl.DataFrame:
    kind = (
        pl.when("is_hate").then(pl.lit("not_interested"))
        .when("long_view").then(pl.lit("complete"))
        .when("is_click").then(pl.lit("click"))
        .when("skipped").then(pl.lit("skip"))
        .otherwise(pl.lit("view"))
    )  # fmt: skip
    return rows.filter(pl.col("skipped").is_not_null() | pl.col("is_hate") | pl.col("long_view")).select(
        "user_id", "item_id", "request_id", "device",
        event_type=kind,
        watch_duration_seconds="seconds",
        rating=pl.when("is_click").then(pl.col("voiced").cast(pl.Float32)),
        timestamp=pl.col("timestamp") + pl.col("play_time_ms").cast(pl.Int64),
    )  # fmt: skip


def _items(videos: pl.DataFrame) -> pl.DataFrame:
    wide = pl.when(pl.col("server_width") > pl.col("server_height")).then(pl.lit("wide")).otherwise(pl.lit("tall"))
    kinds = [
        pl.concat_str(pl.lit(f"{name} "), kind, ignore_nulls=False)
        for name, kind in (
            ("video", pl.col("video_type").str.to_lowercase()),
            ("upload", pl.col("upload_type").str.to_lowercase()),
            ("music", pl.col("music_type").cast(pl.Int64).cast(pl.String)),
            ("picture", wide),
        )
    ]
    return videos.select(
        item_id="video_id",
        genres=pl.col("tag").str.split(",").list.eval(pl.concat_str(pl.lit("topic "), pl.element().str.strip_chars())),
        tags=pl.concat_list(kinds).list.drop_nulls(),
        release_date="upload_dt",
        duration_seconds=pl.col("video_duration") / 1000,
        creator="author_id",
    )
