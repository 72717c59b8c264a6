"""The client: what it asks is asked once or safely again, never past its deadline, and its key is told to the server alone."""

import asyncio
import logging
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data.schema import EVENT_TYPES
from serve.api import create_app
from serve.api.app import OPEN
from serve.api.keys import Keys
from serve.client import (
    NEVER,
    AsyncTowers,
    Event,
    Misread,
    NewItem,
    Refused,
    Retries,
    TooLate,
    Towers,
    TowersError,
    Unreachable,
    calls,
    deadline,
)
from serve.client.course import Kept
from serve.client.deadlines import end_within, told_ms
from serve.client.retries import Budget
from serve.contract import CONTEXTS, DIVERSITIES
from serve.events import PostedEvent
from serve.new_items import PostedItem
from tests.engines import published, started
from tests.misbehaving import closes, drips, keeps_silent, loses_the_answer_of, nobody, passes_on, refuses, says, told, under_uvicorn
from tests.releases import START_MS

USERS = {"user_ids": ["u1"]}
QUICK = Retries(base_s=0.001, cap_s=0.002)
PATIENT_S = 30.0  # for what a busy machine does; no test waits for it
KEY = "tw_" + "s3cretkey" * 6


def now(url, do, **how):
    with Towers(url, **{"timeout_s": PATIENT_S, "retries": QUICK} | how) as towers:
        return do(towers)


def later(url, do, **how):
    async def asked():
        async with AsyncTowers(url, **{"timeout_s": PATIENT_S, "retries": QUICK} | how) as towers:
            return await do(towers)

    return asyncio.run(asked())


both = pytest.mark.parametrize("ask", [now, later])


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    with started(published(folder / "releases", "v1", items=40), folder / "state", "precomputed.active_minutes=0") as made:
        yield made


@pytest.fixture(scope="module")
def url(engine):
    with under_uvicorn(create_app(engine)) as address:
        yield address


def test_the_client_brings_nothing_of_a_server():
    brought = "faiss polars tritonclient fastapi starlette uvicorn hydra omegaconf torch mlflow numpy".split()
    program = f"import sys, serve.client; print([one for one in {brought} if one in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_may_be_told_is_what_the_server_takes():
    assert [one.name for one in fields(Event)] == list(PostedEvent.model_fields)
    assert [one.name for one in fields(NewItem)] == list(PostedItem.model_fields)
    assert get_args(calls.Context) == CONTEXTS
    assert get_args(calls.Diversity) == DIVERSITIES
    assert get_args(calls.EventType) == EVENT_TYPES


EVENT = Event(user_id="both", item_id="i1", event_type="rate", rating=4.5, timestamp=START_MS)
ASKED = {
    "recommend": lambda t: t.recommend("u8", count=5, device="tv", live=True, mmr_lambda=0.5, arm="champion", time=START_MS + 72_000_000),
    "about an item": lambda t: t.recommend("u8", count=3, context="item", item_id="i3", arm="champion"),
    "explain": lambda t: t.explain("u8", "i7", count=5, time=START_MS + 72_000_000),
    "similar": lambda t: t.similar("i3", count=4),
    "search": lambda t: t.search("1", count=4),
    "item": lambda t: t.item("i3"),
    "users": lambda t: t.users(count=3),
    "user": lambda t: t.user("u8"),
    "service": lambda t: t.service(),
    "ready": lambda t: t.ready(),
    "question": lambda t: t.question({"i1": True, "i2": None}),
    "keep_answers": lambda t: t.keep_answers("a/b ü?#%", {"i1": True, "i2": None}),
    "post_items": lambda t: t.post_items([NewItem(item_id="n1", title="Ñandú", genres=("drama",), content_embedding=(0.1, 0.2))]),
}


@pytest.mark.parametrize("asked", ASKED)
def test_both_clients_send_the_same_and_read_the_same(url, asked):
    read, sent = [], []
    for ask in (now, later):
        with told(passes_on(url)) as between:
            answer = ask(between.url, ASKED[asked], key=KEY).model_dump(exclude={"generated_in_ms", "stage_ms", "request_id", "now"})
        read.append(answer)
        (got,) = between.got
        changing = ("x-request-id", "x-deadline-ms", "host")
        sent.append((got.method, got.path, got.body, {name: value for name, value in got.headers.items() if name not in changing}))
    assert read[0] == read[1] and read[0]
    assert sent[0] == sent[1]
    assert sent[0][3]["authorization"] == f"Bearer {KEY}"


