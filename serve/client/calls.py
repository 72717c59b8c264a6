"""What can be asked and told: each function says what to send and how the answer is read. Nothing is sent here, and what is None is not
sent: the server's own default holds, and its bounds."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from serve.api import answers

Context = Literal["homepage", "item", "continue", "search-empty"]
Diversity = Literal["mmr", "dpp", "calibrated"]
Arm = Literal["champion", "challenger"]
EventType = Literal["view", "click", "watch", "complete", "skip", "rate", "not_interested"]
A = TypeVar("A", bound=BaseModel)


class Page(Protocol):
    """An answer that says how to ask for the one after it."""

    @property
    def next(self) -> str | int | None: ...


@dataclass(frozen=True, slots=True)
class Call(Generic[A]):
    """One thing to ask: where, with what, what it is answered by, and at which statuses. `timeout_s` None is the client's."""

    method: Literal["GET", "POST"]
    path: str
    answer: type[A]
    params: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    timeout_s: float | None = None
    answered_at: tuple[int, ...] = (200,)

    def after(self, page: Page) -> "Call[A] | None":
        """The call for the page after this one; None where there is none."""
        return None if page.next is None else replace(self, params={**self.params, "cursor": str(page.next)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a user did with an item. Its id is made here, so that the server stores it once however often it is sent.

    Without `timestamp` (ms UTC) it is the server's now. `request_id` is that of the slate the item was shown in.

    >>> Event(user_id="u42", item_id="i7", event_type="rate", rating=4.5)
    """

    user_id: str
    item_id: str
    event_type: EventType
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    timestamp: int | None = None
    watch_duration_seconds: float | None = None
    rating: float | None = None
    device: str | None = None
    region: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """An item that the release does not know yet: its id and title, and of the rest what is known. Sent again, it replaces itself.

    >>> NewItem(item_id="n1", title="The Quiet Harbour", genres=("drama",), release_date=date(2026, 5, 1))
    """

    item_id: str
    title: str
    genres: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    release_date: date | None = None
    duration_seconds: float | None = None
    creator: str | None = None
    franchise: str | None = None
    regions: tuple[str, ...] | None = None
    maturity: int | None = None
    content_embedding: tuple[float, ...] | None = None
    popularity_score: float | None = None
    avg_rating: float | None = None


def recommend(
    user_id: str, *, count: int | None = None, context: Context | None = None, item_id: str | None = None, device: str | None = None,
    region: str | None = None, time: int | None = None, mmr_lambda: float | None = None, diversity: Diversity | None = None,
    live: bool | None = None, arm: Arm | None = None, cursor: str | None = None, timeout_s: float | None = None,
) -> Call[answers.Recommendations]:  # fmt: skip
    """What should this user be shown, here and now? `time` is ms UTC, `cursor` is `next` of the page before.

    >>> towers.recommend("u42", count=10, device="tv").recommendations[0].title
    """
    params = _params(
        user_id=user_id, count=count, context=context, item_id=item_id, device=device, region=region, time=time, diversity=diversity,
        live=live, arm=arm, cursor=cursor, **{"lambda": mmr_lambda},
    )  # fmt: skip
    return Call("GET", "/v1/recommendations", answers.Recommendations, params, timeout_s=timeout_s)


def explain(
    user_id: str, explained: str, *, count: int | None = None, context: Context | None = None, item_id: str | None = None,
    device: str | None = None, region: str | None = None, time: int | None = None, mmr_lambda: float | None = None,
    diversity: Diversity | None = None, live: bool | None = None, arm: Arm | None = None, cursor: str | None = None,
    timeout_s: float | None = None,
) -> Call[answers.Explanation]:  # fmt: skip
    """Why is the item `explained` in the answer to this request, or why is it not?

    >>> towers.explain("u42", "i7", count=10).verdict
    """
    asked = recommend(
        user_id, count=count, context=context, item_id=item_id, device=device, region=region, time=time, mmr_lambda=mmr_lambda,
        diversity=diversity, live=live, arm=arm, cursor=cursor,
    )  # fmt: skip
    return Call("GET", "/v1/explanations", answers.Explanation, {**asked.params, "explain": explained}, timeout_s=timeout_s)


def similar(item_id: str, *, count: int | None = None, timeout_s: float | None = None) -> Call[answers.SlateAnswer]:
    """What lies near this item?

    >>> [near.title for near in towers.similar("i7", count=5).recommendations]
    """
    return Call("GET", f"/v1/items/{_id(item_id)}/similar", answers.SlateAnswer, _params(count=count), timeout_s=timeout_s)


def search(query: str = "", *, count: int | None = None, cursor: int | None = None, timeout_s: float | None = None) -> Call[answers.Items]:
    """Items by title, in any case and with or without accents; as somebody types.

    >>> [found.item_id for found in towers.search("quiet har").items]
    """
    return Call("GET", "/v1/items", answers.Items, _params(query=query, count=count, cursor=cursor), timeout_s=timeout_s)


def item(item_id: str, *, timeout_s: float | None = None) -> Call[answers.Item]:
    """What the catalogue says of an item.

    >>> towers.item("i7").genres
    """
    return Call("GET", f"/v1/items/{_id(item_id)}", answers.Item, timeout_s=timeout_s)


def users(*, count: int | None = None, timeout_s: float | None = None) -> Call[answers.Users]:
    """Some users of the release.

    >>> towers.users(count=3).user_ids
    """
    return Call("GET", "/v1/users", answers.Users, _params(count=count), timeout_s=timeout_s)


def user(user_id: str, *, timeout_s: float | None = None) -> Call[answers.User]:
    """What is known of a user, who may be a stranger.

    >>> towers.user("u42").history[0].title
    """
    return Call("GET", f"/v1/users/{_id(user_id)}", answers.User, timeout_s=timeout_s)


def service(*, timeout_s: float | None = None) -> Call[answers.Service]:
    """What may be asked here: genres, devices, contexts, arms.

    >>> towers.service().liked_rating
    """
    return Call("GET", "/v1/service", answers.Service, timeout_s=timeout_s)


def ready(*, timeout_s: float | None = None) -> Call[answers.Ready]:
    """Is everything in its place? What is not is named in `parts`; a server that is not ready is an answer, not an error.

    >>> towers.ready().status == "ready"
    """
    return Call("GET", "/readyz", answers.Ready, timeout_s=timeout_s, answered_at=(200, 503))


def record(events: Event | Iterable[Event], *, timeout_s: float | None = None) -> Call[answers.EventsReceipt]:
    """What users did, all or none of it. An event whose first answer was lost is counted as `repeated`, and stored once.

    >>> towers.record(Event(user_id="u42", item_id="i7", event_type="complete")).stored
    """
    told = _told(events) if isinstance(events, Event) else [_told(one) for one in events]
    return Call("POST", "/v1/events", answers.EventsReceipt, body=told, timeout_s=timeout_s)


def post_items(items: NewItem | Iterable[NewItem], *, timeout_s: float | None = None) -> Call[answers.ItemsReceipt]:
    """New items, all or none of them; those that were posted before are replaced, those of the release are refused (409).

    >>> towers.post_items(NewItem(item_id="n1", title="The Quiet Harbour")).stored
    """
    told = _told(items) if isinstance(items, NewItem) else [_told(one) for one in items]
    return Call("POST", "/v1/items", answers.ItemsReceipt, body=told, timeout_s=timeout_s)


def question(liked: Mapping[str, bool | None], *, timeout_s: float | None = None) -> Call[answers.Question]:
    """The next question of the quiz after these answers, by item_id; None is "I don't know it".

    >>> towers.question({"i7": True, "i9": None}).question
    """
    return Call("POST", "/v1/quiz", answers.Question, body=_answers(liked), timeout_s=timeout_s)


def keep_answers(user_id: str, liked: Mapping[str, bool | None], *, timeout_s: float | None = None) -> Call[answers.Kept]:
    """Keep what a user answered; a later answer about an item replaces the earlier.

    >>> towers.keep_answers("u42", {"i7": True, "i9": None}).kept
    """
    return Call("POST", f"/v1/users/{_id(user_id)}/quiz", answers.Kept, body=_answers(liked), timeout_s=timeout_s)


def _params(**told: object) -> dict[str, str]:
    """What is told, as an address has it. A bool is written as JSON writes it."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in told.items() if value is not None}


def _id(text: str) -> str:
    """An id as one part of a path. Dots alone would be read as a way up."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def _told(one: Event | NewItem) -> dict[str, Any]:
    told = {name: value for name, value in asdict(one).items() if value is not None}
    return told | {name: value.isoformat() for name, value in told.items() if isinstance(value, date)}


def _answers(liked: Mapping[str, bool | None]) -> dict[str, object]:
    return {"answers": [{"item_id": item_id, "liked": one} for item_id, one in liked.items()]}
