"""The planner's laws: each item once, the shorter page begins the longer, caps hold or their breach is counted."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.slots import WINDOW, Cap, Turn, fill


@st.composite
def page(draw):
    """Candidates in a main order, groups, turns, reserved places and tight caps, one of several labels."""
    candidates, rng = draw(st.integers(1, 80)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.sampled_from(((), ("new",), ("trending", "new"), ("new", "popular", "trending", "different"))))
    places = draw(st.lists(st.integers(0, 70), unique=True, max_size=min(4, candidates)))
    caps = {
        "genre": Cap(rng.integers(-1, draw(st.integers(1, 5)), (candidates, 2)), draw(st.integers(0, 12))),
        "creator": Cap(rng.integers(-1, 10, candidates), draw(st.integers(0, 4))),
    }
    return {
        "order_J": rng.permutation(candidates),
        "groups": {kind: rng.permutation(candidates)[: rng.integers(candidates + 1)] for kind in kinds},
        "plan": {kind: Turn(draw(st.integers(1, 8)), draw(st.integers(0, 9))) for kind in kinds},
        "reserved": dict(zip(places, rng.permutation(candidates).tolist(), strict=False)),
        "caps": {name: caps[name] for name in draw(st.sampled_from(((), ("genre",), ("creator", "genre"))))},
    }


@given(page(), st.integers(0, 100))
def test_each_item_once_and_every_place_that_can_be_filled(case, count):
    filled = fill(**case, count=count)
    order = filled.order_N.tolist()
    assert len(order) == len(set(order)) == len(filled.kind_N) == min(count, len(case["order_J"]))


@given(page(), st.integers(0, 60), st.integers(0, 40))
def test_a_longer_page_begins_with_the_shorter(case, count, more):
    short, long = fill(**case, count=count), fill(**case, count=count + more)
    assert long.order_N[:count].tolist() == short.order_N.tolist()
    assert long.kind_N[:count] == short.kind_N
    assert short.held.items() <= long.held.items()


@given(page(), st.integers(0, 100))
def test_caps_hold_except_where_the_answer_says_so(case, count):
    filled = fill(**case, count=count)
    for name, cap in case["caps"].items():
        seen, beyond = Counter(), 0
        for place, (position, kind) in enumerate(zip(filled.order_N, filled.kind_N, strict=True)):
            labels = {label for label in np.atleast_1d(cap.label_KM[position]).tolist() if label >= 0}
            seen.update(labels)
            beyond += kind != "reserved" and any(seen[label] > cap.most * (place // WINDOW + 1) for label in labels)
        assert beyond <= sum(filled.relaxed.values())
        if len(case["caps"]) == 1 and not case["reserved"]:
            assert beyond == filled.relaxed.get(name, 0)


@given(page(), st.integers(0, 100))
def test_reserved_places_are_kept(case, count):
    filled = fill(**case, count=count)
    others = len(case["order_J"]) - len(case["reserved"])
    for place, position in case["reserved"].items():
        unreserved = sum(before not in case["reserved"] for before in range(place))
        if place < count and unreserved <= others:  # else there is nothing to put before it, and it moves up
            assert (filled.order_N[place], filled.kind_N[place]) == (position, "reserved")


@given(page(), st.integers(0, 100))
def test_a_kind_gives_its_own_items_in_their_order(case, count):
    filled = fill(**case, count=count)
    for kind, group in case["groups"].items():
        given_by = [int(position) for position, said in zip(filled.order_N, filled.kind_N, strict=True) if said == kind]
        assert set(given_by) <= set(group.tolist())
        if not case["caps"]:
            assert given_by == sorted(given_by, key=group.tolist().index)


@given(page(), st.integers(0, 100))
def test_without_rules_it_is_the_main_order(case, count):
    filled = fill(case["order_J"], count=count)
    assert filled.order_N.tolist() == case["order_J"][:count].tolist()
    assert not (filled.held or filled.skipped or filled.relaxed)


@given(page(), st.integers(0, 100))
def test_what_is_counted_is_what_is_named(case, count):
    filled = fill(**case, count=count)
    assert Counter(filled.held.values()) == filled.skipped
    assert sum(filled.relaxed.values()) <= filled.kind_N.count("")


@given(page(), st.integers(1, 25))
def test_held_back_means_that_something_worse_came_before_it(case, count):
    """Of the main order alone: an item is named as held exactly if it is passed over by one that the order has after it."""
    filled = fill(case["order_J"], caps=case["caps"], count=count)
    rank = {position: place for place, position in enumerate(case["order_J"].tolist())}
    place_of = {int(position): place for place, position in enumerate(filled.order_N)}
    for position in case["order_J"].tolist():
        earlier = filled.order_N[: place_of.get(position, count)]
        passed = any(rank[int(other)] > rank[position] for other in earlier)
        assert not passed or position in filled.held


def test_by_hand():
    """Ten places. Trending every 4th from 1, new every 4th from 1 too: the collision gives new the next place. Place 2 is reserved."""
    filled = fill(
        range(20),
        count=8,
        groups={"trending": [15, 16, 17], "new": [0, 18, 15]},
        plan={"trending": Turn(4, 1), "new": Turn(4, 1)},
        reserved={2: 19, 40: 3},
    )
    assert filled.order_N.tolist() == [0, 15, 19, 18, 1, 16, 2, 4]  # 0 was new's first but used; 3 is kept for place 40; new has no more
    assert filled.kind_N == ("", "trending", "reserved", "new", "", "trending", "", "")


def test_caps_by_hand():
    """At most two of a genre: 0 and 1 are of genre 7, so 2 (7 and 8) and 3 (7) wait; 4, 5 are of 8. Then nothing is left but breaches."""
    genre = np.array([[7, -1], [7, -1], [7, 8], [7, -1], [8, -1], [8, -1], [8, -1]])
    filled = fill(range(7), count=6, caps={"genre": Cap(genre, 2)})
    assert filled.order_N.tolist() == [0, 1, 4, 5, 2, 3]
    assert filled.held == {2: "genre", 3: "genre", 6: "genre"}
    assert (filled.skipped, filled.relaxed) == ({"genre": 3}, {"genre": 2})


def test_a_cap_grows_with_every_window():
    """One creator makes the first 40 of 100 items, 3 of them in every 25 places: what waited comes first when a window opens."""
    filled = fill(range(100), count=75, caps={"creator": Cap(np.array([5] * 40 + [-1] * 60), 3)})
    assert filled.order_N[:4].tolist() == [0, 1, 2, 40]
    assert filled.order_N[25:29].tolist() == [3, 4, 5, 62]
    assert filled.order_N[50:54].tolist() == [6, 7, 8, 84]
    assert filled.relaxed == {"creator": 6}  # from place 69 nothing else is left
    assert filled.order_N[69:].tolist() == [9, 10, 11, 12, 13, 14]


def test_a_reserved_item_counts_from_the_first_place_of_its_window():
    filled = fill(range(6), count=4, reserved={3: 5}, caps={"creator": Cap(np.array([1, 1, 2, 3, 4, 1]), 2)})
    assert filled.order_N.tolist() == [0, 2, 3, 5]
    assert filled.held == {1: "creator"}


def test_turns_that_wait_do_not_pile_up():
    """Turns at 0 and 2 fall on reserved places; at 4 the kind comes once, and not again at 5 for what it missed."""
    filled = fill(range(20), count=7, groups={"new": [17, 18, 19]}, plan={"new": Turn(2, 0)}, reserved={0: 10, 1: 11, 2: 12, 3: 13})
    assert filled.order_N.tolist() == [10, 11, 12, 13, 17, 0, 18]


def test_reserved_items_move_up_when_nothing_else_is_left():
    filled = fill([0, 1, 2, 3], count=10, reserved={8: 2, 5: 1})
    assert filled.order_N.tolist() == [0, 3, 1, 2]
    assert filled.kind_N == ("", "", "reserved", "reserved")


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"count": -1}, "count"),
        ({"reserved": {-1: 0}}, "places"),
        ({"reserved": {1: 0, 2: 0}}, "twice"),
        ({"plan": {"new": Turn(0, 1)}}, "turns"),
        ({"caps": {"genre": Cap(np.zeros(2, int), 1)}}, "genre"),
    ],
)
def test_refuses_what_cannot_be_meant(wrong, word):
    with pytest.raises(ValueError, match=word):
        fill(range(3), **{"count": 2} | wrong)