def test_both_clients_have_the_same_methods_with_the_same_words():
    public = [{name: one for name, one in vars(kind).items() if not name.startswith("_")} for kind in (Towers, AsyncTowers)]
    assert list(public[0]) == list(public[1])
    assert {"recommend", "pages", "explain", "record", "ready", "close"} <= set(public[0])
    for name in public[0]:
        assert public[0][name].__doc__ == public[1][name].__doc__
    with pytest.raises(TypeError, match="conut"):
        now("http://127.0.0.1:1", lambda t: t.recommend("u1", conut=3))


@both
@pytest.mark.parametrize("item_id", ["a/b", "..", ".", "ü ?#%", "+"])
def test_any_id_arrives_as_it_is(url, ask, item_id):
    with pytest.raises(Refused) as refused:
        ask(url, lambda t: t.item(item_id))
    assert (refused.value.status, refused.value.field) == (404, "item_id")
    assert calls.item(item_id).path.count("/") == 3  # whatever stands between reads one part
    assert refused.value.detail == f"There is no item {item_id!r} in the catalogue of release v1."


def test_pages_hold_every_item_once_and_end(url):
    def of(pages):
        return [[shown.item_id for shown in page.recommendations] for page in pages]

    async def awaited():
        async with AsyncTowers(url, timeout_s=PATIENT_S) as towers:
            found = [page async for page in towers.search_pages("", count=15)]
            return of([page async for page in towers.pages("stranger", count=15)]), found

    with Towers(url, timeout_s=PATIENT_S) as towers:
        pages, found = of(towers.pages("stranger", count=15)), list(towers.search_pages("", count=15))
    later_pages, later_found = asyncio.run(awaited())
    for read in (pages, later_pages):
        shown = [item_id for page in read for item_id in page]
        assert len(shown) == len(set(shown)) and [len(page) for page in read[:2]] == [15, 15]
        assert {f"i{number}" for number in range(40)} <= set(shown)  # and what other tests posted, as soon as a source proposes it
    assert [len(page.items) for page in found][:2] == [15, 15] and found[-1].next is None
    assert later_found == found


@both
def test_an_answer_cannot_be_changed(url, ask):
    answer = ask(url, lambda t: t.service())
    with pytest.raises(ValidationError, match="frozen"):
        answer.items = 0


@both
def test_a_newer_server_is_understood_and_an_older_ones_gaps_are_named(ask):
    with told(says(200, USERS | {"newer": 1}), says(200, {"items": [{"item_id": "i1", "title": "t", "new": 0}]})) as server:
        assert ask(server.url, lambda t: t.users()).user_ids == ["u1"]
        with pytest.raises(Misread, match=r"GET /v1/items lacks items\.0\.genres, next;") as misread:
            ask(server.url, lambda t: t.search("x"))
    assert (misread.value.status, misread.value.request_id) == (200, server.heads("x-request-id")[1])
    for body in (b"<html>", b"", b'{"user_ids": 3}'):
        with told(says(200, body)) as server, pytest.raises(Misread, match=r"is not what was promised: (body|user_ids): "):
            ask(server.url, lambda t: t.users())


@both
def test_a_deadline_is_kept_and_told_whoever_does_not_answer(ask):
    for step in (keeps_silent, drips):
        with told(step) as server:
            with pytest.raises(TooLate) as late:
                ask(server.url, lambda t: t.users(), timeout_s=0.3)
            assert server.sent < 2_000
        assert len(server.got) == late.value.attempts == 1
        assert 0 < int(server.heads("x-deadline-ms")[0]) <= 280
        assert late.value.request_id == server.heads("x-request-id")[0] and late.value.status is None


@both
def test_time_runs_down_over_attempts_under_one_request_id(ask):
    with told(refuses(503), closes, refuses(503), says(200, USERS)) as server:
        assert ask(server.url, lambda t: t.users(), retries=Retries(base_s=0.05)).user_ids == ["u1"]
    left = [int(one) for one in server.heads("x-deadline-ms")]
    assert len(left) == 4 and left == sorted(left, reverse=True) and left[0] <= 1000 * PATIENT_S
    for first, second in ((0, 1), (1, 2), (2, 3)):  # what was told less is what went by
        passed_ms = 1000 * (server.got[second].at - server.got[first].at)
        assert left[first] - left[second] == pytest.approx(passed_ms, abs=500)
    assert len(set(server.heads("x-request-id"))) == 1


