"""The engine over HTTP, and the page. Every refusal is JSON: {"field", "detail"}, where detail is a sentence."""

import logging
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from serve import events, new_items
from serve.contract import Request, Slate
from serve.engine import Engine, Unavailable
from serve.limits import InvalidRequest, check_id, refusal
from serve.release import NoRoom
from serve.slates import UnknownItem
from serve.store import StoreError
from serve.triton import TritonError

logger = logging.getLogger(__name__)
WEB = Path(__file__).parent / "web"
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:", "Cache-Control": "no-cache"}


class RecommendationQuery(BaseModel):
    """The parameters of a recommendation. `time` is ms UTC, `lambda` from 0 (varied) to 1 (best first), `diversity` how variety is sought:
    mmr, dpp or calibrated; `live` asks for an answer made now."""

    model_config = ConfigDict(extra="forbid")

    user_id: str
    count: int = 25
    context: str = "homepage"
    item_id: str | None = None
    device: str | None = None
    region: str | None = None
    time: int | None = None
    mmr_lambda: Annotated[float, Field(alias="lambda")] = 0.7
    diversity: str = "mmr"
    live: bool = False

    def request(self, now: int) -> Request:
        """The request asked, at `now` (ms UTC) where it tells no time."""
        told = self.model_dump(exclude={"time"})
        return Request(**told, timestamp=now if self.time is None else self.time)


class ExplanationQuery(RecommendationQuery):
    """The parameters of a recommendation, and the item that is asked about."""

    explained: Annotated[str, Field(alias="explain")]


class SimilarQuery(BaseModel):
    """How many similar items."""

    model_config = ConfigDict(extra="forbid")

    count: int = 12


class SearchQuery(BaseModel):
    """Part of a title, in any case, and how many items."""

    model_config = ConfigDict(extra="forbid")

    query: str = ""
    count: int = 25


class QuizAnswer(BaseModel):
    """What somebody thinks of an item: `liked` true or false, null for "I don't know it"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: str
    liked: bool | None


class QuizAnswers(BaseModel):
    """All answers so far, in any order."""

    model_config = ConfigDict(extra="forbid")

    answers: list[QuizAnswer] = []

    def pairs(self) -> list[tuple[str, bool | None]]:
        """(item_id, liked) of each."""
        return [(one.item_id, one.liked) for one in self.answers]


def create_app(engine: Engine) -> FastAPI:
    """The application around one engine."""
    gauges = engine.gauges
    app = FastAPI(title="Towers")
    app.mount("/web", StaticFiles(directory=WEB))

    def refuse(status: int, field: str | None, error: Exception) -> JSONResponse:
        gauges.refused(status)
        return JSONResponse({"field": field, "detail": str(error)}, status)

    @app.exception_handler(InvalidRequest)
    def invalid(_: HttpRequest, error: InvalidRequest) -> JSONResponse:
        return refuse(409 if isinstance(error, new_items.Exists) else 422, error.field, error)

    @app.exception_handler(RequestValidationError)
    def unreadable(request: HttpRequest, error: RequestValidationError) -> JSONResponse:
        return invalid(request, refusal(error))

    @app.exception_handler(UnknownItem)
    def unknown(_: HttpRequest, error: UnknownItem) -> JSONResponse:
        return refuse(404, "item_id", error)

    @app.exception_handler(NoRoom)
    def full(_: HttpRequest, error: NoRoom) -> JSONResponse:
        return refuse(507, None, error)

    @app.exception_handler(StoreError)
    @app.exception_handler(TritonError)
    @app.exception_handler(Unavailable)
    def away(_: HttpRequest, error: Exception) -> JSONResponse:
        logger.error("refused: %s", error)
        return refuse(503, None, error)

    @app.get("/v1/recommendations")
    def recommendations(query: Annotated[RecommendationQuery, Query()]) -> JSONResponse:
        slate, arm = engine.recommend(query.request(engine.now_ms()))
        return JSONResponse(as_json(slate) | {"arm": arm})

    @app.get("/v1/explanations")
    def explanations(query: Annotated[ExplanationQuery, Query()]) -> JSONResponse:
        told = query.model_dump(exclude={"time", "explained"})
        request = Request(**told, timestamp=engine.now_ms() if query.time is None else query.time)
        return JSONResponse(engine.explain(request, query.explained))

    @app.get("/v1/items/{item_id:path}/similar")
    def similar(item_id: str, query: Annotated[SimilarQuery, Query()]) -> JSONResponse:
        check_id("item_id", item_id)
        return JSONResponse(as_json(engine.similar(item_id, query.count)))

    @app.get("/v1/items")
    def items(query: Annotated[SearchQuery, Query()]) -> JSONResponse:
        return JSONResponse({"items": engine.search(query.query, query.count)})

    @app.post("/v1/items", openapi_extra=new_items.OPENAPI)
    async def post_items(request: HttpRequest) -> JSONResponse:
        receipt = await run_in_threadpool(engine.post_items, await _body(request, new_items.check_size))
        return JSONResponse({"stored": receipt.stored})

    @app.get("/v1/users")
    def users(query: Annotated[SimilarQuery, Query()]) -> JSONResponse:
        return JSONResponse({"user_ids": engine.users(query.count)})

    @app.post("/v1/events", openapi_extra=events.OPENAPI)
    async def post_events(request: HttpRequest) -> JSONResponse:
        receipt = await run_in_threadpool(engine.record, await _body(request, events.check_size))
        return JSONResponse({"stored": receipt.stored, "repeated": receipt.repeated})

    @app.post("/v1/quiz")
    def quiz(told: QuizAnswers) -> JSONResponse:
        return JSONResponse({"question": engine.question(told.pairs()), "answered": len(told.answers)})

    @app.post("/v1/users/{user_id:path}/quiz")
    def keep_quiz(user_id: str, told: QuizAnswers) -> JSONResponse:
        return JSONResponse({"kept": engine.answered(user_id, told.pairs())})

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        ready, told = engine.readiness()
        said = "ready" if ready else "; ".join(f"{part}: {what}" for part, what in told["parts"].items() if what != "ready")
        return JSONResponse({"status": said} | told, 200 if ready else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(gauges.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers=PAGE_HEADERS)

    return app


async def _body(request: HttpRequest, check_size) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        check_size(len(body))
    return body


def as_json(slate: Slate) -> dict[str, object]:
    """A slate as it stands in an answer, over HTTP and on the command line."""
    return {
        "recommendations": [
            {
                "item_id": shown.item_id, "title": shown.title, "score": shown.score, "reason": shown.reason, "row": shown.row,
                "sources": list(shown.sources),
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
