"""The recommender over HTTP, and the page. Every refusal is JSON: {"field", "detail"}, where detail is a sentence."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import polars as pl
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
from serve.gauges import Gauges
from serve.limits import InvalidRequest, check_count, check_id, refusal
from serve.new_items import Exists
from serve.recommender import Recommender, UnknownItem
from serve.release import NoRoom
from serve.triton import TritonError

logger = logging.getLogger(__name__)
WEB = Path(__file__).parent / "web"
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:", "Cache-Control": "no-cache"}


class RecommendationQuery(BaseModel):
    """The parameters of a recommendation. `time` is ms UTC, `lambda` from 0 (varied) to 1 (best first)."""

    model_config = ConfigDict(extra="forbid")

    user_id: str
    count: int = 25
    context: str = "homepage"
    item_id: str | None = None
    device: str | None = None
    region: str | None = None
    time: int | None = None
    mmr_lambda: Annotated[float, Field(alias="lambda")] = 0.7


class SimilarQuery(BaseModel):
    """How many similar items."""

    model_config = ConfigDict(extra="forbid")

    count: int = 12


class SearchQuery(BaseModel):
    """Part of a title, in any case, and how many items."""

    model_config = ConfigDict(extra="forbid")

    query: str = ""
    count: int = 25


def create_app(recommender: Recommender, *, now_ms: Callable[[], int], gauges: Gauges | None = None) -> FastAPI:
    """The application around one recommender. `now_ms` tells the time of requests and events that do not (ms UTC)."""
    gauges = gauges or Gauges()
    release, store = recommender.release, recommender.store
    app = FastAPI(title="Towers", version=release.manifest.version)
    app.mount("/web", StaticFiles(directory=WEB))

    @app.exception_handler(InvalidRequest)
    def invalid(_: HttpRequest, error: InvalidRequest) -> JSONResponse:
        gauges.refused(422)
        return JSONResponse({"field": error.field, "detail": str(error)}, 422)

    @app.exception_handler(Exists)
    def exists(_: HttpRequest, error: Exists) -> JSONResponse:
        gauges.refused(409)
        return JSONResponse({"field": error.field, "detail": str(error)}, 409)

    @app.exception_handler(NoRoom)
    def no_room(_: HttpRequest, error: NoRoom) -> JSONResponse:
        gauges.refused(507)
        return JSONResponse({"field": "body", "detail": f"{error}."}, 507)

    @app.exception_handler(TritonError)
    def no_model(_: HttpRequest, error: TritonError) -> JSONResponse:
        gauges.refused(503)
        return JSONResponse({"field": "body", "detail": f"Nothing was stored: {error}. Send it again later."}, 503)

    @app.exception_handler(RequestValidationError)
    def unreadable(request: HttpRequest, error: RequestValidationError) -> JSONResponse:
        return invalid(request, refusal(error))

    @app.exception_handler(UnknownItem)
    def unknown(_: HttpRequest, error: UnknownItem) -> JSONResponse:
        gauges.refused(404)
        return JSONResponse({"field": "item_id", "detail": str(error)}, 404)

    @app.get("/v1/recommendations")
    def recommendations(query: Annotated[RecommendationQuery, Query()]) -> JSONResponse:
        request = Request(
            query.user_id,
            timestamp=now_ms() if query.time is None else query.time,
            count=query.count,
            context=query.context,
            item_id=query.item_id,
            device=query.device,
            region=query.region,
            mmr_lambda=query.mmr_lambda,
        )
        return _answer(recommender.recommend(request), gauges)

    @app.get("/v1/items/{item_id:path}/similar")
    def similar(item_id: str, query: Annotated[SimilarQuery, Query()]) -> JSONResponse:
        check_id("item_id", item_id)
        return _answer(recommender.similar(item_id, query.count), gauges)

    @app.get("/v1/items")
    def items(query: Annotated[SearchQuery, Query()]) -> JSONResponse:
        check_count(query.count)
        named = pl.col("title").str.to_lowercase().str.contains(query.query.lower(), literal=True)
        found = release.catalogue.frame.lazy().filter(named).head(query.count).select("item_id", "title", "genres").collect()
        return JSONResponse({"items": found.to_dicts()})

    @app.get("/v1/users")
    def users(query: Annotated[SimilarQuery, Query()]) -> JSONResponse:
        check_count(query.count)
        return JSONResponse({"user_ids": release.users["user_id"].head(query.count).to_list()})

    @app.post("/v1/events", openapi_extra=events.OPENAPI)
    async def post_events(request: HttpRequest) -> JSONResponse:
        body = b""
        async for part in request.stream():
            body += part
            events.check_size(len(body))
        receipt = await run_in_threadpool(events.record, events.parse(body, now_ms()), release, store)
        gauges.received(receipt.stored, receipt.repeated)
        return JSONResponse({"stored": receipt.stored, "repeated": receipt.repeated})

    @app.post("/v1/items", openapi_extra=new_items.OPENAPI)
    async def post_items(request: HttpRequest) -> JSONResponse:
        body = b""
        async for part in request.stream():
            body += part
            new_items.check_size(len(body))
        items = await run_in_threadpool(new_items.parse, body, now_ms(), release)
        receipt = await run_in_threadpool(new_items.post, items, release, recommender.scorer.client, store)
        return JSONResponse({"stored": receipt.stored})

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        client = recommender.scorer.client
        ready = client.ready()
        said = "ready" if ready else f"Triton at {client.url} does not answer; popular items are served meanwhile"
        return JSONResponse({"status": said, "model_version": release.manifest.version}, 200 if ready else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(gauges.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers=PAGE_HEADERS)

    return app


def _answer(slate: Slate, gauges: Gauges) -> JSONResponse:
    gauges.answered(slate)
    return JSONResponse(as_json(slate))


def as_json(slate: Slate) -> dict[str, object]:
    """A slate as it stands in an answer, over HTTP and on the command line."""
    return {
        "recommendations": [
            {"item_id": shown.item_id, "title": shown.title, "score": shown.score, "reason": shown.reason, "row": shown.row}
            for shown in slate.recommendations
        ],
        "model_version": slate.model_version,
        "generated_in_ms": round(slate.generated_in_ms, 3),
        "answered_by": slate.answered_by,
        "request_id": slate.request_id,
        "stage_ms": {stage: round(ms, 3) for stage, ms in slate.stage_ms.items()},
        "dropped": slate.dropped,
    }
