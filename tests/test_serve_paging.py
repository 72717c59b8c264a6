"""Pages after the first: nothing comes twice, whatever happens between them, and nothing is left out on the way."""

import json
import zlib

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from serve import paging
from serve.api import create_app
from serve.contract import LoggedSlate, Request
from serve.filters import not_on_a_page_before
from serve.limits import InvalidRequest
from serve.packing import pack_slate, unpack_slate
from serve.slate_log import impressions, logged
from tests.engines import published, started

ids = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=60, unique=True)


@given(ids, ids)
def test_a_cursor_tells_what_was_shown_in_its_order(first, second):
    after_one = paging.read(paging.cursor((), first, asked=len(first)))
    assert after_one == tuple(paging.mark(one) for one in first)
    after_two = paging.read(paging.cursor(after_one, second, asked=len(second)))
    assert after_two == (*after_one, *(paging.mark(one) for one in second))
    assert not not_on_a_page_before(first + second, before=frozenset(after_two)).any()


def test_pages_end_where_fewer_came_than_were_asked_for_or_the_cursor_is_full():
    assert paging.cursor((), ["a", "b"], asked=3) is None
    assert paging.cursor(range(paging.MOST - 1), ["a"], asked=1) is not None
    assert paging.cursor(range(paging.MOST), ["a"], asked=1) is None


@given(st.text(max_size=50) | st.binary(max_size=50).map(lambda raw: raw.hex()))
def test_what_is_no_cursor_of_ours_is_refused(text):
    with pytest.raises(InvalidRequest, match="cursor is not one that this server gave"):
        paging.read(text)


def test_a_cursor_with_one_letter_changed_is_refused():
    good = paging.cursor((), ["a", "b", "c"], asked=3)
    for place in range(len(good)):
        for letter in "Aq-_9":
            if letter != good[place]:
                try:
                    assert paging.read(good[:place] + letter + good[place + 1 :]) == paging.read(
                        good
                    )  # bits past the last byte say nothing
                except InvalidRequest:
                    continue


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paged")
    with started(published(folder / "releases", "v1", items=60), folder / "state", "precomputed.active_minutes=0") as made:
        yield made


@pytest.fixture(scope="module")
def http(engine):
    with TestClient(create_app(engine)) as client:
        yield client


def pages(http, user_id, between=lambda shown: None, **asked):
    found, cursor = [], None
    while True:
        told = http.get("/v1/recommendations", params={"user_id": user_id, "count": 7} | asked | ({"cursor": cursor} if cursor else {}))
        assert told.status_code == 200, told.text
        page = [one["item_id"] for one in told.json()["recommendations"]]
        found.append(page)
        if (cursor := told.json()["next"]) is None:
            return found
        between(page)


@pytest.mark.parametrize("user_id", ["u3", "nobody knows"])
def test_pages_hold_everything_that_one_long_page_holds_and_nothing_twice(http, user_id):
    shown = [item_id for page in pages(http, user_id) for item_id in page]
    assert len(shown) == len(set(shown))
    everything = http.get("/v1/recommendations", params={"user_id": user_id, "count": 200}).json()["recommendations"]
    assert {one["item_id"] for one in everything} <= set(shown)


def test_nothing_comes_twice_though_the_user_does_something_between(http):
    def like(page):
        event = {"user_id": "busy", "item_id": page[0], "event_type": "rate", "rating": 5}
        assert http.post("/v1/events", json=event).status_code == 200

    shown = [item_id for page in pages(http, "busy", like) for item_id in page]
    assert len(shown) == len(set(shown)) > 40


def test_a_precomputed_slate_is_read_on_until_it_ends(engine, http):
    with engine.fleet.champion() as served:
        recommender = served.recommender
        now = engine.now_ms()
        engine.store.put_precomputed({"u5": recommender.ahead("u5", now)})
        first = recommender.recommend(Request("u5", now, count=7))
        before = tuple(paging.mark(one.item_id) for one in first.recommendations)
        second = recommender.recommend(Request("u5", now, count=7, before=before))
        beyond = recommender.recommend(Request("u5", now, count=7, before=tuple(range(94))))
    assert (first.answered_by, second.answered_by) == ("precomputed", "precomputed")
    assert not {one.item_id for one in first.recommendations} & {one.item_id for one in second.recommendations}
    assert second.dropped["on a page before this"] == 7
    assert beyond.answered_by == "personalised"  # 94 + 7 are more than were made


def test_positions_of_later_pages_go_on_in_the_log(engine):
    with engine.fleet.champion() as served:
        request = Request("u3", engine.now_ms(), count=4, before=(1, 2, 3, 4, 5))
        slate = logged(request, served.recommend(request), "champion")
    assert slate.first == 6
    assert unpack_slate(pack_slate(slate)) == slate
    assert impressions([slate])["position"].to_list() == [6, 7, 8, 9]


def test_a_slate_logged_before_there_were_pages_began_at_the_top():
    slate = LoggedSlate("r", "u", 1, "champion", "v1", "popular", None, None, ("a",), (("popular",),), (None,), None)
    packed = zlib.compress(json.dumps(json.loads(zlib.decompress(pack_slate(slate)))[:-1]).encode())
    assert unpack_slate(packed) == slate
