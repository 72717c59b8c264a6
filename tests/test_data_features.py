"""Features by hand, and the law that a training row replayed as a request is the same."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import features
from data.datamodule import Events
from data.features import DAY_MS, HOUR_MS, ItemClock, MomentVocabulary, Vocabulary
from serve.contract import History, Request, UserFields
from serve.scoring import pack, person
from tests.logs import small


def of_items(log) -> dict:
    catalogue = log.catalogue
    names = ("genre_IG", "tag_IT", "release_day_I", "duration_seconds_I")
    return {name: getattr(catalogue, name) for name in names}


def served(log, event: int, length: int):
    """What serving makes of the moment just before an event of the log: the user's earlier events as the store keeps them."""
    user = log.user_row_E[event]
    before = slice(log.offset_U1[user], event)
    history = History(
        tuple(log.catalogue.item_ids[row] for row in log.item_row_E[before]),
        log.event_type_E[before],
        log.rating_E[before],
        log.timestamp_E[before],
    )
    tables = log.split.tables
    who = tables.users.filter(tables.users["user_id"] == log.user_ids[user]).row(0, named=True)
    happened = log.split.events.row(event, named=True)
    fields = UserFields(who["region"], who["subscription_tier"], who["birth_year"])
    request = Request(log.user_ids[user], int(log.timestamp_E[event]), device=happened["device"], region=happened["region"])
    row_of = {item_id: row for row, item_id in enumerate(log.catalogue.item_ids)}
    release = SimpleNamespace(
        catalogue=SimpleNamespace(rows=lambda ids: np.array([row_of[item_id] for item_id in ids], np.int64)),
        manifest=SimpleNamespace(liked_from=log.liked_from),
        vocabulary=log.vocabulary,
    )
    return person(release, request, history, fields)[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 40))
def test_a_training_row_replays_as_a_served_row(pick, length):
    _, log = small()
    event = pick % len(log.item_row_E)
    trained = Events.of(log, np.ones(len(log.item_row_E), np.float32), torch.device("cpu")).batch(torch.tensor([event]), length=length)
    who = served(log, event, length)
    packed = pack(who, length)
    assert np.array_equal(trained.history_row_BL.numpy(), packed.item_row_BL)
    assert np.array_equal(trained.event_code_BL.numpy(), packed.event_code_BL)
    assert np.array_equal(trained.age_minutes_BL.numpy(), packed.age_minutes_BL)
    assert np.array_equal(trained.moment_BC.numpy(), who.moment_BC)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9))
def test_the_numbers_of_a_training_row_are_those_of_its_replay_with_the_clock_of_the_hour_before(pick):
    """Training asks the clock of the whole log; serving has one that ends before the request's hour, reduced to last entries."""
    _, log = small()
    event = pick % len(log.item_row_E)
    now = log.timestamp_E[event : event + 1]
    item_row_BK = np.arange(len(log.catalogue.item_ids))[None]
    hour_start = int(now[0]) // HOUR_MS * HOUR_MS
    then = log.where(log.timestamp_E < hour_start)
    known = {
        "dot_BK": np.zeros(item_row_BK.shape, np.float32), "item_row_BK": item_row_BK, "now_B": now,
        "history": pack(served(log, event, 20), 20), **of_items(log),
    }  # fmt: skip
    whole = log.clock(half_life_days=30)
    if not len(then.item_row_E):
        return
    served_clock = then.clock(half_life_days=30).latest()
    np.testing.assert_array_equal(features.candidate_numbers(clock=whole, **known), features.candidate_numbers(clock=served_clock, **known))


def test_a_low_rating_is_told_apart():
    types = np.array([6, 6, 6, 3])
    code = features.event_code(types, np.array([7.9, 8.0, np.nan, np.nan]), liked_from=8)
    assert code.tolist() == [features.DISLIKED, 6, 6, 3]
    assert features.is_liked(code).tolist() == [False, True, True, True]
    assert features.is_liked(np.array([features.EVENT_TYPE_CODE["view"], features.EVENT_TYPE_CODE["skip"]])).tolist() == [False, False]


