"""What every request passes, whatever it asks: it gets an id, is logged in one line, and its answer says what browsers may do with it."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("serve.access")
GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """ASGI middleware. A good `X-Request-ID` (letters, digits, dots, dashes, underscores, at most 128) is kept and sent back, any other
    replaced. The log names the route, not the address that was typed: no id of a user, no key, no line that a stranger wrote."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("x-request-id", "")
        request_id = told if GOOD_ID.fullmatch(told) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        start, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            ms = 1000 * (time.perf_counter() - start)
            route = getattr(scope.get("route"), "path", "no route")
            said = {"request_id": request_id, "method": scope["method"], "route": route, "status": status, "ms": round(ms, 3)}
            said |= {"key": scope["state"].get("key"), "address": (scope.get("client") or ("",))[0]}
            logger.info("%s %s %d in %.1f ms", scope["method"], route, status, ms, extra=said)
