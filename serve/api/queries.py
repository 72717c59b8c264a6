"""What may be asked: each field with its bounds, unknown ones refused by name. `serve.limits` holds what every door shares."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

from serve import paging
from serve.contract import CONTEXTS, DIVERSITIES, MAX_COUNT, MAX_ID_BYTES, Request
from serve.limits import LATEST_MS

MAX_WORDS = 200  # characters of a search
FORBID = ConfigDict(extra="forbid")
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES, examples=["u0000042"])]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES, examples=["i0000001"])]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Cursor = Annotated[str | None, Field(max_length=4_000, description="`next` of the page before this one; everything else is asked as then.")]
ArmName = Literal["champion", "challenger"]


class Whole(Convertor[str]):
    """An id in a path, as it was sent: Starlette's own `path` finds none that holds a line break, and takes one off the end."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", Whole())


class RecommendationQuery(BaseModel):
    """What should this user be shown, here and now?"""

    model_config = FORBID

    user_id: Id
    count: Count = 25
    context: Annotated[Literal[CONTEXTS], Field(description="The page that asks; `item` goes with `item_id`.")] = "homepage"
    item_id: Annotated[ItemId | None, Field(description="The item that the user is looking at.")] = None
    device: Annotated[Id | None, Field(examples=["tv"])] = None
    region: Annotated[Id | None, Field(examples=["FR"], description="Where the user is; without it, the user's own.")] = None
    time: Annotated[int | None, Field(ge=0, le=LATEST_MS, description="ms UTC; without it, now.")] = None
    mmr_lambda: Annotated[float, Field(alias="lambda", ge=0, le=1, description="From 0 (varied) to 1 (best first).")] = 0.7
    diversity: Annotated[Literal[DIVERSITIES], Field(description="How variety is sought.")] = "mmr"
    live: Annotated[bool, Field(description="Made now, even where a precomputed slate would do.")] = False
    arm: Annotated[ArmName | None, Field(description="The page of this arm, as a preview: it is not logged.")] = None
    cursor: Cursor = None

    def request(self, now: int, within_ms: float | None) -> Request:
        """The request asked, at `now` (ms UTC) where it tells no time, of a caller who waits for `within_ms`.

        Raises:
            InvalidRequest: the cursor is none.
        """
        return Request(
            self.user_id, now if self.time is None else self.time, count=self.count, context=self.context, item_id=self.item_id,
            device=self.device, region=self.region, mmr_lambda=self.mmr_lambda, diversity=self.diversity, live=self.live,
            before=() if self.cursor is None else paging.read(self.cursor), within_ms=math.inf if within_ms is None else within_ms,
        )  # fmt: skip


class ExplanationQuery(RecommendationQuery):
    """Why is this item in the answer to that request, or why is it not?"""

    explained: Annotated[ItemId, Field(alias="explain", description="The item asked about.")]


class SimilarQuery(BaseModel):
    """How many neighbours."""

    model_config = FORBID

    count: Count = 12


class UsersQuery(BaseModel):
    """How many users."""

    model_config = FORBID

    count: Count = 12


class SearchQuery(BaseModel):
    """What somebody typed so far."""

    model_config = FORBID

    query: Annotated[str, Field(max_length=MAX_WORDS, examples=["ameli"], description="In any case, with or without accents.")] = ""
    count: Count = 25
    cursor: Annotated[int, Field(ge=0, le=10_000_000, description="`next` of the page before this one.")] = 0


class NoQuery(BaseModel):
    """Nothing may be told."""

    model_config = FORBID


class QuizAnswer(BaseModel):
    """What somebody thinks of an item: `liked` true or false, null for "I don't know it"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: ItemId
    liked: bool | None


class QuizAnswers(BaseModel):
    """All answers so far, in any order."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"answers": []}]})

    answers: Annotated[list[QuizAnswer], Field(max_length=20)] = []

    def pairs(self) -> list[tuple[str, bool | None]]:
        """(item_id, liked) of each."""
        return [(one.item_id, one.liked) for one in self.answers]