@both
def test_the_nearest_of_three_deadlines_holds(ask):
    with told(says(200, USERS)) as server:
        with deadline(20):
            ask(server.url, lambda t: t.users())  # 30 of its own
            ask(server.url, lambda t: t.users(timeout_s=10))
            with deadline(5), deadline(60):
                ask(server.url, lambda t: t.users(timeout_s=10))
        ask(server.url, lambda t: t.users())
        with deadline(0), pytest.raises(TooLate) as late:
            ask(server.url, lambda t: t.users())
    most = [20_000, 10_000, 5_000, 30_000]
    assert all(limit - 4_000 < int(said) <= limit for said, limit in zip(server.heads("x-deadline-ms"), most, strict=True))
    assert late.value.attempts == 0
    assert len({*server.heads("x-request-id"), late.value.request_id}) == 5  # each call is another


def test_a_deadline_goes_where_the_work_goes():
    async def asked():
        with deadline(5):
            return end_within(60), await asyncio.to_thread(end_within, 60), await asyncio.create_task(ends())

    async def ends():
        return end_within(60)

    assert len(set(asyncio.run(asked()))) == 1


@given(st.floats(0.001, 1e6))
def test_the_server_is_told_less_than_is_left_so_that_its_answer_arrives(left_s):
    assert 1 <= told_ms(left_s) <= min(1000 * left_s, 600_000)
    assert told_ms(left_s) <= max(1000 * left_s - 20, 750 * left_s, 1)
    assert [told_ms(one) for one in (1.0, 0.04, 0.001)] == [980, 30, 1]


def test_a_wait_longer_than_what_is_left_is_not_begun():
    with told(refuses(429, Retry_After="60"), says(200, USERS)) as server:
        with pytest.raises(Refused, match="429: Not now") as refused:
            now(server.url, lambda t: t.users())
        assert (len(server.got), refused.value.retry_after_s) == (1, 60)
    with told(refuses(429, Retry_After="1"), says(200, USERS)) as server:
        assert now(server.url, lambda t: t.users()).user_ids == ["u1"]
        assert server.got[1].at - server.got[0].at >= 1
    with told(refuses(503, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), says(200, USERS)) as server:
        with pytest.raises(Refused):
            now(server.url, lambda t: t.users())
        assert len(server.got) == 1


@both
@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 413, 415, 422, 500, 502, 504, 507])
def test_what_will_not_go_better_is_asked_once(ask, status):
    with told(refuses(status, "No."), says(200, {"stored": 1})) as server, pytest.raises(Refused, match="No") as refused:
        ask(server.url, lambda t: t.post_items(NewItem(item_id="i", title="t")))
    assert (len(server.got), refused.value.status, refused.value.detail) == (1, status, "No.")


@both
@pytest.mark.parametrize("step", [refuses(429), refuses(503), says(503, b"<html>upstream</html>"), closes])
def test_what_may_pass_is_asked_again_and_not_for_ever(ask, step):
    with told(step, says(200, USERS)) as server:
        assert ask(server.url, lambda t: t.users()).user_ids == ["u1"]
        assert len(server.got) == 2
    with told(step) as server:
        with pytest.raises((Refused, Unreachable)) as failed:
            ask(server.url, lambda t: t.users())
        assert len(server.got) == failed.value.attempts == 4
    with told(step) as server, pytest.raises(TowersError):
        ask(server.url, lambda t: t.users(), retries=NEVER)
    assert len(server.got) == 1


@both
def test_nobody_there_is_said(ask):
    with pytest.raises(Unreachable, match="ConnectError") as away:
        ask(nobody(), lambda t: t.users())
    assert (away.value.attempts, away.value.status) == (4, None)


@both
def test_a_server_that_is_not_ready_is_an_answer(ask):
    with told(says(503, {"status": "store: away", "model_version": "v1", "parts": {"store": "away"}})) as server:
        assert ask(server.url, lambda t: t.ready()).parts == {"store": "away"}
    assert len(server.got) == 1


@both
def test_an_event_whose_answer_was_lost_is_stored_once(url, ask):
    user_id = f"lost {ask.__name__}"
    event = Event(user_id=user_id, item_id="i1", event_type="complete")
    with told(loses_the_answer_of(url), passes_on(url)) as between:
        receipt = ask(between.url, lambda t: t.record([event, Event(user_id=user_id, item_id="i2", event_type="click")]))
    assert (receipt.stored, receipt.repeated) == (0, 2)
    assert len(between.got) == 2 and between.got[0].body == between.got[1].body
    assert ask(url, lambda t: t.record(event)).repeated == 1
    assert ask(url, lambda t: t.user(user_id)).events == 2


