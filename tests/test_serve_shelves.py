"""Each item in one row, the best of a page among the top picks, and a row only where enough items share what it says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import DISLIKED, EVENT_TYPE_CODE
from serve import shelves
from serve.explain import REFUSED, Causes, no_causes
from serve.shelves import CAUSES, CONTINUE, DIFFERENT, EDITORS, FEW, MUCH, NEW, ORDER, PICKS, POPULAR, REASON, SHELF, TOP, Shown, say

GENRES = ("comedy", "drama", "western")
TITLES = ("Zero", "One", "Two", "Three", "Four", "Two")  # two items of one title
KINDS = ("begun", "editorial", "new", "popular", "different", "trending")
WATCH = EVENT_TYPE_CODE["watch"]
NO_SHARE = np.zeros(3)


def shown(kinds, causes=None, genres=None, code=WATCH):
    """A slate: what gave each place, the item row of its cause (-1: none), its one genre (-1: none)."""
    cause = np.array(causes if causes is not None else [-1] * len(kinds))
    genre = np.array(genres if genres is not None else [-1] * len(kinds))
    losses = Causes(cause, np.where(cause < 0, -1, code), np.where(cause < 0, 0.0, 0.5))
    return Shown(kinds, losses, genre[:, None] == np.arange(3))


def rows(said):
    return [row for _, row in said]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("view", "Because you looked at One"),
        ("click", "Because you opened One"),
        ("watch", "Because you watched One"),
        ("complete", "Because you watched One"),
        ("rate", "Because you liked One"),
    ],
)
def test_the_sentence_says_what_was_done(name, sentence):
    assert say(shown([""], [1], code=EVENT_TYPE_CODE[name]), TITLES, GENRES, NO_SHARE, None) == [(sentence, PICKS)]


def test_there_are_words_for_everything_that_can_be_named():
    assert set(shelves.VERB) == {*EVENT_TYPE_CODE.values(), DISLIKED} - set(REFUSED)


def test_three_items_of_one_cause_beyond_the_first_six_share_a_row():
    """Places 0-5 are top picks, though four of them have the cause; of the rest cause 2 has three, cause 1 two."""
    causes = [2, 2, 2, -1, -1, 2, 2, 1, 2, -1, 1, 2]
    said = say(shown([""] * 12, causes), TITLES, GENRES, NO_SHARE, None)
    because = "Because you watched Two"
    assert rows(said) == [PICKS] * 6 + [because, PICKS, because, PICKS, PICKS, because]
    assert said[0] == (because, PICKS) and said[7] == ("Because you watched One", PICKS) and said[9] == (REASON[PICKS], PICKS)


def test_two_items_of_one_title_do_not_make_a_row_together():
    causes = [-1] * 6 + [2, 5, 2, 5]
    assert rows(say(shown([""] * 10, causes), TITLES, GENRES, NO_SHARE, None)) == [PICKS] * 10
    causes = [-1] * 6 + [5, 5, 5, 2, 2, 2]
    said = say(shown([""] * 12, causes), TITLES, GENRES, NO_SHARE, None)
    assert rows(said) == [PICKS] * 6 + ["Because you watched Two"] * 3 + [PICKS] * 3


def test_the_three_most_shared_causes_have_rows():
    causes = [-1] * 6 + [0] * 3 + [1] * 3 + [3] * 4 + [4] * 3
    said = say(shown([""] * 19, causes), TITLES, GENRES, NO_SHARE, None)
    assert Counter(rows(said)) == {PICKS: 9, "Because you watched Zero": 3, "Because you watched One": 3, "Because you watched Three": 4}


def test_a_row_of_one_is_none_but_of_what_was_begun_or_is_popular():
    said = say(shown(["begun", "", "trending", "new", "new", "popular", "different", "editorial"]), TITLES, GENRES, NO_SHARE, "DE")
    assert said == [
        (REASON[CONTINUE], CONTINUE), (REASON[PICKS], PICKS), ("Trending in DE", PICKS), (REASON[NEW], NEW), (REASON[NEW], NEW),
        (REASON[POPULAR], POPULAR), (REASON[DIFFERENT], PICKS), (REASON[EDITORS], PICKS),
    ]  # fmt: skip
    assert say(shown(["trending", "trending"]), TITLES, GENRES, NO_SHARE, None) == [("Trending now", "Trending now")] * 2


def test_for_nobody_in_particular_nothing_is_picked():
    """A single trending or new item among what is popular stays there: no row of theirs, and no top pick."""
    said = say(shown(["popular", "trending", "popular", "new", "editorial"]), TITLES, GENRES, NO_SHARE, "DE")
    assert rows(said) == [POPULAR] * 5
    assert [reason for reason, _ in said] == [REASON[POPULAR], "Trending in DE", REASON[POPULAR], REASON[NEW], REASON[EDITORS]]
    assert say(shown([]), TITLES, GENRES, NO_SHARE, None) == []


def test_more_of_a_genre_takes_only_what_nothing_else_is_said_of_beyond_the_first_six():
    kinds, genres = ["trending"] + [""] * 11, [1] * 12
    causes = [-1] * 8 + [0] + [-1] * 3
    said = say(shown(kinds, causes, genres), TITLES, GENRES, np.array([0.1, 0.7, 0.2]), None)
    assert rows(said) == [PICKS] * 7 + ["More drama"] * 1 + [PICKS] + ["More drama"] * 3
    assert said[7][0] == "drama, as much of what you watch" and said[8] == ("Because you watched Zero", PICKS)
    few = say(shown([""] * 8, None, [1] * 8), TITLES, GENRES, np.array([0.1, 0.7, 0.2]), None)
    assert rows(few) == [PICKS] * 8  # two are not enough
    assert rows(say(shown(kinds, causes, genres), TITLES, GENRES, np.array([1 - MUCH + 0.01, MUCH - 0.01, 0]), None)) == [PICKS] * 12
    second = say(shown([""] * 9, None, [2] * 9), TITLES, GENRES, np.array([0.1, 0.6, 0.3]), None)
    assert rows(second) == [PICKS] * 6 + ["More western"] * 3  # of what is most of the history there is nothing


@st.composite
def slates(draw):
    count = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    worth = draw(st.sampled_from([0.6, 0.9]))
    kinds = ["" if rng.random() < worth else str(rng.choice(KINDS)) for _ in range(count)]
    if draw(st.integers(0, 5)) == 0:  # nobody in particular
        kinds = [kind or "popular" for kind in kinds]
    causes = rng.integers(-1, draw(st.integers(1, 6)), count)
    return kinds, causes, rng.integers(-1, 3, count), rng.dirichlet(np.ones(3)) * draw(st.sampled_from([0, 1]))


@settings(max_examples=200, deadline=None)
@given(slates(), st.sampled_from([None, "DE"]))
def test_the_laws_of_rows(slate, region):
    kinds, causes, genres, share_G = slate
    told = shown(kinds, causes, genres)
    said = say(told, TITLES, GENRES, share_G, region)
    assert len(said) == len(kinds)
    size = Counter(rows(said))
    by_worth = [place for place, kind in enumerate(kinds) if not kind]
    assert all(said[place][1] == PICKS for place in by_worth[:TOP])
    assert sum(row.startswith("Because") for row in size) <= CAUSES and sum(row.startswith("More") for row in size) <= 1
    for row, count in size.items():
        places = [place for place, one in enumerate(rows(said)) if one == row]
        if row.startswith("Because"):
            assert count >= SHELF and len({causes[place] for place in places}) == 1 and not any(kinds[place] for place in places)
            assert row == f"Because you watched {TITLES[causes[places[0]]]}"
        elif row.startswith("More"):
            genre = GENRES.index(row.removeprefix("More "))
            assert count >= SHELF and share_G[genre] >= MUCH and all(genres[place] == genre for place in places)
        elif row not in (PICKS, POPULAR, CONTINUE):
            assert count >= FEW
    assert (PICKS in size) <= bool(by_worth or "popular" not in kinds)
    named = {"begun": REASON[CONTINUE], "editorial": REASON[EDITORS], "new": REASON[NEW], "popular": REASON[POPULAR],
             "different": REASON[DIFFERENT], "trending": shelves.trending(region)}  # fmt: skip
    for place, (reason, row) in enumerate(said):
        if kinds[place]:
            assert reason == named[kinds[place]]
        elif causes[place] >= 0:
            assert reason == f"Because you watched {TITLES[causes[place]]}" and row in (PICKS, reason)
        else:
            assert reason == REASON[PICKS] or row.startswith("More")


@settings(deadline=None)
@given(slates(), st.integers(0, 30))
def test_the_rows_of_what_is_left_of_a_page_are_rows_again(slate, left):
    """A precomputed page is cut and filtered: its rows are gathered anew, and what is gathered stays as it is."""
    kinds, causes, genres, share_G = slate
    said = shelves.gathered(say(shown(kinds, causes, genres), TITLES, GENRES, share_G, "DE")[:left])
    for row, count in Counter(rows(said)).items():
        least = SHELF if row.startswith(("Because", "More")) else 1 if row in (PICKS, POPULAR, CONTINUE) else FEW
        assert count >= least
    assert shelves.gathered(said) == said


ROWS = (CONTINUE, PICKS, "Because you liked X", "Because you opened Y", "Trending in DE", NEW, "More drama", POPULAR, DIFFERENT, EDITORS)


@settings(deadline=None)
@given(st.lists(st.sampled_from(ROWS), max_size=40))
def test_the_page_is_read_row_by_row_and_within_a_row_as_it_was_chosen(of):
    order = shelves.page_order(of).tolist()
    assert sorted(order) == list(range(len(of)))
    read = [of[place] for place in order]
    assert [row for place, row in enumerate(read) if not place or read[place - 1] != row] == list(dict.fromkeys(read))  # each row once
    for row in set(of):
        assert [place for place in order if of[place] == row] == [place for place, one in enumerate(of) if one == row]
    rank = [next(number for number, start in enumerate(ORDER) if row.startswith(start)) for row in read]
    assert rank == sorted(rank)
    between = [row for row in dict.fromkeys(read) if row.startswith("Because")]
    assert between == [row for row in dict.fromkeys(of) if row.startswith("Because")]  # rows of one kind: the earlier first


def test_the_causes_of_nobody_say_nothing():
    assert shelves.because(no_causes(3), TITLES) == [None, None, None]
