"""The two clients: one that waits, and one that is awaited. They differ in nothing else; `serve.client.calls` says what can be asked."""

import functools
import inspect
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from pydantic import BaseModel, SecretStr
from tenacity import AsyncRetrying, Retrying

from serve.api.answers import Items, Recommendations
from serve.client import calls
from serve.client.calls import Call
from serve.client.course import Came, Course, Courses
from serve.client.retries import Retries

P, A, G = ParamSpec("P"), TypeVar("A", bound=BaseModel), TypeVar("G", Recommendations, Items)
KEEPALIVE_S = 4.0  # uvicorn drops an idle connection after 5, and a request that meets this is lost
GOOD_KEY = re.compile(r"[!-~]+")
USUAL = Retries()


def _as(build: Callable, method: Callable, doc: str | None) -> Any:
    """`method` with the name, the parameters and the words of the function that builds its call: they are written once."""
    told = inspect.signature(build)
    method.__name__, method.__doc__ = build.__name__, doc
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = told.replace(parameters=[own, *told.parameters.values()], return_annotation=inspect.Signature.empty)
    return method


def _now(build: Callable[P, Call[A]]) -> Callable[Concatenate["Towers", P], A]:
    def method(self: "Towers", /, *args: P.args, **kwargs: P.kwargs) -> A:
        return self._answer(build(*args, **kwargs))

    return _as(build, method, build.__doc__)


def _later(build: Callable[P, Call[A]]) -> Callable[Concatenate["AsyncTowers", P], Coroutine[Any, Any, A]]:
    async def method(self: "AsyncTowers", /, *args: P.args, **kwargs: P.kwargs) -> A:
        return await self._answer(build(*args, **kwargs))

    return _as(build, method, build.__doc__)


