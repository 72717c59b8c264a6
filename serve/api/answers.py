"""What is answered, as OpenAPI tells it and as the client reads it. The tests hold every answer against these; the hot path builds plain
dictionaries."""

from datetime import date
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # it brings numpy, which the client does not need
    from serve.contract import Slate

CLOSED = ConfigDict(extra="forbid", frozen=True)
Ms = Annotated[float, Field(ge=0)]


def example(**values: object) -> ConfigDict:
    """A closed model with one example."""
    return ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [values]})


class Refusal(BaseModel):
    """Why nothing was done: which field, and a sentence."""

    model_config = example(field="count", detail="count should be greater than or equal to 1.", request_id="5f0c…")

    field: str | None
    detail: str
    request_id: str


class Shown(BaseModel):
    """An item that is shown. `score` is the ranker's value of it, from 0 to 1, null where no model was asked; `reason` a sentence that is
    true."""

    model_config = CLOSED

    item_id: str
    title: str
    genres: list[str]
    score: float | None
    reason: str
    row: str
    sources: list[str]


class Explored(BaseModel):
    """Where chance entered: `places` (from 1) drew, with probability `epsilon`, out of `pool` items; `drawn` is null where they kept."""

    model_config = CLOSED

    epsilon: float
    places: list[int]
    pool: int
    drawn: list[str | None]


class SlateAnswer(BaseModel):
    """A slate, in the order in which the page is read. `answered_by` says how it was made, and without what."""

    model_config = CLOSED

    recommendations: list[Shown]
    rows: list[str]
    model_version: str
    generated_in_ms: Ms
    answered_by: str
    request_id: str
    stage_ms: dict[str, Ms]
    dropped: dict[str, int]
    explored: Explored | None


class Recommendations(SlateAnswer):
    """A slate, the arm that made it, and the cursor of the page after it: null where there is none."""

    model_config = example(
        recommendations=[
            {
                "item_id": "i0000001", "title": "The Quiet Harbour", "genres": ["drama"], "score": 0.42,
                "reason": "Because you watched Low Tide", "row": "Because you watched Low Tide",
                "sources": ["collaborative", "because"],
            }
        ],
        rows=["Because you watched Low Tide"], model_version="20261125-090000", generated_in_ms=28.9, answered_by="personalised",
        request_id="0d7c1f", stage_ms={"history": 0.1, "user_tower": 4.0}, dropped={"already watched": 12},
        explored={"epsilon": 0.1, "places": [7], "pool": 12, "drawn": ["i0000321"]}, arm="champion",
        next="AQ…",
    )  # fmt: skip

    arm: str
    next: str | None


class Loss(BaseModel):
    """How much of the probability is lost without an item of the history; null where that is no number."""

    model_config = CLOSED

    item_id: str
    title: str
    loss: float | None


class Step(BaseModel):
    """What was chosen at a step of the slate, by which score, and what the item asked about would have had: null but under MMR."""

    model_config = CLOSED

    step: int
    item_id: str
    score: float
    this_item: float | None


HEADS = {"click": 0.31, "complete": 0.12, "watch_seconds": 840.0, "skip": 0.2, "rating": 3.9, "value": 0.42}


class Explanation(BaseModel):
    """Everything that decided about one item, as `serve.why.why` tells it; null where its way ended before.

    `heads` is what the ranker expects of it: the probabilities of a `click`, of completion (`complete`) and of a `skip`, `watch_seconds`, a
    `rating` in the log's own units, and `value`, from 0 to 1, which weighs them and is what the page is ordered by; null for which the log
    had no labels. `probability` is the value again, null where a head is no number.
    """

    model_config = CLOSED

    item_id: str
    title: str
    model_version: str
    verdict: str
    sources: dict[str, int | str | None]
    filters: dict[str, bool] | None
    boosts: dict[str, float] | None
    heads: Annotated[dict[str, float | None], Field(examples=[HEADS])]
    probability: float | None
    worth: float | None
    rank: int | None
    contributions: list[Loss]
    diversity: dict[str, int | float | str] | None
    steps: list[Step] | None
    cap: str | None
    place: int | None
    place_given_by: str | None


