"""The curated list: what is shown when and where, which slots are reserved, and that a broken file changes nothing."""

import datetime as dt
import os

import numpy as np
import pytest

from serve import editorial
from serve.contract import MAX_COUNT
from serve.editorial import EditorialError, EditorialFile, parse
from serve.scoring import Person
from serve.sources import Ask, Editorial
from tests.test_house import ROOT

ROWS = {"a": 0, "b": 1, "c": 2, "42": 42}
LIST = """
- {item_id: a, from: 2026-12-01, until: 2026-12-24, place: 3}
- {item_id: b, from: 2026-12-01T18:00:00+01:00, until: "2026-12-02T12:00:00", regions: [DE, "NO"], place: 1}
- {item_id: c, from: 2026-12-01, until: 2026-12-02, place: 3}
- {item_id: a, from: 2026-12-02, until: 2026-12-02, place: 2}
- {item_id: "42", from: 2026-12-02 06:00:00, until: 2026-12-03}
"""


def rows(item_ids):
    return np.array([ROWS.get(item_id, -1) for item_id in item_ids], np.int64)


def ms(text):
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp() * 1000)


def ask(text, region=None):
    nobody = Person(*(np.zeros(0, np.int64),) * 3, np.zeros((1, 6), np.int64), 0)
    return Ask(nobody, None, None, region, ms(text))


@pytest.fixture
def curated(tmp_path, monkeypatch):
    """A source over a file that is looked at whenever it is asked."""
    monkeypatch.setattr(editorial, "LOOK_S", 0.0)
    path = tmp_path / "editorial.yaml"
    path.write_text(LIST)
    return Editorial(EditorialFile(path, rows))


@pytest.mark.parametrize(
    ("moment", "region", "expected"),
    [
        ("2026-11-30T23:59:59.999", "DE", []),
        ("2026-12-01T00:00", "DE", [0, 2]),
        ("2026-12-01T17:00", "DE", [0, 1, 2]),  # 18:00 in Berlin
        ("2026-12-01T17:00", "NO", [0, 1, 2]),
        ("2026-12-01T17:00", "FR", [0, 2]),
        ("2026-12-01T17:00", None, [0, 2]),
        ("2026-12-02T11:59", "DE", [0, 1, 2, 42]),
        ("2026-12-02T12:00", "DE", [0, 2, 42]),
        ("2026-12-02T23:59:59.999", None, [0, 2, 42]),  # a day ends with its end
        ("2026-12-03T00:00", None, [0, 42]),
        ("2026-12-24T23:59:59.999", None, [0]),
        ("2026-12-25T00:00", None, []),
    ],
)
def test_what_is_active_there_and_then_is_proposed_once_in_the_files_order(curated, moment, region, expected):
    assert curated.propose(ask(moment, region), 9).tolist() == expected
    assert curated.propose(ask(moment, region), 1).tolist() == expected[:1]


def test_of_two_for_a_slot_and_of_two_slots_for_an_item_the_first_in_the_file_holds(curated):
    assert curated.reserved(ask("2026-12-01T17:00", "DE")) == ((1, 1), (3, 0))
    assert curated.reserved(ask("2026-12-02T13:00")) == ((3, 0),)
    assert curated.reserved(ask("2027-01-01T00:00")) == ()


def test_a_changed_file_is_read_again_a_broken_or_missing_one_leaves_the_last_good_list_and_is_counted(curated, caplog):
    path, now = curated.file.path, ask("2026-12-10T00:00")
    assert curated.propose(now, 9).tolist() == [0]
    path.write_text("- {item_id: b, from: 2026-12-01, until: 2026-12-24}")
    assert curated.propose(now, 9).tolist() == [1]
    path.write_text("- {item_id: c, from: 2026-12-01, until")
    for _ in range(3):
        assert curated.propose(now, 9).tolist() == [1]
    assert curated.file.failures == 1 and "is no YAML" in caplog.text
    path.unlink()
    for _ in range(3):
        assert curated.propose(now, 9).tolist() == [1]
    assert curated.file.failures == 2 and "No such file" in caplog.text
    path.write_text("- {item_id: c, from: 2026-12-01, until: 2026-12-24}")
    assert curated.propose(now, 9).tolist() == [2] and curated.file.failures == 2


def test_a_file_is_looked_at_once_in_a_while(tmp_path):
    path = tmp_path / "editorial.yaml"
    path.write_text(LIST)
    file = EditorialFile(path, rows)
    assert len(file.entries()) == 5
    path.write_text("[]")
    assert len(file.entries()) == 5  # within the same second
    file._next_look = 0.0
    assert file.entries() == ()


def test_unknown_items_are_skipped_and_named_once_until_they_are_posted(curated, caplog, monkeypatch):
    path, now = curated.file.path, ask("2026-12-10T00:00")
    path.write_text("\n".join(f"- {{item_id: {name}, from: 2026-12-01, until: 2026-12-24}}" for name in ("x", "a", "y", "x")))
    for _ in range(3):
        assert curated.propose(now, 9).tolist() == [0]
    assert caplog.text.count("no item of the catalogue is called 'x', 'y'") == 1
    assert curated.file.unknown == 2
    monkeypatch.setitem(ROWS, "y", 7)
    assert curated.propose(now, 9).tolist() == [0, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "is a dict; expected a list"),
        ("- 7", "entry 1 is 7"),
        ("- {item_id: a, from: 2026-12-01, until: 2026-12-02, til: 1}", "entry 1 has a key 'til' that is none of from, item_id"),
        ("- {item_id: 42, from: 2026-12-01, until: 2026-12-02}", "entry 1 has the item_id 42; expected text, in quotes"),
        ("- {item_id: a, from: 2026-12-01}", "entry 1 runs from 2026-12-01 until None"),
        ("- {item_id: a, from: 2026-12-02, until: 2026-12-01}", "the first before the second"),
        ("- {item_id: a, from: 2026-12-02T10:00, until: 2026-12-02T10:00}", "the first before the second"),
        ("- {item_id: a, from: soon, until: 2026-12-01}", "expected two dates or ISO times"),
        ("- {item_id: a, from: 2026-12-01, until: 2026-12-02, regions: [NO]}", "entry 1 has the regions [False]"),
        ("- {item_id: a, from: 2026-12-01, until: 2026-12-02, place: 0}", f"expected a whole number from 1 to {MAX_COUNT}"),
        ("- {item_id: a, from: 2026-12-01, until: 2026-12-02, place: yes}", "has the place True"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_by_number(text, message):
    with pytest.raises(EditorialError) as refused:
        parse(text)
    assert message in str(refused.value)


def test_the_list_that_ships_is_empty_and_the_entry_it_shows_is_one():
    text = (ROOT / "conf/editorial.yaml").read_text()
    assert parse(text) == ()
    shown = "\n".join(line.removeprefix("# ") for line in text.splitlines()[2:-1])
    (entry,) = parse(shown)
    assert (entry.item_id, entry.regions, entry.place) == ("42", ("DE", "NO"), 1)
    assert (entry.start, entry.end) == (ms("2026-12-01T00:00"), ms("2026-12-25T00:00"))


def test_no_file_is_a_list_without_entries():
    file = EditorialFile(None, rows)
    assert file.entries() == () and file.failures == 0


def test_the_time_of_a_file_that_went_back_counts_as_a_change(curated):
    now = ask("2026-12-10T00:00")
    assert curated.propose(now, 9).tolist() == [0]
    curated.file.path.write_text(LIST.replace("item_id: a", "item_id: b"))
    os.utime(curated.file.path, (1, 1))
    assert curated.propose(now, 9).tolist() == [1]