def _pages_now(build: Callable[P, Call[G]]) -> Callable[Concatenate["Towers", P], Iterator[G]]:
    def method(self: "Towers", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[G]:
        call: Call[G] | None = build(*args, **kwargs)
        while call is not None:
            page = self._answer(call)
            yield page
            call = call.after(page)

    return _as(build, method, f"The pages of `{build.__name__}` one after another, each asked for when it is wanted, in a time of its own.")


def _pages_later(build: Callable[P, Call[G]]) -> Callable[Concatenate["AsyncTowers", P], AsyncIterator[G]]:
    async def method(self: "AsyncTowers", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[G]:
        call: Call[G] | None = build(*args, **kwargs)
        while call is not None:
            page = await self._answer(call)
            yield page
            call = call.after(page)

    return _as(build, method, f"The pages of `{build.__name__}` one after another, each asked for when it is wanted, in a time of its own.")


class Towers:
    """A client that waits for each answer. Threads may share it.

    `key` is sent with every request and shown nowhere. A call takes `timeout_s` at most, all attempts together, unless it is told its own;
    a `deadline` around it holds too. At most `connections` are open at once; a call waits for one within its time.

    >>> with Towers("http://127.0.0.1:8080", key="tw_…", timeout_s=0.5) as towers:
    ...     slate = towers.recommend("u42", count=10)

    Every method raises Refused, Unreachable, TooLate or Misread, the family of TowersError, and ValueError for what cannot be sent.

    Raises:
        ValueError: an address, a key, a time or a number that cannot be.
    """

    _url = "no address"  # until there is one: whoever prints a frame asks for this

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 1.0, retries: Retries = USUAL, connections: int = 32
    ) -> None:
        secret = None if key is None else SecretStr(key)
        del key  # whoever prints the variables of a frame finds none
        self._url, self._courses = _address(url), Courses(timeout_s, retries)
        # No timeout of its own: each request brings what is left of its call.
        self._http = httpx.Client(base_url=self._url, auth=_auth(secret), limits=_limits(connections), timeout=None, verify=_trusted())

    def _answer(self, call: Call[A]) -> A:
        course = self._courses.begin(call)
        for attempt in Retrying(**course.policy()):
            with attempt:
                return course.read(self._exchange(course))
        raise AssertionError("either an attempt returned, or the last one's error was raised")

    def _exchange(self, course: Course[A]) -> Came:
        request = course.request(self._http)
        try:
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    course.check()
            finally:
                response.close()
        except httpx.RequestError as error:
            failure = course.failed(error)
        else:
            return Came(response.status_code, response.headers, bytes(body))
        raise failure

    def close(self) -> None:
        """Close all connections; again does nothing."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Towers({self._url!r})"

    recommend, pages = _now(calls.recommend), _pages_now(calls.recommend)
    explain, similar = _now(calls.explain), _now(calls.similar)
    search, search_pages = _now(calls.search), _pages_now(calls.search)
    item, users, user = _now(calls.item), _now(calls.users), _now(calls.user)
    service, ready = _now(calls.service), _now(calls.ready)
    record, post_items = _now(calls.record), _now(calls.post_items)
    question, keep_answers = _now(calls.question), _now(calls.keep_answers)


class AsyncTowers:
    """A client that is awaited, and else the same as Towers. Tasks of one event loop may share it.

    >>> async with AsyncTowers("http://127.0.0.1:8080", timeout_s=0.5) as towers:
    ...     slate = await towers.recommend("u42", count=10)

    Raises:
        ValueError: an address, a key, a time or a number that cannot be.
    """

    _url = "no address"  # until there is one: whoever prints a frame asks for this

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 1.0, retries: Retries = USUAL, connections: int = 32
    ) -> None:
        secret = None if key is None else SecretStr(key)
        del key
        self._url, self._courses = _address(url), Courses(timeout_s, retries)
        self._http = httpx.AsyncClient(base_url=self._url, auth=_auth(secret), limits=_limits(connections), timeout=None, verify=_trusted())

    async def _answer(self, call: Call[A]) -> A:
        course = self._courses.begin(call)
        async for attempt in AsyncRetrying(**course.policy()):
            with attempt:
                return course.read(await self._exchange(course))
        raise AssertionError("either an attempt returned, or the last one's error was raised")

    async def _exchange(self, course: Course[A]) -> Came:
        request = course.request(self._http)
        try:
            response = await self._http.send(request, stream=True)
            try:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    course.check()
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            failure = course.failed(error)
        else:
            return Came(response.status_code, response.headers, bytes(body))
        raise failure

    async def close(self) -> None:
        """Close all connections; again does nothing."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncTowers({self._url!r})"

    recommend, pages = _later(calls.recommend), _pages_later(calls.recommend)
    explain, similar = _later(calls.explain), _later(calls.similar)
    search, search_pages = _later(calls.search), _pages_later(calls.search)
    item, users, user = _later(calls.item), _later(calls.users), _later(calls.user)
    service, ready = _later(calls.service), _later(calls.ready)
    record, post_items = _later(calls.record), _later(calls.post_items)
    question, keep_answers = _later(calls.question), _later(calls.keep_answers)


class _Bearer(httpx.Auth):
    def __init__(self, secret: SecretStr) -> None:
        self._secret = secret

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        request.headers["Authorization"] = f"Bearer {self._secret.get_secret_value()}"
        yield request


def _auth(secret: SecretStr | None) -> _Bearer | None:
    """What puts the key into each request. A key that no header can hold is refused here: httpx's complaint would show it."""
    if secret is None:
        return None
    if not GOOD_KEY.fullmatch(secret.get_secret_value()):
        raise ValueError("key is empty or holds a blank, a line's end or a letter beyond ASCII; expected what `key add` printed, stripped.")
    return _Bearer(secret)


def _address(url: str) -> str:
    try:
        read = httpx.URL(url)
    except httpx.InvalidURL as error:
        wrong = str(error)
    else:
        wrong = ""
    if wrong:
        raise ValueError(f"url is no address: {wrong}; expected one like http://127.0.0.1:8080.")
    if read.scheme not in ("http", "https") or not read.host or read.userinfo or read.query or read.fragment:
        raise ValueError("url is not where a server is; expected one like http://127.0.0.1:8080, with no name, password or query in it.")
    return str(read)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The authorities whose certificates are believed; reading them takes longer than a call does."""
    return httpx.create_ssl_context()


def _limits(connections: int) -> httpx.Limits:
    if connections < 1:
        raise ValueError(f"connections is {connections}; expected 1 or more.")
    return httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S)