class Item(BaseModel):
    """What the catalogue says of an item. `posted_at` is ms UTC, null for what came with the release."""

    model_config = CLOSED

    item_id: str
    title: str
    genres: list[str]
    tags: list[str]
    creator: str | None
    franchise: str | None
    regions: list[str] | None
    maturity: int | None
    release_date: date | None
    duration_seconds: float | None
    posted_at: int | None


class Found(BaseModel):
    """An item by its title."""

    model_config = CLOSED

    item_id: str
    title: str
    genres: list[str]


class Items(BaseModel):
    """What was found, and the cursor of what comes after it: null at the end."""

    model_config = CLOSED

    items: list[Found]
    next: int | None


class Users(BaseModel):
    """Some users of the release."""

    model_config = CLOSED

    user_ids: list[str]


class Did(BaseModel):
    """Something a user did. `timestamp` is ms UTC; genres are empty where the catalogue does not know the item any more."""

    model_config = CLOSED

    item_id: str
    title: str
    genres: list[str]
    event_type: str
    rating: float | None
    timestamp: int


class User(BaseModel):
    """What is known of a user: how many events and answers there are, and the newest 50 events, the last first."""

    model_config = CLOSED

    user_id: str
    region: str | None
    subscription_tier: str | None
    birth_year: int | None
    arm: str
    events: int
    answers: int
    history: list[Did]


class Service(BaseModel):
    """What may be asked here. `liked_rating` is what a "like" rates, `now` ms UTC by the clock that requests go by."""

    model_config = CLOSED

    model_version: str
    challenger: str | None
    items: int
    genres: list[str]
    regions: list[str]
    devices: list[str]
    contexts: list[str]
    diversities: list[str]
    event_types: list[str]
    liked_rating: float
    now: int
    access: dict[str, str]
    arms: dict[str, float]


class EventsReceipt(BaseModel):
    """How many events were new, and how many had been received before by their `event_id`."""

    model_config = example(stored=1, repeated=0)

    stored: int
    repeated: int


class ItemsReceipt(BaseModel):
    """How many items were stored."""

    model_config = example(stored=1)

    stored: int


class Question(BaseModel):
    """The next question of the quiz, null where it is over."""

    model_config = CLOSED

    question: Found | None
    answered: int


class Kept(BaseModel):
    """How many answers were kept: those that say something."""

    model_config = example(kept=4)

    kept: int


class Alive(BaseModel):
    """The process runs."""

    model_config = CLOSED

    status: str


class Ready(BaseModel):
    """Part by part, what is in its place ("ready") and what is not (a sentence)."""

    model_config = CLOSED

    status: str
    model_version: str
    parts: dict[str, str]


def as_json(slate: "Slate") -> dict[str, object]:
    """A slate as it stands in an answer, over HTTP and on the command line: the fields of `SlateAnswer`."""
    return {
        "recommendations": [
            {
                "item_id": shown.item_id, "title": shown.title, "genres": list(shown.genres), "score": shown.score, "reason": shown.reason,
                "row": shown.row, "sources": list(shown.sources),
            }
            for shown in slate.recommendations
        ],
        "rows": list(dict.fromkeys(shown.row for shown in slate.recommendations)),
        "model_version": slate.model_version,
        "generated_in_ms": round(slate.generated_in_ms, 3),
        "answered_by": slate.answered_by,
        "request_id": slate.request_id,
        "stage_ms": {stage: round(ms, 3) for stage, ms in slate.stage_ms.items()},
        "dropped": slate.dropped,
        "explored": None if slate.draw is None else {
            "epsilon": slate.draw.epsilon, "places": [slot + 1 for slot in slate.draw.slots], "pool": len(slate.draw.pool),
            "drawn": list(slate.draw.drawn),
        },
    }  # fmt: skip
