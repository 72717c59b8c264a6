"""What one may ask and tell, route by route. An answer is a plain dictionary made by the engine; its model only documents it, so that no
time is spent on checking ourselves."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serve import events, new_items, paging
from serve.api import answers
from serve.api.access import Door
from serve.api.answers import as_json
from serve.api.bodies import body
from serve.api.documents import accepts, says
from serve.api.queries import (
    ExplanationQuery,
    ItemId,
    NoQuery,
    QuizAnswers,
    RecommendationQuery,
    SearchQuery,
    SimilarQuery,
    UsersQuery,
)  # fmt: skip
from serve.engine import Engine
from serve.limits import check_id, one_or_many, validated

LONGEST_WAIT_MS = 600_000
MAX_QUIZ_BYTES = 64 * 1024
Within = Annotated[float | None, Header(alias="X-Deadline-Ms", gt=0, le=LONGEST_WAIT_MS, description="ms that the caller will still wait.")]
Nothing = Annotated[NoQuery, Query()]


def reading(engine: Engine, door: Door) -> APIRouter:
    """Routes that change nothing."""
    router = APIRouter(dependencies=[Depends(door.reading)])

    @router.get("/v1/recommendations", **says(answers.Recommendations, 404), summary="What should this user be shown?")
    def recommendations(query: Annotated[RecommendationQuery, Query()], within_ms: Within = None) -> Response:
        request = query.request(engine.now_ms(), within_ms)
        slate, arm = engine.recommend(request) if query.arm is None else (engine.preview(request, query.arm), query.arm)
        after = paging.cursor(request.before, [shown.item_id for shown in slate.recommendations], asked=request.count)
        return JSONResponse(as_json(slate) | {"arm": arm, "next": after}, headers={"Cache-Control": "no-store"})

    @router.get("/v1/explanations", **says(answers.Explanation, 404), summary="Why is an item there, or why not?")
    def explanations(query: Annotated[ExplanationQuery, Query()], within_ms: Within = None) -> Response:
        told = engine.explain(query.request(engine.now_ms(), within_ms), query.explained, query.arm)
        return JSONResponse(told, headers={"Cache-Control": "no-store"})

    @router.get("/v1/items", **says(answers.Items, cached=True), summary="Search titles")
    def items(query: Annotated[SearchQuery, Query()], request: HttpRequest) -> Response:
        found = engine.search(query.query, first=query.cursor, count=query.count + 1)
        more = len(found) > query.count
        return _cached(request, {"items": found[: query.count], "next": query.cursor + query.count if more else None})

    @router.get("/v1/items/{item_id:id}/similar", **says(answers.SlateAnswer, 404), summary="What lies near an item?")
    def similar(item_id: ItemId, query: Annotated[SimilarQuery, Query()]) -> Response:
        check_id("item_id", item_id)
        return JSONResponse(as_json(engine.similar(item_id, query.count)))

    @router.get("/v1/items/{item_id:id}", **says(answers.Item, 404, cached=True), summary="What is known of an item?")
    def item(item_id: ItemId, query: Nothing, request: HttpRequest) -> Response:
        check_id("item_id", item_id)
        return _cached(request, engine.item(item_id))

    @router.get("/v1/users", **says(answers.Users), summary="Some users")
    def users(query: Annotated[UsersQuery, Query()]) -> Response:
        return JSONResponse({"user_ids": engine.users(query.count)})

    @router.get("/v1/users/{user_id:id}", **says(answers.User), summary="What is known of a user?")
    def user(user_id: ItemId, query: Nothing) -> Response:
        check_id("user_id", user_id)
        return JSONResponse(engine.user(user_id), headers={"Cache-Control": "no-store"})

    @router.get("/v1/service", **says(answers.Service), summary="What may be asked here?")
    def service(query: Nothing) -> Response:
        return JSONResponse(engine.service() | {"access": {"reading": door.access.reading, "writing": door.access.writing}})

    @router.post("/v1/quiz", **says(answers.Question, 404), openapi_extra=accepts(QuizAnswers), summary="The next question")
    async def quiz(query: Nothing, request: HttpRequest) -> Response:
        told = _quiz(await body(request, MAX_QUIZ_BYTES))
        question = await run_in_threadpool(engine.question, told.pairs())
        return JSONResponse({"question": question, "answered": len(told.answers)})

    return router


def writing(engine: Engine, door: Door) -> APIRouter:
    """Routes by which something is told."""
    router = APIRouter(dependencies=[Depends(door.writing)])

    @router.post(
        "/v1/events",
        **says(answers.EventsReceipt, 404),
        openapi_extra=accepts(events.PostedEvent, most=events.MAX_EVENTS),
        summary="What users did",
    )
    async def post_events(query: Nothing, request: HttpRequest) -> Response:
        receipt = await run_in_threadpool(engine.record, await body(request, events.MAX_BODY_BYTES))
        return JSONResponse({"stored": receipt.stored, "repeated": receipt.repeated})

    @router.post(
        "/v1/items",
        **says(answers.ItemsReceipt, 409),
        openapi_extra=accepts(new_items.PostedItem, most=new_items.MAX_ITEMS),
        summary="New items",
    )
    async def post_items(query: Nothing, request: HttpRequest) -> Response:
        receipt = await run_in_threadpool(engine.post_items, await body(request, new_items.MAX_BODY_BYTES))
        return JSONResponse({"stored": receipt.stored})

    @router.post("/v1/users/{user_id:id}/quiz", **says(answers.Kept, 404), openapi_extra=accepts(QuizAnswers), summary="Keep answers")
    async def keep_quiz(user_id: ItemId, query: Nothing, request: HttpRequest) -> Response:
        told = _quiz(await body(request, MAX_QUIZ_BYTES))
        return JSONResponse({"kept": await run_in_threadpool(engine.answered, user_id, told.pairs())})

    return router


def standing(engine: Engine) -> APIRouter:
    """How the server stands: for load balancers and Prometheus, who bring no key and are not counted."""
    router = APIRouter()

    @router.get("/healthz", **says(answers.Alive, bare=True), summary="Does the process run?")
    async def healthz() -> Response:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz", **says(answers.Ready, bare=True, also={503: answers.Ready}), summary="Is everything in its place?")
    def readyz() -> Response:
        ready, told = engine.readiness()
        said = "ready" if ready else "; ".join(f"{part}: {what}" for part, what in told["parts"].items() if what != "ready")
        return JSONResponse({"status": said} | told, 200 if ready else 503)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, summary="For Prometheus")
    def metrics() -> Response:
        return Response(engine.gauges.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _quiz(raw: bytes) -> QuizAnswers:
    ((within, told),) = one_or_many(raw, most=1, what="objects")
    read = validated(QuizAnswers, told, within, "the answers of a quiz")
    for number, one in enumerate(read.answers):
        check_id(f"answers.{number}.item_id", one.item_id)
    return read


def _cached(request: HttpRequest, told: dict[str, Any]) -> Response:
    """An answer that is the same until the catalogue changes: with an ETag, and no body for whoever has it already."""
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    tag = f'"{hashlib.blake2b(text, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    known = {one.strip().removeprefix("W/") for one in request.headers.get("If-None-Match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(text, media_type="application/json", headers=headers)