def test_a_moment_by_hand():
    words = MomentVocabulary(Vocabulary.of(["tv", "phone"]), Vocabulary.of(["north"]), Vocabulary.of([None]))
    # 5 January 1970 was a Monday; 13:30 UTC.
    moment = features.moment(
        np.array([4 * DAY_MS + 13 * HOUR_MS + HOUR_MS // 2, 0]),
        ["tv", "radio"],
        [None, "north"],
        ["gold", None],
        np.array([1935.0, np.nan]),
        words,
    )
    assert moment.tolist() == [[13, 0, 2, 0, 0, 4], [0, 3, 0, 1, 0, 0]]
    assert words.sizes == (24, 7, 3, 2, 1, features.AGE_BANDS)


def test_a_window_by_hand():
    packed = features.pack(
        np.array([7, 8, 9]), np.array([1, 2, 3]), np.array([0, 60_000, 180_000]),
        start_B=np.array([0, 2]), end_B=np.array([2, 2]), now_B=np.array([240_000, 0]), length=3,
    )  # fmt: skip
    assert packed.item_row_BL.tolist() == [[0, 7, 8], [0, 0, 0]]
    assert packed.event_code_BL.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert packed.age_minutes_BL.tolist() == [[0, 4, 3], [0, 0, 0]]


def test_an_event_from_the_future_is_just_now():
    assert features.age_minutes(np.array(0), np.array(120_000)) == 0


def test_genres_by_hand():
    genre_IG = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    liked, skipped = 3, features.EVENT_TYPE_CODE["skip"]
    history = features.PackedHistory(np.array([[0, 1, 1]]), np.array([[liked, liked, skipped]]), np.zeros((1, 3), np.int64))
    share = features.genre_share(genre_IG, history)
    np.testing.assert_allclose(share, [[2 / 3, 1 / 3]])
    count = features.liked_count(genre_IG, history)
    assert count.tolist() == [[2, 1]]
    np.testing.assert_allclose(features.label_match(count, genre_IG, np.array([[0, 1, 2]])), [[2 / 3, 0.5, 0.0]], rtol=1e-6)


def test_sessions_by_hand():
    """Twenty minutes in two sessions, of which one is a single event; one event; none; and padding that must not begin a session."""
    code_BL = np.array([[0, 3, 3, 3, 3], [0, 0, 0, 0, 3], [0, 0, 0, 0, 0], [0, 0, 0, 3, 3]])
    age_BL = np.array([[0, 100, 90, 80, 50], [0, 0, 0, 0, 7], [0, 0, 0, 0, 0], [0, 0, 0, 29, 0]])
    history = features.PackedHistory(np.zeros((4, 5), np.int64), code_BL, age_BL)
    assert features.session_minutes(history).tolist() == [10, 0, 0, 29]


def test_a_profile_by_hand():
    genre_IG = np.array([[1, 0], [1, 1]], np.float32)
    history = features.PackedHistory(np.array([[0, 1]]), np.array([[3, 3]]), np.array([[4, 1]]))
    np.testing.assert_allclose(features.profile(history, genre_IG), [[2 / 3, 1 / 3, np.log(4), np.log(3)]], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 40))
def test_the_profile_of_a_training_row_is_that_of_its_replay_whoever_stands_beside_it(pick, length):
    _, log = small()
    event_N = (pick + 61 * np.arange(7)) % len(log.item_row_E)
    start_N = log.offset_U1[log.user_row_E[event_N]]
    trained = features.pack(
        log.item_row_E, log.event_code_E, log.timestamp_E, start_B=start_N, end_B=event_N, now_B=log.timestamp_E[event_N], length=length
    )
    genre_IG = log.catalogue.genre_IG
    replayed = [features.profile(pack(served(log, int(event), length), length), genre_IG) for event in event_N]
    np.testing.assert_array_equal(features.profile(trained, genre_IG), np.concatenate(replayed))


def test_an_unknown_duration_is_told_as_none():
    _, log = small()
    known = {
        "dot_BK": np.zeros((1, 2), np.float32), "item_row_BK": np.array([[0, 1]]), "now_B": log.timestamp_E[:1],
        "history": pack(served(log, 0, 5), 5), "clock": log.clock(half_life_days=30),
        **of_items(log) | {"duration_seconds_I": np.array([np.nan, np.e - 1], np.float32)},
    }  # fmt: skip
    told = features.candidate_numbers(**known)[0, :, features.NUMBERS.index("log_duration_seconds")]
    np.testing.assert_allclose(told, [0, 1], rtol=1e-6)


def test_the_same_candidates_asked_about_once_for_all_have_the_same_numbers():
    _, log = small()
    rng, items, now_B = np.random.default_rng(0), len(log.catalogue.item_ids), np.full(3, log.timestamp_E.max())
    shape = (3, 12)
    history = features.PackedHistory(rng.integers(0, items, shape), rng.integers(0, 7, shape), rng.integers(0, 9, shape))
    known = {
        "dot_BK": rng.random((3, items), np.float32), "history": history, "clock": log.clock(half_life_days=30), **of_items(log),
    }  # fmt: skip
    once = features.candidate_numbers(item_row_BK=np.arange(items)[None], now_B=now_B[:1], **known)
    each = features.candidate_numbers(item_row_BK=np.tile(np.arange(items), (3, 1)), now_B=now_B, **known)
    np.testing.assert_array_equal(once, each)


def test_the_clock_by_hand():
    clock = ItemClock(
        key=np.array([(0 << 32) + 10, (2 << 32) + 5, (2 << 32) + 9]), popularity=np.array([4.0, 1.0, 3.0]),
        rating_sum=np.array([5.0, 0.0, 8.0]), rating_count=np.array([1.0, 0.0, 2.0]), half_life_hours=2.0, prior_rating=3.0,
    )  # fmt: skip
    popularity, rating = clock.before(np.array([0, 0, 1, 2, 2]), np.array([10, 12, 12, 9, 13]))
    assert popularity.tolist() == [0.0, 2.0, 0.0, 0.25, 0.75]
    np.testing.assert_allclose(rating, [3.0, (5 + 15) / 6, 3.0, 3.0, (8 + 15) / 7], rtol=1e-6)
    later = np.array([14, 20, 14, 30, 14])
    for one, other in zip(
        clock.before(np.array([0, 0, 1, 2, 2]), later), clock.latest().before(np.array([0, 0, 1, 2, 2]), later), strict=True
    ):
        assert np.array_equal(one, other)


def test_a_half_life_must_be_a_time():
    for days in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="half_life_days"):
            features.half_life_hours(days)