@given(st.floats(0.001, 10), st.floats(1, 100), st.integers(1, 40), st.integers())
def test_jitter_is_full_and_doubles_up_to_its_cap(base_s, times, number, seed):
    retries = Retries(base_s=base_s, cap_s=base_s * times)
    most = min(retries.cap_s, base_s * 2 ** (number - 1))
    random.seed(seed)
    wait = retries.jitter()
    drawn = [wait(SimpleNamespace(attempt_number=number)) for _ in range(200)]
    assert all(0 <= one <= most for one in drawn)
    assert min(drawn) < 0.2 * most and max(drawn) > 0.8 * most  # each misses once in 10^19


@settings(max_examples=50)
@given(st.sampled_from([0.0, 0.1, 0.25]), st.integers(0, 10), st.lists(st.booleans(), max_size=200))
def test_repetitions_are_a_share_of_the_calls_and_a_reserve(share, reserve, told_):
    budget, calls_made, taken = Budget(share, reserve), 0, 0
    for call in told_:
        if call:
            budget.called()
            calls_made += 1
        else:
            taken += budget.take()
        assert taken <= reserve + share * calls_made + 1e-6
    budget = Budget(share, reserve)
    assert sum(budget.take() for _ in range(50)) == reserve


@both
def test_a_server_that_is_down_is_left_alone(ask):
    """3 of the reserve go with the first call; the 20 calls after it bring in two."""

    async def all_later(server):
        async with AsyncTowers(server.url, timeout_s=PATIENT_S, retries=replace(QUICK, reserve=3)) as towers:
            for _ in range(21):
                with pytest.raises(Refused):
                    await towers.users()

    with told(refuses(503)) as server:
        if ask is later:
            asyncio.run(all_later(server))
        else:
            with Towers(server.url, timeout_s=PATIENT_S, retries=replace(QUICK, reserve=3)) as towers:
                for _ in range(21):
                    with pytest.raises(Refused):
                        towers.users()
        assert len(server.got) == 21 + 3 + 2


def test_what_is_known_is_not_sent_again_and_what_changed_is(url):
    with told(passes_on(url)) as between, Towers(between.url, timeout_s=PATIENT_S) as towers:
        towers.post_items(NewItem(item_id="etag", title="Before"))
        first = towers.item("etag")
        first.genres.append("changed by a caller")
        again = towers.item("etag")
        assert (again.title, again.genres) == ("Before", [])
        towers.post_items(NewItem(item_id="etag", title="After"))
        assert towers.item("etag").title == "After"
    tags = [one.headers.get("if-none-match") for one in between.got if one.method == "GET"]
    assert tags[0] is None and tags[1] == tags[2] is not None


def test_a_304_is_answered_from_what_was_kept():
    with told(says(200, USERS, ETag='"1"'), says(304, b"")) as server, Towers(server.url) as towers:
        assert towers.users() == towers.users()
        with pytest.raises(Refused, match="304"):
            towers.users(count=2)  # another question, of which nothing is kept
    assert [one.headers.get("if-none-match") for one in server.got] == [None, '"1"', None]


def test_few_and_small_answers_are_kept():
    kept = Kept(most=2)
    for name in "abac":
        kept.put(name, name, b"")
    assert [kept.get(name) is not None for name in "abc"] == [True, False, True]
    kept.get("a")
    kept.put("d", "d", b"")
    kept.put("large", "large", bytes(300_000))
    assert [kept.get(name) is not None for name in ("a", "c", "d", "large")] == [True, False, True, False]


def test_threads_share_a_client(url):
    with Towers(url, timeout_s=PATIENT_S, connections=3) as towers, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda number: towers.user(f"u{number % 10}"), range(40)))
    assert [one.user_id for one in read] == [f"u{number % 10}" for number in range(40)]


def test_a_connection_is_waited_for_within_the_deadline():
    with (
        told(keeps_silent) as server,
        Towers(server.url, timeout_s=PATIENT_S, retries=NEVER, connections=1) as towers,
        ThreadPoolExecutor(1) as pool,
    ):
        holding = pool.submit(towers.users)
        while not server.got:
            time.sleep(0.001)
        with pytest.raises(TooLate, match="PoolTimeout"):
            towers.users(timeout_s=0.1)
        server.over.set()
        assert isinstance(holding.exception(), Unreachable)


