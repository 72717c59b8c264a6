"""The application: routes, refusals, and who lets requests in. Every refusal is JSON: {"field", "detail", "request_id"}, where detail is
a sentence."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from serve import new_items
from serve.api import documents, operations, routes
from serve.api.access import Door, NotAllowed, NotKnown, TooMany
from serve.api.bodies import NotJson, TooLarge
from serve.api.guard import Guard
from serve.api.keys import KeysError
from serve.engine import Engine, NoSuchArm, Unavailable
from serve.limits import InvalidRequest, refusal
from serve.manifest import ReleaseError
from serve.publication import NoSuchRelease
from serve.pulse import EVERY_S, Pulse
from serve.release import NoRoom
from serve.settings import Access
from serve.slates import UnknownItem
from serve.store import StoreError, wall_clock_ms
from serve.triton import TritonError

logger = logging.getLogger(__name__)
WEB = Path(__file__).parents[1] / "web"
OPEN = Access(reading="open", writing="open", keys=None, rates={}, origins=())
"""For a program of one's own that knows who asks; administering is nobody's."""


def create_app(engine: Engine, access: Access = OPEN, *, every_s: float = EVERY_S) -> FastAPI:
    """The application around one engine, which lives as long as the caller lets it. The console has a point for every `every_s` seconds."""
    door = Door(access, wall_clock_ms)  # keys end by the wall, also where an old log is served as if it had just ended
    pulse = Pulse(engine, every_s=every_s)

    @asynccontextmanager
    async def beating(_: FastAPI) -> AsyncIterator[None]:
        with pulse.beating():
            yield

    app = FastAPI(
        title="Towers",
        lifespan=beating,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
    )
    app.add_middleware(Guard)
    if access.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=access.origins, allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Deadline-Ms", "X-Request-ID", "If-None-Match"],
            expose_headers=["X-Request-ID", "ETag", "Retry-After"],
        )  # fmt: skip
    _refuse(app, engine.gauges.refused)
    routers = (
        routes.reading(engine, door),
        routes.writing(engine, door),
        routes.standing(engine),
        operations.operations(engine, door, pulse),
    )
    for router in routers:
        app.include_router(router)
    documents.add(app, door, routers)
    app.mount("/web", StaticFiles(directory=WEB))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/console", include_in_schema=False)
    def console() -> FileResponse:
        return FileResponse(WEB / "console.html", headers={"Cache-Control": "no-cache"})

    return app


def _refuse(app: FastAPI, count: Callable[[int], None]) -> None:
    """Have everything that can go wrong said in one shape, and counted by its status."""

    def said(request: HttpRequest, status: int, field: str | None, detail: str, **headers: str) -> JSONResponse:
        count(status)
        return JSONResponse({"field": field, "detail": detail, "request_id": request.state.request_id}, status, headers or None)

    def of(status: int, field: str | None = None, **headers: str) -> Callable[[HttpRequest, Exception], JSONResponse]:
        return lambda request, error: said(request, status, field, str(error), **headers)

    def invalid(request: HttpRequest, error: InvalidRequest) -> JSONResponse:
        return said(request, 409 if isinstance(error, new_items.Exists) else 422, error.field, str(error))

    def away(request: HttpRequest, error: Exception) -> JSONResponse:
        logger.error("refused: %s", error)
        return said(request, 503, None, str(error))

    def broken(request: HttpRequest, error: Exception) -> JSONResponse:
        return said(request, 500, None, f"Something broke here ({type(error).__name__}); the log says what, under this request_id.")

    def plain(request: HttpRequest, error: HTTPException) -> JSONResponse:
        detail = {404: "There is nothing here; /openapi.json tells what there is.", 405: f"{request.method} is not answered here."}
        return said(request, error.status_code, None, detail.get(error.status_code, str(error.detail)), **(error.headers or {}))

    def too_many(request: HttpRequest, error: TooMany) -> JSONResponse:
        return said(request, 429, None, str(error), **{"Retry-After": str(error.retry_after_s)})

    handlers = {
        InvalidRequest: invalid,
        RequestValidationError: lambda request, error: invalid(request, refusal(error)),
        ReleaseError: lambda request, error: said(request, 409, "version", error.plain),
        NoSuchRelease: lambda request, error: said(request, 404, "version", error.plain),
        UnknownItem: of(404, "item_id"),
        NoSuchArm: of(404, "arm"),
        NotKnown: of(401, None, **{"WWW-Authenticate": "Bearer"}),
        NotAllowed: of(403),
        TooLarge: of(413, "body"),
        NotJson: of(415, "Content-Type"),
        TooMany: too_many,
        NoRoom: of(409),
        **dict.fromkeys((StoreError, TritonError, Unavailable, KeysError), away),
        HTTPException: plain,
        Exception: broken,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
