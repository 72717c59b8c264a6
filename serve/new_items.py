"""Items that come after the release: checked, encoded by the item tower from their content, kept by the store, live in every process.

What was posted is in the store as JSON; each process encodes it with its own release's recipe and tower, so that a later release takes it
in too. Row numbers differ between processes, ids do not.

Shapes: N items · F item features · W = 2·D, a whole row.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from data.content import ContentRecipe
from data.schema import ITEMS, check_table
from serve.catalogue import POSTED
from serve.contract import MAX_BATCH
from serve.limits import LATEST_MS, InvalidRequest, check_id, one_or_many, validated
from serve.release import MORE_ROOM, NoRoom, Release
from serve.store import Store, StoreError
from serve.triton import Client, TritonError

logger = logging.getLogger(__name__)
MAX_ITEMS, MAX_WORDS, MAX_TEXT = 100, 200, 2_000
MAX_BODY_BYTES = 8 * 1024 * 1024
LARGEST = 1e9
POLL_S = 1.0


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_day)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Words = Annotated[list[Text], Field(max_length=MAX_WORDS)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
EXAMPLE = {"item_id": "n0000001", "title": "The Quiet Harbour", "genres": ["drama"], "release_date": "2026-11-20", "maturity": 12}


class PostedItem(BaseModel):
    """A new item: its id and title, and of the rest what is known. Seconds, years, dates as YYYY-MM-DD."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, json_schema_extra={"examples": [EXAMPLE]})

    item_id: str
    title: Text
    genres: Words | None = None
    tags: Words | None = None
    release_date: Day | None = None
    duration_seconds: Annotated[float, Field(ge=0, le=LARGEST)] | None = None
    creator: Text | None = None
    franchise: Text | None = None
    regions: Words | None = None
    maturity: Annotated[int, Field(ge=0, le=21)] | None = None
    content_embedding: Annotated[list[Number], Field(max_length=8_192)] | None = None
    popularity_score: Number | None = None
    avg_rating: Number | None = None


class _Stored(PostedItem):
    posted_at: Annotated[int, Field(ge=0, le=LATEST_MS)]


class Exists(InvalidRequest):
    """The sealed catalogue has an item by this id already."""


class Receipt(NamedTuple):
    """How many items were stored, and are live here."""

    stored: int


def parse(body: bytes, now: int, release: Release) -> pl.DataFrame:
    """The items in a JSON text that holds one or a list, posted at `now` (ms UTC): columns of `POSTED`.

    An item that was posted before keeps the time of its first post: mended metadata do not make it new again.

    Raises:
        Exists: an id of the sealed catalogue.
        InvalidRequest: the first thing that is wrong, by the name of its field; all or none are taken.
    """
    told = [_item(one, release, within) for within, one in one_or_many(body, most=MAX_ITEMS, what="items")]
    first: dict[str, int] = {}
    for number, item in enumerate(told):
        if first.setdefault(item.item_id, number) != number:
            raise InvalidRequest(f"[{number}].item_id", f"is that of [{first[item.item_id]}] too; send each item once.")
    before = (release.catalogue.posted(item.item_id) or {"posted_at": now} for item in told)
    return _table([item.model_dump() | {"posted_at": known["posted_at"]} for item, known in zip(told, before, strict=True)])


def _item(raw: object, release: Release, within: str) -> PostedItem:
    item = validated(PostedItem, raw, within, "an item")
    for name, values in item:
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str):
                _check_text(within + name, value)
    check_id(within + "item_id", item.item_id)
    row = release.catalogue.row_of.get(item.item_id, -1)
    if 0 <= row < release.catalogue.sealed_count:
        raise Exists(f"{within}item_id", f"{item.item_id!r} exists in release {release.manifest.version}; only posted items are replaced.")
    given, width = item.content_embedding, release.recipe.embedding_width
    if given is not None and len(given) != width:
        wanted = f"{width} numbers" if width else "none: its items have no embeddings"
        raise InvalidRequest(
            f"{within}content_embedding", f"has {len(given)} numbers; release {release.manifest.version} expects {wanted}."
        )
    return item


def _check_text(name: str, value: str) -> None:
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidRequest(name, "holds a NUL character or half of one (a lone surrogate); expected UTF-8.")


def _table(items: list[dict]) -> pl.DataFrame:
    schema = {name: column.dtype for name, column in POSTED.items()} | {"release_date": pl.String}
    return check_table(pl.DataFrame(items, schema=schema), POSTED, table="items", source="POST /v1/items")


def texts(items: pl.DataFrame) -> dict[str, str]:
    """item_id → the item as JSON, as the store keeps it: what is known of it, and `posted_at`."""
    return {
        item["item_id"]: json.dumps(
            {name: value.isoformat() if isinstance(value, date) else value for name, value in item.items() if value is not None},
            ensure_ascii=False,
        )
        for item in items.iter_rows(named=True)
    }


