"""What is kept besides histories, in both stores: slates made ahead and slates shown, answers, posted items; and what forgetting leaves."""

import dataclasses

import numpy as np
import pytest

from data.features import DAY_MS
from serve.contract import Draw, LoggedSlate, Precomputed, Recommendation, UserFields
from serve.store import StoreError
from tests.stores import WATCH, event, opened, parquet

NOW = 1_700_000_000_000


@pytest.fixture
def clock():
    return [NOW]


@pytest.fixture
def store(place, clock):
    store = opened(place, shown_days=2, now_ms=lambda: clock[0])
    yield store
    store.close()


def logged(number, *, user="u", at=NOW, items=("a", "b")) -> LoggedSlate:
    draw = Draw(0.1, (1,), ("c", "d"), ("c",)) if number % 2 else None
    propensities = (None, 0.05) if draw else (None,) * len(items)
    return LoggedSlate(
        f"r{number}",
        user,
        at,
        "champion",
        "v1",
        "personalised",
        "tv",
        None,
        items,
        (("popular", "content"),) * len(items),
        propensities,
        draw,
    )


def slate(number) -> Precomputed:
    shown = (Recommendation("a", "Ä", 0.5, "Because", "For you", ("content",)), Recommendation("b", "B", None, "Popular", "Popular"))
    return Precomputed(NOW + number, number, f"v{number}", np.arange(3, dtype=np.float32) + number, shown[: 1 + number % 2])


def test_a_slate_made_ahead_is_read_with_the_user_and_replaced_by_the_next(store):
    store.put_precomputed({"u": slate(1), "v": slate(2)})
    store.put_precomputed({})
    for user, number in (("u", 1), ("v", 2)):
        found, made = store.read(user).precomputed, slate(number)
        assert (found.made_at, found.sequence, found.model_version) == (made.made_at, made.sequence, made.model_version)
        assert found.recommendations == made.recommendations
        np.testing.assert_array_equal(found.query_D, made.query_D)
    store.put_precomputed({"u": slate(3)})
    assert store.read("u").precomputed.model_version == "v3" and store.read("v").precomputed.model_version == "v2"
    assert store.user_ids() == []  # a slate alone is no history


def test_a_thousand_slates_are_put_at_once(store):
    store.put_precomputed({f"u{n}": slate(n) for n in range(1_000)})
    assert [store.read(f"u{n}").precomputed.sequence for n in (0, 500, 999)] == [0, 500, 999]


def test_the_latest_answers_count(store):
    store.put_answers("u", [("Käse 🧀", True), ("b", False)])
    assert store.read("u").answers == (("Käse 🧀", True), ("b", False))
    store.put_answers("u", [])
    assert store.read("u").answers == ()


def test_logged_slates_come_out_as_they_went_in_and_once(store):
    store.log_slates([logged(1), logged(2, user="v")])
    store.log_slates([dataclasses.replace(logged(1), arm="another"), logged(3)])
    found = store.slates_since()
    assert [told for _, told in found] == [logged(1), logged(2, user="v"), logged(3)]
    numbers = [number for number, _ in found]
    assert numbers == sorted(set(numbers)) and numbers[0] > 0
    assert store.slates_since(numbers[0], limit=1) == found[1:2]
    assert store.slates_since(numbers[-1]) == []
    assert store.read("u").shown == {"a": 2, "b": 2}


def test_only_what_was_shown_within_the_window_counts(store, clock):
    store.log_slates([logged(1, at=NOW - 2 * DAY_MS, items=("old", "b")), logged(2, at=NOW - 2 * DAY_MS + 1), logged(4, user="v")])
    assert store.read("u").shown == {"a": 1, "b": 1}
    store.log_slates([logged(6, items=("a",)), logged(8, items=()), logged(10, at=NOW + DAY_MS, items=("later",))])
    assert store.read("u").shown == {"a": 2, "b": 1, "later": 1}
    clock[0] += 1
    assert store.read("u").shown == {"a": 1, "later": 1}
    clock[0] += 2 * DAY_MS
    assert store.read("u").shown == {"later": 1} and store.read("v").shown == {}
    assert len(store.slates_since()) == 6  # the log keeps what no longer counts


def test_a_slate_of_ids_that_cannot_be_told_apart_is_refused_whole(store):
    with pytest.raises(ValueError, match="NUL"):
        store.log_slates([logged(2), logged(4, items=("a\0b",))])
    assert store.slates_since() == [] and store.read("u").shown == {}


