"""Search as one types: what was typed finds what a person means by it, the likeliest first."""

import threading

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features import Vocabulary
from data.schema import ITEMS
from serve.catalogue import Catalogue
from serve.titles import Titles, folded

TITLES = ["Amélie", "The Amelia Tapes", "Pamela", "Ameli", None, "Tape Wars", "L'été (1999)", "100% Wolf"]


def catalogue(titles):
    schema = {name: column.dtype for name, column in ITEMS.items()}
    rows = [{"item_id": f"i{number}", "title": title, "genres": ["drama"]} for number, title in enumerate(titles)]
    return Catalogue(pl.DataFrame(rows, schema=schema), Vocabulary(("drama",)), room=5)


@pytest.fixture(scope="module")
def titles():
    return Titles(catalogue(TITLES), pl.Series([1.0, 5.0, 9.0, 2.0, 0.0, 3.0, 4.0, 0.5]))


def found(titles, words, first=0, count=10):
    return [TITLES[int(item[1:])] for item in titles.find(words, first=first, count=count)["item_id"]]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("ameli", ["Ameli", "Amélie", "The Amelia Tapes"]),  # beginnings of titles, the popular first; then of words
        ("AMÉLI", ["Ameli", "Amélie", "The Amelia Tapes"]),
        ("mel", ["Pamela", "The Amelia Tapes", "Ameli", "Amélie"]),  # inside of words, by popularity alone
        ("tap", ["Tape Wars", "The Amelia Tapes"]),
        ("tap the", ["The Amelia Tapes"]),  # every word, in any order
        ("l'ete", ["L'été (1999)"]),
        ("1999", ["L'été (1999)"]),
        ("100%", ["100% Wolf"]),
        ("i4", [None]),  # an item without a title is called by its id
        (".*", ["Pamela", "The Amelia Tapes", "L'été (1999)", "Tape Wars", "Ameli", "Amélie", "100% Wolf", None]),  # signs say nothing
        ("zz", []),
    ],
)
def test_what_was_typed_finds_what_was_meant(titles, typed, expected):
    assert found(titles, typed) == expected


def test_pages_follow_one_another_without_a_gap(titles):
    assert found(titles, "mel", first=0, count=3) + found(titles, "mel", first=3, count=3) == found(titles, "mel")


@given(st.text(max_size=30))
def test_a_title_is_found_by_itself(text):
    known = Titles(catalogue([text, "another"]), pl.Series([0.0, 1.0]))
    assert "i0" in known.find(text, first=0, count=2)["item_id"].to_list()
    assert folded(folded(pl.Series([text]))).to_list() == folded(pl.Series([text])).to_list()


def test_an_item_that_is_posted_is_found_at_once_and_the_folding_is_shared():
    grown = catalogue(["One"])
    titles = Titles(grown, pl.Series([1.0]))
    assert titles.find("two", first=0, count=5).is_empty()
    row = grown.place(["x"])
    posted = pl.DataFrame([{"item_id": "x", "title": "Number Two", "posted_at": 1}], schema={**grown.frame.schema, "posted_at": pl.Int64})
    grown.write(posted, row)
    grown.tell(["x"], row)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(titles.find("two", first=0, count=5)["item_id"].to_list())) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert answers == [["x"]] * 8