def read(stored: list[str], recipe: ContentRecipe) -> pl.DataFrame:
    """What `texts` wrote, columns of `POSTED`. An embedding of another width than the recipe's was made for another release: it is left
    out, and the log says so.

    Raises:
        StoreError: a text is not what was written.
    """
    items = []
    for text in stored:
        try:
            item = _Stored.model_validate_json(text).model_dump()
        except ValidationError as error:
            raise StoreError(f"a posted item in the store is damaged ({error.errors()[0]['msg']}): {text[:100]}; post it again") from error
        given = item["content_embedding"]
        if given is not None and len(given) != recipe.embedding_width:
            width = recipe.embedding_width
            logger.warning("item %s: its embedding of %d numbers is left out, the release takes %d", item["item_id"], len(given), width)
            item["content_embedding"] = None
        items.append(item)
    return _table(items)


def encode(items: pl.DataFrame, release: Release, client: Client) -> np.ndarray:
    """What the item tower makes of items (columns of `ITEMS` among theirs) it never saw: rows fp16 (N, W).

    Raises:
        TritonError: the server does not answer, or its answer is not finite.
    """
    feature_NF = release.recipe.features(items.select(*ITEMS))
    parts = []
    for start in range(0, len(feature_NF), MAX_BATCH):
        parts += client.infer(release.item_tower, np.ascontiguousarray(feature_NF[start : start + MAX_BATCH], np.float32))
    row_NW = np.concatenate(parts)
    if not (finite_N := np.isfinite(row_NW).all(1)).all():
        item_id = items["item_id"][int(np.argmin(finite_N))]
        raise TritonError(f"the item tower of release {release.manifest.version} gives no numbers for item {item_id!r}")
    return row_NW


def post(items: pl.DataFrame, release: Release, client: Client, store: Store) -> Receipt:
    """Encode parsed items, have the store keep them, and add them here: live in this process when this returns.

    Encoding comes first: what no tower can read never reaches the store, where every process would stumble on it.

    Raises:
        NoRoom: the item table is full. Nothing was stored.
        TritonError: no row could be made. Nothing was stored.
        StoreError: the store cannot keep them. Nothing is live.
    """
    new = int((release.catalogue.rows(items["item_id"]) < 0).sum())
    if new > release.catalogue.room:
        room = f"has room for {release.catalogue.room:,} items more, {new:,} were posted"
        raise NoRoom(release.path, "items.f16", room, MORE_ROOM)
    row_NW = encode(items, release, client)
    store.put_items(texts(items))
    release.add(items, row_NW)
    return Receipt(len(items))


class NewItems:
    """Follows what is posted anywhere: every second it reads the store and adds what this process's release lacks.

    `failing` says why it could not, last it tried, or is None; `left_out` counts items for which there was no room.
    """

    def __init__(
        self, release: Release, client: Client, store: Store, *, added: Callable[[np.ndarray, int], None] = lambda *_: None,
        poll_s: float = POLL_S,
    ) -> None:  # fmt: skip
        """`added` is told the rows (int64) and the time (ms UTC) of items as they come."""
        self._release, self._client, self._store, self._poll_s, self._added = release, client, store, poll_s, added
        self._sequence, self.left_out = 0, 0
        self.failing: str | None = None
        self._turn, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="new-items", daemon=True)

    def start(self) -> None:
        """Add all that was posted so far, then go on in a thread of its own. Raises as `catch_up`."""
        start = time.perf_counter()
        if added := self.catch_up():
            logger.info("%s posted items added in %.1f s", f"{added:,}", time.perf_counter() - start)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def catch_up(self) -> int:
        """Add now what was posted and is not here; how many items were. Safe from any thread.

        Raises:
            StoreError, TritonError, NoRoom: the store or the models did not answer, or a post took the last room meanwhile; what was not
                added is tried again next time.
        """
        added = 0
        with self._turn:
            while posted := self._store.items_since(self._sequence):
                added += self._take_in([text for _, _, text in posted])
                self._sequence = posted[-1][0]
        return added

    def _take_in(self, stored: list[str]) -> int:
        items, catalogue = read(stored, self._release.recipe), self._release.catalogue
        items = items.filter(pl.Series([self._lacks(item) for item in items.iter_rows(named=True)], dtype=pl.Boolean))
        new = pl.Series(catalogue.rows(items["item_id"]) < 0)
        if (over := int(new.sum()) - catalogue.room) > 0:
            self.left_out += over
            logger.error("no room for %s posted items: %s", f"{over:,}", MORE_ROOM)
            items = items.filter(~new | (new.cum_sum() <= catalogue.room))
        if not len(items):
            return 0
        row_N = self._release.add(items, encode(items, self._release, self._client))
        for row, posted_at in zip(row_N, items["posted_at"].to_list(), strict=True):
            self._added(np.array([row]), posted_at)
        return len(items)

    def _lacks(self, item: dict) -> bool:
        """A release that was made of later data may have sealed what was posted before it: then that is what it knows of the item."""
        catalogue = self._release.catalogue
        sealed = 0 <= catalogue.row_of.get(item["item_id"], -1) < catalogue.sealed_count
        return not sealed and catalogue.posted(item["item_id"]) != item

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                self.catch_up()
            except (StoreError, TritonError, NoRoom) as error:  # no room: a post was quicker, next time it is counted
                if self.failing is None:
                    logger.warning("posted items are not followed: %s", error)
                self.failing = str(error)
                continue
            if self.failing is not None:
                logger.info("posted items are followed again")
                self.failing = None
