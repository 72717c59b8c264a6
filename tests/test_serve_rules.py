"""Boosts fade as they say, caps count what they name, and a rule that cannot be is refused by its key."""

import math
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import Vocabulary
from data.schema import ITEMS
from serve.catalogue import Catalogue
from serve.rules import DAY_MS, Boost, Explore, Rules, Turn, age_days, boosted, is_new, labels

NOW = 20_000 * DAY_MS
AGES = (0, 14, 28, None, 3000)  # days, at NOW
ROWS = np.arange(5)


@pytest.fixture(scope="module")
def catalogue():
    frame = pl.DataFrame(
        {
            "item_id": list("abcde"),
            "genres": [["drama"], ["comedy", "drama"], ["comedy"], [], None],
            "release_date": [None if age is None else 20_000 - age for age in AGES],
            "creator": ["Ada", None, "Bo", "Ada", None],
            "franchise": [None, "Saga", "Saga", None, "Ada"],
        },
        schema_overrides={"release_date": pl.Int32},
    ).cast({"release_date": pl.Date})
    missing = [pl.lit(None, column.dtype).alias(name) for name, column in ITEMS.items() if name not in frame.columns]
    return Catalogue(frame.with_columns(missing).select(*ITEMS), Vocabulary(("comedy", "drama")), room=1)


def test_a_boost_is_its_factor_at_first_and_half_of_it_after_a_half_life(catalogue):
    factors = boosted({"new": Boost(0.4, half_life_days=14)}, catalogue, ROWS, now=NOW)
    assert factors["new"] == pytest.approx([1.4, 1.2, 1.1, 1.0, 1.0])  # an item of unknown age is none that ages: no boost


def test_a_boost_without_half_life_acts_on_what_it_names_at_any_age(catalogue):
    boosts = {
        "all": Boost(1.0), "drama": Boost(0.5, genre="drama"), "ada": Boost(-0.5, creator="Ada"), "saga": Boost(2.0, franchise="Saga"),
        "both": Boost(1.0, genre="comedy", franchise="Saga"), "nothing": Boost(1.0, genre="western"), "nobody": Boost(1.0, creator="Saga"),
        "fading": Boost(1.0, half_life_days=28, genre="comedy"),
    }  # fmt: skip
    told = {name: factor_K.tolist() for name, factor_K in boosted(boosts, catalogue, ROWS, now=NOW).items()}
    assert told["all"] == [2, 2, 2, 2, 2]
    assert told["drama"] == [1.5, 1.5, 1, 1, 1]
    assert told["ada"] == [0.5, 1, 1, 0.5, 1]  # a creator's name is no franchise's
    assert told["saga"] == [1, 3, 3, 1, 1]
    assert told["both"] == [1, 2, 2, 1, 1]
    assert told["nothing"] == told["nobody"] == [1] * 5
    assert told["fading"] == pytest.approx([1, 1 + 2**-0.5, 1.5, 1, 1])
    assert boosted({}, catalogue, ROWS, now=NOW) == {}
    assert boosted(boosts, catalogue, ROWS[:0], now=NOW)["ada"].tolist() == []


@settings(deadline=None)
@given(st.floats(-0.999, 10), st.floats(0.01, 1000), st.floats(0, 1000), st.floats(0, 1000))
def test_a_boost_only_fades_and_never_turns(factor, half_life_days, earlier, more):
    schema = {name: column.dtype for name, column in ITEMS.items()}
    catalogue = Catalogue(pl.DataFrame([dict.fromkeys(ITEMS) | {"item_id": "x"}], schema=schema), Vocabulary(()))
    catalogue.release_day_I[0] = 0.0
    strength = [
        boosted({"b": Boost(factor, half_life_days)}, catalogue, np.array([0]), now=round(days * DAY_MS))["b"][0] - 1
        for days in (earlier, earlier + more)
    ]
    assert abs(strength[1]) <= abs(strength[0]) + 1e-9 <= abs(factor) + 2e-9
    assert strength[0] * factor >= -1e-12


def test_age_counts_from_the_post_where_there_was_one_and_never_below_nothing(catalogue):
    assert np.array_equal(age_days(catalogue, ROWS, now=NOW), [0, 14, 28, np.nan, 3000], equal_nan=True)
    assert np.nanmax(age_days(catalogue, ROWS[:3], now=19_000 * DAY_MS)) == 0  # to be released in the future
    posted = dict.fromkeys(ITEMS) | {"item_id": "f", "posted_at": NOW - 36 * 3_600_000}
    row = catalogue.place(["f"])
    catalogue.write(pl.DataFrame([posted], schema={name: column.dtype for name, column in ITEMS.items()} | {"posted_at": pl.Int64}), row)
    assert age_days(catalogue, row, now=NOW).tolist() == [1.5]
    every = np.append(ROWS, row)
    assert is_new(catalogue, every, now=NOW, new_days=14).tolist() == [True, True, False, False, False, True]
    assert is_new(catalogue, every, now=NOW, new_days=0).tolist() == [True, False, False, False, False, False]


def test_caps_count_the_genres_an_item_bears_and_its_one_creator_and_franchise(catalogue):
    told = labels({"genre": 3, "franchise": 1}, catalogue, np.array([4, 1, 0]))
    assert told["genre"].tolist() == [[-1, -1], [0, 1], [-1, 1]]
    saga, ada = catalogue.franchises.numbers(["Saga", "Ada"])
    assert told["franchise"].tolist() == [ada, saga, -1] and set(told) == {"genre", "franchise"}
    creators = labels({"creator": 1}, catalogue, ROWS)["creator"]
    assert creators[0] == creators[3] >= 0 and creators[2] not in (creators[0], -1) and creators[[1, 4]].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("given_", "key"),
    [
        ({"boosts": {"new": Boost(-1.0)}}, "rules.boosts.new"),
        ({"boosts": {"new": Boost(math.nan)}}, "rules.boosts.new"),
        ({"boosts": {"ok": Boost(-0.9), "old": Boost(1.0, half_life_days=0)}}, "rules.boosts.old"),
        ({"caps": {"director": 1}}, "rules.caps: there is no 'director'; expected genre, creator, franchise"),
        ({"caps": {"creator": 1, "genre": 0}}, "rules.caps.genre"),
        ({"turns": {"weird": Turn(1, 1)}}, "rules.turns: there is no 'weird'"),
        ({"turns": {"new": Turn(0, 1)}}, "rules.turns.new.every"),
        ({"turns": {"new": Turn(1, 0)}}, "rules.turns.new.first"),
        ({"shown_most": 0}, "rules.shown_most"),
        ({"shown_days": 0.0}, "rules.shown_days"),
        ({"new_days": -1.0}, "rules.new_days"),
        ({"explore": Explore((1,), 1.1)}, "rules.explore"),
        ({"explore": Explore((1,), math.nan)}, "rules.explore"),
        ({"explore": Explore((0,), 0.1)}, "rules.explore"),
        ({"explore": Explore((7, 9, 7), 0.1)}, "rules.explore"),  # one place cannot have two propensities
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_its_key(given_, key):
    with pytest.raises(ValueError, match=f"^{re.escape(key)}"):
        Rules(**given_)
