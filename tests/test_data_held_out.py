"""What is kept back to choose by: one event and those of its kind, or any."""

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from data.held_out import BLOCK, any_events, kindred_events

FRIENDS = (("me", "abcd"), ("ann", "ab"), ("bob", "ab"), ("cid", "cd"), ("eve", "cd"))


def frame(lists) -> pl.DataFrame:
    return pl.DataFrame([(user, item) for user, items in lists for item in items], schema=["user_id", "item_id"], orient="row")


def first_half(order, events, user, seed):
    """Which half of the user's items leaves first."""
    place = order(events, np.random.default_rng(seed))
    mine = events.with_columns(place=pl.Series(place)).filter(pl.col("user_id") == user).sort("place")
    return "".join(sorted(mine["item_id"][: len(mine) // 2]))


def test_what_belongs_together_leaves_together():
    """Others had a with b, and c with d, and none had a or b with c or d: of four items the pair of the first leaves, either as often."""
    found = Counter(first_half(kindred_events, frame(FRIENDS), "me", seed) for seed in range(100))
    assert set(found) == {"ab", "cd"} and min(found.values()) > 30
    assert len({first_half(any_events, frame(FRIENDS), "me", seed) for seed in range(100)}) == 6


def test_likeness_by_hand():
    """Of p, q and r one is first, at −1 and what it shares with itself; q is p's with one other user of q's two and p's three beside the
    user: 1/√(3·2)."""
    events = frame([("me", "pq"), ("ann", "pq"), ("bob", "p")])
    for seed in range(20):
        place = kindred_events(events, np.random.default_rng(seed))[:2]
        other = int(np.argmax(place))
        np.testing.assert_allclose(place[other], -1 / np.sqrt(6), atol=1e-8)
        np.testing.assert_allclose(place[1 - other], -1 - (2 / 3, 1 / 2)[1 - other], atol=1e-8)


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=10), min_size=1, max_size=6), st.integers(0, 9))
def test_every_event_has_a_place_and_a_seed_its_order(lists, seed):
    events = frame([(f"u{user}", [f"i{item}" for item in items]) for user, items in enumerate(lists)])
    for order in (any_events, kindred_events):
        place, again = (order(events, np.random.default_rng(seed)) for _ in range(2))
        assert len(place) == len(events) and np.isfinite(place).all() and (place == again).all()


def test_users_beyond_a_block_are_like_those_within():
    many = [(f"{name}{n:05}", [f"{item}{n}" for item in items]) for n in range(BLOCK // 2) for name, items in FRIENDS]
    events = frame(many)
    for n in (0, BLOCK // 2 - 1):
        assert first_half(kindred_events, events, f"me{n:05}", 0) in {f"a{n}b{n}", f"c{n}d{n}"}
