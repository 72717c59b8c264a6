"""What comes back is checked field by field, kept once, and all or none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import events
from serve.events import MAX_EVENTS, parse, record
from serve.limits import InvalidRequest
from serve.release import Release
from serve.slates import UnknownItem
from serve.sqlite_store import SqliteStore
from tests.releases import write_release

GOOD = {"user_id": "u", "item_id": "i1", "event_type": "watch"}
NOW = 1_700_000_000_000


def parsed(value):
    return parse(json.dumps(value).encode(), NOW)


def test_one_or_a_list_and_what_is_not_told_is_now_and_new():
    (alone,) = parsed(GOOD)
    assert alone.timestamp == NOW
    first, second = parsed([GOOD, GOOD | {"timestamp": 5, "event_id": "e", "rating": 4, "device": "tv"}])
    assert first.event_id != alone.event_id
    assert (second.event_id, second.timestamp, second.rating, second.device) == ("e", 5, 4.0, "tv")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("user_id", {"user_id": ""}),
        ("user_id", {"user_id": 42}),
        ("user_id", {"user_id": "x" * 1_000_000}),
        ("user_id", {"user_id": "a\0b"}),
        ("item_id", {"item_id": None}),
        ("event_id", {"event_id": ""}),
        ("event_type", {"event_type": "buy"}),
        ("timestamp", {"timestamp": -1}),
        ("timestamp", {"timestamp": 10**30}),
        ("timestamp", {"timestamp": 1.5}),
        ("timestamp", {"timestamp": True}),
        ("rating", {"rating": "5"}),
        ("rating", {"rating": 1e300}),
        ("rating", {"event_type": "rate"}),
        ("watch_duration_seconds", {"watch_duration_seconds": -1}),
        ("region", {"region": "r" * 257}),
        ("colour", {"colour": "red"}),
    ],
)
def test_a_bad_field_is_named_alone_and_in_a_list(field, change):
    with pytest.raises(InvalidRequest, match=f"^{field} ") as refused:
        parsed(GOOD | change)
    assert refused.value.field == field
    with pytest.raises(InvalidRequest, match=rf"^\[1\]\.{field} "):
        parsed([GOOD, GOOD | change])


@pytest.mark.parametrize("field", ["user_id", "item_id", "event_type"])
def test_a_missing_field_is_named(field):
    with pytest.raises(InvalidRequest, match=f"^{field} is missing"):
        parsed({name: value for name, value in GOOD.items() if name != field})


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b'{"user_id": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"user_id": "\\ud800"}', b"1" * 10_000, b"[]", b"null",
        b'"text"', b" " * (events.MAX_BODY_BYTES + 1),
    ],
)  # fmt: skip
def test_a_body_that_is_no_event_is_refused_as_the_body(body):
    with pytest.raises(InvalidRequest, match=r"^body "):
        parse(body, NOW)


def test_a_list_may_hold_a_thousand_and_no_more():
    assert len(parsed([GOOD] * MAX_EVENTS)) == MAX_EVENTS
    with pytest.raises(InvalidRequest, match=r"^body holds 1,001 events"):
        parsed([GOOD] * (MAX_EVENTS + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
almost = st.fixed_dictionaries(
    {"user_id": json_values, "item_id": json_values, "event_type": st.just("watch") | json_values},
    optional={"timestamp": json_values, "rating": json_values, "event_id": json_values, "region": json_values},
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()) | almost.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_events_or_refused_in_words(body):
    try:
        taken = parse(body, NOW)
    except InvalidRequest as refused:
        str(refused).encode()  # fit to be sent
    else:
        assert all(event.user_id and event.item_id and event.timestamp >= 0 for event in taken)


@pytest.fixture
def release(tmp_path):
    return Release.open(write_release(tmp_path / "v1", items=3))


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "live.sqlite")
    yield opened
    opened.close()


def test_an_event_sent_twice_is_kept_once(release, store):
    told = parsed([GOOD | {"event_id": "a"}, GOOD | {"event_id": "b", "timestamp": 7}])
    assert record(told, release, store) == (2, 0)
    assert record(told, release, store) == (0, 2)
    assert store.read("u").history.timestamp_L.tolist() == [7, NOW]


def test_one_unknown_item_and_nothing_is_kept(release, store):
    with pytest.raises(UnknownItem, match="'i9'"):
        record(parsed([GOOD, GOOD | {"item_id": "i9"}]), release, store)
    assert store.read("u").history.item_ids == ()