def test_a_posted_item_is_seen_by_whoever_asks_what_is_new(store):
    store.put_items({"a": '{"title": "Ä"}', "b": "{}"})
    (first, *_), (second, *_) = store.items_since()
    assert store.items_since() == [(first, "a", '{"title": "Ä"}'), (second, "b", "{}")] and 0 < first < second
    store.put_items({"a": "newer", "c": "{}"})
    third = store.items_since(second, limit=1)
    assert third == [(third[0][0], "a", "newer")] and third[0][0] > second
    assert [item for _, item, _ in store.items_since()] == ["b", "a", "c"]


@pytest.fixture
def known(store, tmp_path):
    """A store in which everything is known of u and of v."""
    base = [("old", WATCH, np.nan, 1)]
    files = parquet(tmp_path / "v1", {"u": base, "v": base}, {"u": ("DE", None, 1980), "v": ("FR", None, None)})
    store.load_histories(*files, version="v1")
    store.append([event(5), event(6, user="v"), event(7, item="i5", at=5)])  # 7 tells 5 again
    store.put_answers("u", [("a", True)])
    store.put_answers("v", [("a", True)])
    store.put_precomputed({"u": slate(1), "v": slate(1)})
    store.log_slates([logged(1), logged(2, user="v"), logged(3), logged(4, at=1)])
    return store


def everything(store, user):
    known = store.read(user)
    made = known.precomputed and known.precomputed.model_version
    return known.history.item_ids, known.fields, known.sequence, known.shown, known.answers, made


NOTHING_KNOWN = ((), UserFields(), 0, {}, (), None)


def test_forgetting_erases_one_user_everywhere_and_says_what(known):
    before = everything(known, "v")
    assert known.forget("u") == {"events": 2, "history": 2, "fields": 2, "answers": 1, "precomputed": 1, "slates": 3, "shown": 4}
    assert everything(known, "u") == NOTHING_KNOWN
    assert everything(known, "v") == before != NOTHING_KNOWN
    assert known.user_ids() == ["v"]
    assert known.events_since()["user_id"].to_list() == ["v"]
    assert [told.user_id for _, told in known.slates_since()] == ["v"]
    assert set(known.forget("u").values()) == {0} == set(known.forget("nobody").values())


def test_no_release_brings_back_who_was_forgotten(known, tmp_path):
    known.forget("u")
    base = [("old", WATCH, np.nan, 1)]
    known.load_histories(*parquet(tmp_path / "v2", {"u": base, "w": base}, {"u": ("DE", None, 1980)}), version="v2")
    assert everything(known, "u") == NOTHING_KNOWN
    assert known.user_ids() == ["v", "w"]


def test_who_comes_back_after_being_forgotten_starts_anew(known, tmp_path):
    last = known.events_since()["sequence"][-1]
    known.forget("u")
    assert known.append([event(5), event(8)]) == 2  # also an event of the same name
    known.log_slates([logged(1, items=("n",))])
    assert everything(known, "u") == (("i5", "i8"), UserFields(), last + 2, {"n": 1}, (), None)
    known.load_histories(*parquet(tmp_path / "v2", {"u": [("old", WATCH, np.nan, 1)]}), version="v2")
    assert known.read("u").history.item_ids == ("i5", "i8")
    assert known.forget("u")["events"] == 2


def test_numbers_are_never_used_again(known):
    last = known.events_since()["sequence"][-1]
    slates = known.slates_since()[-1][0]
    known.forget("u")
    known.append([event(9, user="w")])
    known.log_slates([logged(9, user="w")])
    assert known.events_since()["sequence"][-1] == last + 1
    assert known.slates_since()[-1][0] == slates + 1


def test_everything_is_refused_once_closed(store):
    store.close()
    for ask in (
        lambda: store.put_precomputed({"u": slate(1)}),
        lambda: store.put_answers("u", []),
        lambda: store.log_slates([logged(1)]),
        lambda: store.slates_since(),
        lambda: store.put_items({"a": "{}"}),
        lambda: store.items_since(),
        lambda: store.user_ids(),
        lambda: store.events_since(),
        lambda: store.append([event(1)]),
        lambda: store.forget("u"),
        store.ping,
    ):
        with pytest.raises(StoreError, match="closed"):
            ask()
