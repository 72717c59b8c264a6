"""One call under way: what each attempt sends, what is made of what comes back, and whether there is another attempt. No I/O here: the two
clients share all of this, and differ in how they wait."""

import json
import math
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NamedTuple, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState

from serve.api.answers import Refusal
from serve.client.calls import Call
from serve.client.deadlines import LEAST_S, Left, end_within, told_ms
from serve.client.errors import Misread, Refused, TooLate, TowersError, Unreachable
from serve.client.retries import Budget, Retries, asked_s, passing

A = TypeVar("A", bound=BaseModel)
KEPT_ANSWERS, KEPT_BYTES = 256, 256 * 1024  # answers that a client keeps, and the most bytes that one of them has


class Came(NamedTuple):
    """What came back: everything, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Kept:
    """Answers that had an ETag, the last used ones, as bytes: each call reads its own copy. Threads may share it."""

    def __init__(self, most: int = KEPT_ANSWERS) -> None:
        self._most, self._lock = most, threading.Lock()
        self._kept: OrderedDict[object, tuple[str, bytes]] = OrderedDict()

    def get(self, asked: object) -> tuple[str, bytes] | None:
        """(ETag, body) of what was answered last."""
        with self._lock:
            if asked in self._kept:
                self._kept.move_to_end(asked)
            return self._kept.get(asked)

    def put(self, asked: object, tag: str, body: bytes) -> None:
        """Keep an answer, unless it is large; what was not asked for longest gives way."""
        if len(body) > KEPT_BYTES:
            return
        with self._lock:
            self._kept[asked] = (tag, body)
            self._kept.move_to_end(asked)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)


class Courses:
    """What all calls of one client share. Raises ValueError for a `timeout_s` that is no time."""

    def __init__(self, timeout_s: float, retries: Retries) -> None:
        self.timeout_s, self.retries = _seconds(timeout_s), retries
        self.budget, self.kept = Budget(retries.share, retries.reserve), Kept()

    def begin(self, call: Call[A]) -> "Course[A]":
        """A call begins, and with it its time."""
        self.budget.called()
        return Course(call, self)


class Course(Generic[A]):
    """One call under way, under one request id and one deadline."""

    def __init__(self, call: Call[A], shared: Courses) -> None:
        self._call, self._shared = call, shared
        self._end = end_within(shared.timeout_s if call.timeout_s is None else _seconds(call.timeout_s))
        self._request_id, self._attempt = uuid.uuid4().hex, 0
        self._asked = (call.path, *sorted(call.params.items()))
        self._known = shared.kept.get(self._asked) if call.method == "GET" else None
        self._body = None if call.body is None else json.dumps(call.body, allow_nan=False, separators=(",", ":")).encode()

    def policy(self) -> dict[str, Any]:
        """What tenacity is told: what to repeat, after how long, and when no more. The error raised is that of the last attempt."""
        jitter = self._shared.retries.jitter()
        return {"retry": passing, "wait": lambda state: asked_s(state) + jitter(state), "stop": self._enough, "reraise": True}

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The next attempt; it tells the server what is left.

        Raises:
            TooLate: nothing is.
        """
        left_s = self._end - time.monotonic()
        if left_s < LEAST_S:
            raise self._error(TooLate, "no time is left to ask")
        self._attempt += 1
        headers = {"X-Request-ID": self._request_id, "X-Deadline-Ms": str(told_ms(left_s))}
        if self._known is not None:
            headers["If-None-Match"] = self._known[0]
        if self._body is not None:
            headers["Content-Type"] = "application/json"
        return http.build_request(
            self._call.method, self._call.path, params=dict(self._call.params), headers=headers, content=self._body,
            extensions={"timeout": Left(self._end)},
        )  # fmt: skip

    def check(self) -> None:
        """Between two parts of an answer: raises TooLate where it comes too slowly."""
        if time.monotonic() > self._end:
            raise self._error(TooLate, "the answer had begun, and did not end in time")

    def failed(self, error: httpx.RequestError) -> TowersError:
        """What it means that an attempt was not answered. The error itself is not kept: its frames hold what was sent."""
        said = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        if isinstance(error, httpx.TimeoutException):
            return self._error(TooLate, f"no answer in time: {said}")
        if isinstance(error, httpx.DecodingError):
            return self._error(Misread, f"the answer cannot be unpacked: {said}")
        return self._error(Unreachable, f"no answer: {said}")

    def read(self, came: Came) -> A:
        """The answer, typed. Fields that this client does not know yet are left out.

        Raises:
            Refused: the server said no.
            Misread: the answer lacks something, or is none.
        """
        body = came.body
        if came.status == 304 and self._known is not None:
            body = self._known[1]
        elif came.status not in self._call.answered_at:
            raise self._refused(came)
        try:
            answer = self._call.answer.model_validate_json(body, extra="ignore")
        except ValidationError as error:
            wrong = _complaint(error)
        else:
            if self._call.method == "GET" and came.status == 200 and (tag := came.headers.get("ETag")):
                self._shared.kept.put(self._asked, tag, body)
            return answer
        raise self._error(Misread, f"the answer to {self._call.method} {self._call.path} {wrong}", status=came.status)

    def _enough(self, state: RetryCallState) -> bool:
        """Whether no attempt follows; the budget is asked last, since asking takes from it."""
        if state.attempt_number >= self._shared.retries.attempts:
            return True
        if time.monotonic() + state.upcoming_sleep + LEAST_S >= self._end:
            return True
        return not self._shared.budget.take()

    def _refused(self, came: Came) -> Refused:
        after = _retry_after_s(came.headers.get("Retry-After", ""))
        try:
            told = Refusal.model_validate_json(came.body, extra="ignore")
        except ValidationError:  # something that stands between, or another server altogether
            detail = f"{self._call.method} {self._call.path} was answered by something that is not Towers; look at what listens there"
            return self._error(Refused, detail, status=came.status, retry_after_s=after)
        return self._error(Refused, told.detail, status=came.status, field=told.field, retry_after_s=after)

    def _error(self, kind: type, detail: str, **told: object) -> Any:
        return kind(detail, request_id=self._request_id, attempts=self._attempt, **told)


def _seconds(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"timeout_s is {value}; expected seconds, more than 0.")
    return value


def _complaint(error: ValidationError) -> str:
    """What an answer is not; what is missing by name."""
    found = error.errors(include_url=False, include_input=False)
    missing = [".".join(map(str, one["loc"])) for one in found if one["type"] == "missing"]
    if missing:
        return f"lacks {', '.join(missing)}; the server may be older than this client."
    return f"is not what was promised: {'.'.join(map(str, found[0]['loc'])) or 'body'}: {found[0]['msg']}."


def _retry_after_s(told: str) -> float | None:
    """Seconds in a Retry-After: a number of them, or a date (RFC 9110, 10.2.3); None where it says neither."""
    if told.isdecimal():
        return float(told)
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None
