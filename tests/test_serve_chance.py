"""Chance is where it says it is, and as likely as it says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.chance import draw, propensities
from serve.contract import Draw

IDS = 20_000  # requests, of fixed ids: what is counted below is the same on every machine
SLOTS, POOL, EPSILON = (6, 14, 22), tuple("abcde"), 0.1


@pytest.fixture(scope="module")
def drawn():
    return [draw(f"request-{number}", slots=SLOTS, pool=POOL, epsilon=EPSILON) for number in range(IDS)]


def chi_square(found, expected):
    """Σ (found − expected)² / expected."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return float(((found - expected) ** 2 / expected).sum())


def test_a_slot_is_drawn_with_probability_epsilon_whatever_the_other_slots_do(drawn):
    patterns = Counter(tuple(item is not None for item in one.drawn) for one in drawn)
    every = [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]
    expected = [IDS * EPSILON ** sum(one) * (1 - EPSILON) ** (3 - sum(one)) for one in every]
    assert chi_square([patterns[one] for one in every], expected) < 24.3  # 7 degrees of freedom: 1 in 1,000 by chance, of fixed ids


def test_every_item_of_the_pool_comes_equally_often_into_every_slot(drawn):
    for place in range(len(SLOTS)):
        counts = Counter(one.drawn[place] for one in drawn)
        expected = [IDS * (1 - EPSILON), *[IDS * EPSILON / len(POOL)] * len(POOL)]
        assert chi_square([counts[item] for item in (None, *POOL)], expected) < 20.5  # 5 degrees of freedom


def test_one_over_the_propensity_counts_every_possible_item_once_for_each_slot(drawn):
    """E[1 / propensity · (item shown in the slot)] = 1 for the item of the page and for each of the pool: an unbiased estimate."""
    told = [propensities(one, 25) for one in drawn]
    for place, slot in enumerate(SLOTS):
        sums = Counter()
        for one, propensity in zip(drawn, told, strict=True):
            sums[one.drawn[place]] += 1 / propensity[slot] / IDS
        assert sums[None] == pytest.approx(1, abs=4 * np.sqrt(EPSILON / (1 - EPSILON) / IDS))
        for item in POOL:
            assert sums[item] == pytest.approx(1, abs=4 * np.sqrt(len(POOL) / EPSILON / IDS))
    assert {round(one[slot], 12) for one in told for slot in SLOTS} == {0.9, 0.02}  # 1 − ε, and .1 / 5
    assert all(one[place] is None for one in told[:100] for place in range(25) if place not in SLOTS)


@settings(deadline=None)
@given(
    st.text(),
    st.lists(st.integers(0, 30), unique=True, max_size=6),
    st.lists(st.integers(0, 999).map(str), unique=True, max_size=8),
    st.floats(0, 1),
)
def test_of_any_request(request_id, slots, pool, epsilon):
    drawn = draw(request_id, slots=slots, pool=pool, epsilon=epsilon)
    told = propensities(drawn, 31)
    if not slots or not pool or epsilon == 0:
        assert drawn is None and told == (None,) * 31
        return
    assert drawn == draw(request_id, slots=slots, pool=pool, epsilon=epsilon)
    assert drawn.slots == tuple(slots)[: len(pool)]  # a pool that is smaller than the slots: those beyond it are left alone
    assert (drawn.epsilon, drawn.pool, len(drawn.drawn)) == (epsilon, tuple(pool), len(drawn.slots))
    shown = [item for item in drawn.drawn if item is not None]
    assert set(shown) <= set(pool) and len(set(shown)) == len(shown)  # without replacement
    for slot, item in zip(drawn.slots, drawn.drawn, strict=True):
        assert told[slot] == (1 - epsilon if item is None else epsilon / len(pool)) and 0 < told[slot] <= 1
    assert sum(one is not None for one in told) == len(drawn.slots)


def test_what_can_come_to_a_slot_is_certain_to():
    """(1 − ε) of the page's item and ε / |E| of each of the pool add up to 1, also where the pool is smaller than the slots."""
    kept, taken = (propensities(Draw(0.3, (2, 4), ("a", "b"), ends), 5) for ends in ((None, None), ("b", "a")))
    assert kept == (None, None, 0.7, None, 0.7) and taken == (None, None, 0.15, None, 0.15)
    both = [draw(str(number), slots=(0, 1, 2), pool=("a", "b"), epsilon=1.0) for number in range(50)]
    assert {one.drawn for one in both} == {("a", "b"), ("b", "a")} and {one.slots for one in both} == {(0, 1)}
