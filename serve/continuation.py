"""What serving hands back to training: the store's logs as the tables of `data.schema`, which `data.readers.continued` reads.

<folder>/events.parquet       EVENTS, every event appended since
<folder>/impressions.parquet  IMPRESSIONS, a row for each place of each slate; what came of it `data.impressions` finds in the events
<folder>/draws.parquet        the slates in which chance filled slots: request_id, user_id, timestamp, device, region, arm, release,
                              epsilon, slots, pool, drawn
<folder>/items.parquet        ITEMS, what was posted
<folder>/written.json         how far each log was read, and how many rows that were; written last

A release's own trained_to.json holds the time of the last event its models were trained and tested on, ms UTC: a release may be made of a
longer log.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from data.features import HOUR_MS
from data.schema import EVENTS, ITEMS, check_table
from serve.contract import LoggedSlate
from serve.histories import StoreError
from serve.manifest import write_whole
from serve.slate_log import impressions
from serve.store import EVENT_COLUMNS, Store, wall_clock_ms

WRITTEN, TRAINED_TO = "written.json", "trained_to.json"
EVENTS_AT_ONCE, SLATES_AT_ONCE, ITEMS_AT_ONCE = 1_000_000, 100_000, 1_000
DRAWS = {
    "request_id": pl.String, "user_id": pl.String, "timestamp": pl.Int64, "device": pl.String, "region": pl.String, "arm": pl.String,
    "release": pl.String, "epsilon": pl.Float64, "slots": pl.List(pl.Int64), "pool": pl.List(pl.String), "drawn": pl.List(pl.String),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reached:
    """The last number read of each of the store's three logs; 0 is none."""

    events: int = 0
    slates: int = 0
    items: int = 0


def read(folder: Path) -> tuple[Reached, dict[str, int]] | None:
    """What `write` returned when it wrote `folder`; None where it did not, or not to the end."""
    if not (folder / WRITTEN).is_file():
        return None
    told = json.loads((folder / WRITTEN).read_bytes())
    return Reached(**told["reached"]), told["rows"]


def write(store: Store, folder: Path, since: Reached) -> tuple[Reached, dict[str, int]]:
    """Write what the store logged after `since` into `folder`: how far that was, and how many events, slates, draws and items.

    An event or a slate dated more than an hour after now is left out and counted, as `of_the_future`: a log that ends in the year 9999 has
    all popularity faded, and no last days to be tested on.

    Slates are read before events: one that was shown while we read comes with the next writing, and so may an event, but no slate
    stands here whose events had come when it was read, and lacks them.

    Raises:
        StoreError: the store does not answer, or what it holds is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slates_to, items_to, events_to = since.slates, since.items, since.events
    posted: list[dict] = []
    until, of_the_future = wall_clock_ms() + HOUR_MS, 0
    shown, draws = [impressions([])], [pl.DataFrame(schema=DRAWS)]
    for chunk in _chunks(store.slates_since, since.slates, SLATES_AT_ONCE):
        slates_to = chunk[-1][0]
        slates = [slate for _, slate in chunk if slate.timestamp <= until]
        of_the_future += len(chunk) - len(slates)
        shown.append(impressions(slates))
        draws.append(pl.DataFrame([_draw(slate) for slate in slates if slate.draw is not None], schema=DRAWS))
    for chunk in _chunks(store.items_since, since.items, ITEMS_AT_ONCE):
        items_to = chunk[-1][0]
        posted += [_item(item_id, text) for _, item_id, text in chunk]
    events = [_frame([], EVENTS)]
    while len(told := store.events_since(events_to, limit=EVENTS_AT_ONCE)):
        events_to = told["sequence"][-1]
        past = told.filter(pl.col("timestamp") <= until)
        of_the_future += len(told) - len(past)
        events.append(check_table(past.select(EVENT_COLUMNS), EVENTS, table="events", source="the store"))
    tables = {
        "events": pl.concat(events), "impressions": pl.concat(shown), "draws": pl.concat(draws), "items": _frame(posted, ITEMS),
    }  # fmt: skip
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    reached = Reached(events_to, slates_to, items_to)
    counts = {name: len(table) for name, table in tables.items()} | ({"of_the_future": of_the_future} if of_the_future else {})
    write_whole(folder / WRITTEN, json.dumps({"since": asdict(since), "reached": asdict(reached), "rows": counts}, indent=1))
    return reached, counts


def trained_to(release: Path) -> int:
    """When the last event was, ms UTC, that a release's models know of; 0 where there was none."""
    if (release / TRAINED_TO).is_file():
        return int(json.loads((release / TRAINED_TO).read_bytes()))
    # a release of an earlier version of this program, which was made of no later log than its models
    return pl.scan_parquet(release / "histories.parquet").select(pl.col("timestamp").list.max().max()).collect().item() or 0


def _chunks(read, since: int, limit: int) -> Iterator[list[tuple]]:
    while chunk := read(since, limit=limit):
        yield chunk
        since = chunk[-1][0]


def _frame(rows: list[dict], columns: Mapping) -> pl.DataFrame:
    schema = {name: pl.String if column.dtype == pl.Date else column.dtype for name, column in columns.items()}
    return pl.DataFrame(rows, schema=schema)


def _draw(slate: LoggedSlate) -> dict:
    drawn = {"epsilon": slate.draw.epsilon, **{name: list(getattr(slate.draw, name)) for name in ("slots", "pool", "drawn")}}
    return {name: getattr(slate, name) for name in DRAWS if name not in drawn} | drawn


def _item(item_id: str, text: str) -> dict:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise StoreError(f"the store: item {item_id!r} is not JSON ({error}); post it again") from error
    return {name: told.get(name) for name in ITEMS} | {"item_id": item_id}
