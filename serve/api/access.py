"""The doorkeeper: which key opens what, and how often. Reading, writing, administering; each a dependency of the routes it guards."""

import math
import time
from collections.abc import Callable

from fastapi import Request as HttpRequest
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from serve.api.keys import Key, Keys
from serve.settings import Access

REMEDY = "send `Authorization: Bearer <key>`; `python -m serve key add` makes one"


class NotKnown(PermissionError):
    """No key, or one that opens nothing."""


class NotAllowed(PermissionError):
    """A key of a role that may not do this."""


class TooMany(RuntimeError):
    """More requests than one may make; `retry_after_s` says when there is room again."""

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class Door:
    """Lets requests in, by the settings. The dependencies are async: what they do takes microseconds and needs no thread.

    Rates are of one key, or of one address where there is no key, in this process.
    """

    def __init__(self, access: Access, now_ms: Callable[[], int]) -> None:
        self.access = access
        self._keys, self._now_ms = None if access.keys is None else Keys(access.keys), now_ms
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._rates: dict[str, RateLimitItem] = {what: parse(rate) for what, rate in access.rates.items() if rate is not None}

    async def reading(self, request: HttpRequest) -> None:
        """Raises NotKnown, TooMany, KeysError."""
        self._enter(request, "reading", "reader", keyed=self.access.reading == "keyed")

    async def writing(self, request: HttpRequest) -> None:
        """Raises NotKnown, NotAllowed, TooMany, KeysError."""
        self._enter(request, "writing", "writer", keyed=self.access.writing == "keyed")

    async def administering(self, request: HttpRequest) -> None:
        """Raises NotKnown, NotAllowed, TooMany, KeysError."""
        self._enter(request, "administering", "admin", keyed=True)

    def keyed(self, dependency: Callable) -> bool:
        """Whether a route that this dependency guards wants a key."""
        wants = {"reading": self.access.reading == "keyed", "writing": self.access.writing == "keyed", "administering": True}
        return wants.get(dependency.__name__, False)

    def _enter(self, request: HttpRequest, what: str, role: str, *, keyed: bool) -> None:
        key = self._key(request)
        request.state.key = key.name if key else None  # for the log; the key itself is written nowhere
        address = request.client.host if request.client else "nobody"
        self._count(what, f"key {key.key_id}" if key else f"address {address}")
        if not keyed:
            return
        if key is None:
            sent = "Authorization" in request.headers
            raise NotKnown(f"This key opens nothing here: {REMEDY}." if sent else f"{what.capitalize()} needs a key: {REMEDY}.")
        if not key.may(role):
            raise NotAllowed(f"The key {key.name!r} is a {key.role}'s; {what} needs a key of the role {role}.")

    def _key(self, request: HttpRequest) -> Key | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self._keys is None or scheme.lower() != "bearer" or not token:
            return None
        return self._keys.who(token.strip(), self._now_ms())

    def _count(self, what: str, who: str) -> None:
        rate = self._rates.get(what)
        if rate is None or self._limiter.hit(rate, what, who):
            return
        wait_s = math.ceil(self._limiter.get_window_stats(rate, what, who).reset_time - time.time())
        sentence = f"More than {rate} of {what} by one {who.split()[0]}; wait {max(wait_s, 1)} s, or ask for a higher access.rates.{what}."
        raise TooMany(sentence, max(wait_s, 1))