def test_closing_twice_is_closing_once(url):
    towers = Towers(url, timeout_s=PATIENT_S)
    towers.users()
    towers.close()
    towers.close()
    with pytest.raises(RuntimeError, match="closed"):
        towers.users()


@both
def test_a_refusal_says_what_the_server_said(engine, tmp_path, ask):
    keys = Keys(tmp_path / "keys.json")
    reader, writer = (keys.add(role, role, now_ms=0) for role in ("reader", "writer"))
    with under_uvicorn(create_app(engine, replace(OPEN, writing="keyed", keys=keys.path))) as url:
        for key, status in ((None, 401), (KEY, 401), (reader, 403)):
            with pytest.raises(Refused) as refused:
                ask(url, lambda t: t.record(EVENT), key=key)
            assert refused.value.status == status and "key" in refused.value.detail
        assert ask(url, lambda t: t.record(replace(EVENT, event_id=ask.__name__)), key=writer).stored == 1
        with pytest.raises(Refused) as refused:
            ask(url, lambda t: t.record([EVENT, replace(EVENT, rating=None)]), key=writer)
        assert (refused.value.status, refused.value.field) == (422, "[1].rating")
        assert str(refused.value) == f"422: {refused.value.detail} (request {refused.value.request_id}, attempt 1)"
        with pytest.raises(Refused, match="409: item_id 'i3' exists"):
            ask(url, lambda t: t.post_items(NewItem(item_id="i3", title="t")), key=writer)


def everything_shown(error):
    """All that a printer of exceptions could print: messages, and every variable of every frame outside of this file."""
    seen, shown = [error], []
    while seen:
        one = seen.pop()
        shown += [str(one), repr(one), repr(vars(one)), *getattr(one, "__notes__", ())]
        seen += [other for other in (one.__cause__, one.__context__) if other is not None]
        trace = one.__traceback__
        while trace is not None:
            values = trace.tb_frame.f_locals.values() if trace.tb_frame.f_code.co_filename != __file__ else ()
            shown += [repr(value) for value in values]
            shown += [repr(vars(value)) for value in values if type(value).__module__.startswith("serve.") and hasattr(value, "__dict__")]
            trace = trace.tb_next
    return shown


@both
@pytest.mark.parametrize("step", [refuses(401), refuses(503), keeps_silent, closes, drips, says(200, b"{"), None])
def test_a_key_is_shown_nowhere(ask, step, caplog):
    caplog.set_level(logging.DEBUG)
    with told(step or closes) as server, pytest.raises(TowersError) as failed:
        ask(server.url if step else nobody(), lambda t: t.record(EVENT), key=KEY, timeout_s=0.3)
    assert not step or server.heads("authorization")[0] == f"Bearer {KEY}"
    shown = everything_shown(failed.value) + [repr(one.__dict__) + one.getMessage() for one in caplog.records]
    assert len(shown) > 20
    assert failed.value.__cause__ is failed.value.__context__ is None  # whose frames are httpx's
    assert [one for one in shown if KEY in one] == []


@pytest.mark.parametrize("kind", [Towers, AsyncTowers])
@pytest.mark.parametrize(
    ("url", "how", "match"),
    [
        ("http://h", {"key": KEY + "\n"}, "stripped"),
        ("http://h", {"key": KEY + "é"}, "stripped"),
        ("http://h", {"key": ""}, "stripped"),
        ("http://u:password@h", {"key": KEY}, "with no name, password"),
        ("http://h:port", {"key": KEY}, "no address"),
        ("h:80", {"key": KEY}, "expected one like"),
        ("http://h", {"key": KEY, "timeout_s": 0}, "timeout_s is 0"),
        ("http://h", {"key": KEY, "timeout_s": float("nan")}, "timeout_s is nan"),
        ("http://h", {"key": KEY, "connections": 0}, "connections is 0"),
    ],
)
def test_what_cannot_be_is_refused_at_once_and_without_the_key(kind, url, how, match):
    with pytest.raises(ValueError, match=match) as refused:
        kind(url, **how)
    assert [one for one in everything_shown(refused.value) if KEY in one] == []
    assert "password@" not in str(refused.value)
    assert repr(kind("http://h", key=KEY)) == f"{kind.__name__}('http://h')"


@pytest.mark.parametrize("told_", [{"attempts": 0}, {"base_s": 0}, {"base_s": 2, "cap_s": 1}, {"share": 2}, {"reserve": -1}])
def test_retries_that_cannot_be_are_refused(told_):
    with pytest.raises(ValueError, match="cannot be"):
        Retries(**told_)
