"""OpenAPI 3.1, and the page that shows it: every route with what it wants, what it answers and how it refuses."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from serve.api.access import Door
from serve.api.answers import Refusal
from serve.api.queries import QuizAnswer, QuizAnswers
from serve.events import PostedEvent
from serve.new_items import PostedItem

DESCRIPTION = """What should this user be shown, here and now, and why. Every refusal is `{"field", "detail", "request_id"}`; unknown
fields are refused by name. Every answer has an `X-Request-ID`: yours, where you sent one. A cached answer has an `ETag`."""
WHY = {
    400: "What was sent cannot be read.", 401: "A key is wanted, or this one opens nothing.", 403: "The key's role may not do this.",
    404: "There is no such thing.", 409: "It is there already, has no room, or cannot be moved.", 413: "The body is too large.",
    415: "The body is not application/json.", 422: "A field is not what it should be.", 429: "Too many requests; see Retry-After.",
    503: "A part that this needs is away.",
}  # fmt: skip
KEY = {"type": "http", "scheme": "bearer", "description": "A key that `python -m serve key add` made; roles: reader, writer, admin."}
LINKS = {
    "recommendations": {
        "similar": {"item_id": "$response.body#/recommendations/0/item_id"},
        "explanations": {"user_id": "$request.query.user_id", "explain": "$response.body#/recommendations/0/item_id"},
        "recommendations": {"user_id": "$request.query.user_id", "count": "$request.query.count", "cursor": "$response.body#/next"},
    },
    "users": {"recommendations": {"user_id": "$response.body#/user_ids/0"}, "user": {"user_id": "$response.body#/user_ids/0"}},
    "items": {"item": {"item_id": "$response.body#/items/0/item_id"}, "items": {"cursor": "$response.body#/next"}},
    "item": {"similar": {"item_id": "$response.body#/item_id"}},
    "similar": {"item": {"item_id": "$response.body#/recommendations/0/item_id"}},
}
"""What of an answer goes into which next request: operation → operation → parameter."""
SWAGGER = Path(str(files("fastapi_offline"))) / "static"  # Swagger UI as a package: the page asks no other server for it
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Towers API</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/files/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/files/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script></body></html>
"""
START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});'
BODIES = (QuizAnswer, QuizAnswers, PostedEvent, PostedItem)
REF = "#/components/schemas/{model}"


def says(
    model: type[BaseModel], *refusals: int, cached: bool = False, bare: bool = False, also: dict[int, type[BaseModel]] | None = None
) -> dict:
    """What a route's decorator is told: its answer, and the statuses it refuses with besides those that every route of its kind has
    (`bare`: none)."""
    usual = () if bare else (422, 429, 503)
    responses: dict[int, dict[str, Any]] = {status: {"model": Refusal, "description": WHY[status]} for status in (*refusals, *usual)}
    responses |= {status: {"model": other} for status, other in (also or {}).items()}
    if cached:
        responses[304] = {"description": "What you have (If-None-Match) is what there is."}
    return {"responses": {200: {"model": model}} | responses, "response_model": None, "response_class": JSONResponse}


def accepts(model: type[BaseModel], *, most: int | None = None) -> dict[str, Any]:
    """The body of a route that reads it by itself: one `model`, or, up to `most`, a list of them."""
    one = {"$ref": REF.format(model=model.__name__)}
    schema = one if most is None else {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": most}]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def add(app: FastAPI, door: Door, routers: Sequence[APIRouter]) -> None:
    """Have the application tell its document, of these routers, at /openapi.json, and show it at /docs."""

    @cache
    def document() -> dict[str, Any]:
        told = get_openapi(title=app.title, version="1", summary="A two-tower recommender", description=DESCRIPTION, routes=app.routes)
        told["components"]["schemas"] |= {model.__name__: model.model_json_schema(ref_template=REF) for model in BODIES}
        for model in BODIES:
            told["components"]["schemas"][model.__name__].pop("$defs", None)
        told["components"].setdefault("securitySchemes", {})["key"] = KEY
        for route in (route for router in routers for route in router.routes if isinstance(route, APIRoute)):
            for method in route.methods:
                _complete(told["paths"][route.path_format][method.lower()], route, door)
        return told

    app.openapi = document

    @app.get("/openapi.json", include_in_schema=False)
    def openapi() -> Response:
        return JSONResponse(document())

    @app.get("/docs", include_in_schema=False)
    def shown() -> Response:
        return Response(
            PAGE,
            media_type="text/html",
            headers={"Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"},
        )

    @app.get("/docs/start.js", include_in_schema=False)
    def start() -> Response:
        return Response(START, media_type="text/javascript")

    app.mount("/docs/files", StaticFiles(directory=SWAGGER))


def _complete(told: dict[str, Any], route: APIRoute, door: Door) -> None:
    """Say of one route what its dependencies and its body add."""
    refused = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    statuses = [413, 415] if "requestBody" in told else []
    if any(door.keyed(one.dependency) for one in route.dependencies):
        told["security"] = [{"key": []}]
        statuses += [401, 403]
    if links := LINKS.get(told["operationId"]):
        told["responses"]["200"]["links"] = {to: {"operationId": to, "parameters": filled} for to, filled in links.items()}
    told["responses"] |= {str(status): {"description": WHY[status], "content": refused} for status in statuses}
    for status, response in told["responses"].items():
        response.setdefault("headers", {})["X-Request-ID"] = {"schema": {"type": "string"}}
        if status in ("200", "304") and "304" in told["responses"]:
            response["headers"]["ETag"] = {"schema": {"type": "string"}}
        if status == "429":
            response["headers"]["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds."}
