"""Whatever is asked of them in whatever order, the two stores answer alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import DAY_MS
from serve.contract import LoggedSlate, Precomputed, Recommendation
from serve.histories import Seen, union
from serve.store import Event
from tests.stores import CLICK, NAME_OF, RATE, opened, parquet, rows_of, told

USERS = st.sampled_from("uvw")
ITEMS = st.sampled_from("abc")
SEEN = st.builds(Seen, st.integers(0, 6), ITEMS, st.sampled_from([CLICK, RATE]), st.sampled_from([1.0, 2.0]))
SEEN_LISTS = st.lists(SEEN, max_size=12)
EVENT = st.builds(
    lambda number, user, seen: Event(f"e{number}", user, seen.item_id, NAME_OF[seen.code], seen.timestamp, rating=seen.rating),
    st.integers(0, 30), USERS, SEEN,
)  # fmt: skip
RELEASE = st.fixed_dictionaries({}, optional=dict.fromkeys("uvw", SEEN_LISTS))
FIELDS = st.dictionaries(USERS, st.tuples(st.sampled_from(["DE", None]), st.none(), st.sampled_from([1980, None])), max_size=3)
SLATE = st.builds(
    lambda number, user, days, items: LoggedSlate(
        f"r{number}", user, 10 * DAY_MS + days * DAY_MS // 2, "a", "v1", "p", None, None, tuple(items), (), (), None
    ),
    st.integers(0, 9), USERS, st.integers(-3, 2), st.lists(ITEMS, max_size=3),
)  # fmt: skip
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(EVENT, max_size=5)),
        st.tuples(st.just("append"), st.lists(EVENT, max_size=5)),
        st.tuples(st.just("load"), RELEASE, FIELDS, st.sampled_from(["v1", "v2"])),
        st.tuples(st.just("log_slates"), st.lists(SLATE, max_size=3)),
        st.tuples(st.just("put_answers"), USERS, st.lists(st.tuples(ITEMS, st.booleans()), max_size=2)),
        st.tuples(st.just("put_precomputed"), st.lists(USERS, max_size=2), st.integers(0, 9)),
        st.tuples(st.just("put_items"), st.dictionaries(ITEMS, st.sampled_from(["{}", "[]"]), max_size=2)),
        st.tuples(st.just("forget"), USERS),
        st.tuples(st.just("wait"), st.integers(0, DAY_MS)),
    ),
    max_size=12,
)


class Clock:
    now = 10 * DAY_MS

    def __call__(self):
        return self.now


def seen_of(store):
    """Everything that can be asked of a store without changing it. Numbers only rise, so an event goes by its place in the log."""
    events = store.events_since()
    place = {0: 0} | {number: place for place, number in enumerate(events["sequence"], start=1)}
    users = []
    for user in "uvw":
        known = store.read(user)
        made = known.precomputed
        users.append(
            (
                told(known.history), known.fields, place[known.sequence], known.shown, known.answers,
                made and (made.made_at, made.sequence, made.model_version, made.query_D.tolist(), tuple(made.recommendations)),
            )
        )  # fmt: skip
    return users, store.user_ids(), events.drop("sequence").rows(), [told for _, told in store.slates_since()], store.items_since()


def do(store, clock, folder, call):
    """One call, and its answer."""
    match call:
        case ("load", release, fields, version):
            files = parquet(folder / "release", {user: rows_of(seen) for user, seen in release.items()}, fields)
            return store.load_histories(*files, version=version)
        case ("put_precomputed", users, number):
            shown = (Recommendation("a", "A", number / 8, "because", "row", ("s",)),)
            return store.put_precomputed({user: Precomputed(number, number, "v", np.full(2, number, np.float32), shown) for user in users})
        case ("wait", milliseconds):
            clock.now += milliseconds
            return None
        case (name, *arguments):
            return getattr(store, name)(*arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("agreement")


@settings(max_examples=25, deadline=None)
@given(CALLS, st.integers(1, 5))
def test_the_stores_answer_alike(redis_server, folder, calls, length):
    for leftover in folder.glob("store.db*"):
        leftover.unlink()
    stores = [(opened(place, history_length=length, shown_days=1, now_ms=clock), clock)
              for place, clock in ((folder / "store.db", Clock()), (redis_server.emptied(), Clock()))]  # fmt: skip
    for call in calls:
        ours, theirs = (do(store, clock, folder, call) for store, clock in stores)
        assert ours == theirs, call
    ours, theirs = (seen_of(store) for store, _ in stores)
    assert ours == theirs
    for store, _ in stores:
        store.close()


@settings(max_examples=15, deadline=None)
@given(SEEN_LISTS, st.lists(st.tuples(SEEN, st.sampled_from("uv")), max_size=10), st.integers(0, 10), st.integers(1, 4))
def test_when_the_release_is_loaded_makes_no_difference(redis_server, folder, base, live, before, length):
    for leftover in folder.glob("store.db*"):
        leftover.unlink()
    base = sorted(base, key=lambda seen: seen.timestamp)
    files = parquet(folder / "v1", {"u": rows_of(base)})
    events = [
        Event(str(n), user, seen.item_id, NAME_OF[seen.code], seen.timestamp, rating=seen.rating) for n, (seen, user) in enumerate(live)
    ]
    for place in (folder / "store.db", redis_server.emptied()):
        store = opened(place, history_length=length)
        store.append(events[:before])
        store.load_histories(*files, version="v1")
        store.append(events[before:])
        assert told(store.read("u").history) == union(base, [seen for seen, user in live if user == "u"], length=length)
        assert told(store.read("v").history) == union([], [seen for seen, user in live if user == "v"], length=length)
        store.close()
