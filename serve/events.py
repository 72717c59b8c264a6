"""What came back: events are checked, then logged and put into the live history in one transaction, so the very next answer knows."""

import uuid
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from data.schema import EVENT_TYPES
from serve.limits import LATEST_MS, InvalidRequest, check_id, one_or_many, validated
from serve.release import Release
from serve.slates import UnknownItem
from serve.store import Event, Store

MAX_EVENTS = 1_000
MAX_BODY_BYTES = 2 * 1024 * 1024
LARGEST = 1e9  # of ratings and seconds, which the tables hold as 32-bit floats
IDS = ("event_id", "user_id", "item_id", "device", "region", "request_id")
EXAMPLE = {"user_id": "u0000042", "item_id": "i0000001", "event_type": "watch", "watch_duration_seconds": 1800.0, "device": "tv"}


class PostedEvent(BaseModel):
    """Something a user did with an item. Without `event_id` it is new; without `timestamp` (ms UTC) it is now."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, json_schema_extra={"examples": [EXAMPLE]})

    user_id: str
    item_id: str
    event_type: Literal[EVENT_TYPES]
    event_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    timestamp: Annotated[int, Field(ge=0, le=LATEST_MS)] | None = None
    watch_duration_seconds: Annotated[float, Field(ge=0, le=LARGEST)] | None = None
    rating: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] | None = None
    device: str | None = None
    region: str | None = None
    request_id: str | None = None


class Receipt(NamedTuple):
    """How many events were new, and how many had been received before by their `event_id`."""

    stored: int
    repeated: int


def parse(body: bytes, now: int) -> tuple[Event, ...]:
    """The events in a JSON text that holds one or a list. `now` (ms UTC) is the time of those that tell none.

    Raises:
        InvalidRequest: the first thing that is wrong, by the name of its field; all or none are taken.
    """
    return tuple(_event(one, now, within) for within, one in one_or_many(body, most=MAX_EVENTS, what="events"))


def _event(raw: object, now: int, within: str) -> Event:
    posted = validated(PostedEvent, raw, within, "an event")
    if posted.event_type == "rate" and posted.rating is None:
        raise InvalidRequest(f"{within}rating", "is missing; an event of type rate needs it.")
    told = posted.model_dump()
    for name in IDS:
        if told[name] is not None:
            check_id(within + name, told[name])
    return Event(**told | {"timestamp": now if posted.timestamp is None else posted.timestamp})


def record(events: tuple[Event, ...], release: Release, store: Store) -> Receipt:
    """Log events and change the histories they belong to: all or none, each `event_id` once.

    Raises:
        UnknownItem: the first item that the release's catalogue does not know; nothing was stored.
        StoreError: the store cannot be written.
    """
    for event, row in zip(events, release.catalogue.rows([event.item_id for event in events]), strict=True):
        if row < 0:
            raise UnknownItem(event.item_id, release.manifest.version)
    stored = store.append(events)
    return Receipt(stored, len(events) - stored)
