"""A log and what came after it are one log."""

from pathlib import Path

import polars as pl
import pytest

from data.readers.continued import read, read_without_slates
from data.schema import EVENTS, IMPRESSIONS, ITEMS, SchemaError, Tables, check, user_digest

BASE_EVENTS = pl.DataFrame({"user_id": ["u", "w"], "item_id": ["a", "b"], "event_type": ["click", "click"], "timestamp": [1, 2]})
BASE_ITEMS = pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"], "content_embedding": [[1.0, 0.0], None]})


def base() -> Tables:
    users = pl.DataFrame({"user_id": ["u", "w"], "region": ["DE", "FR"]})
    shown = pl.DataFrame({"request_id": ["old"], "item_id": ["a"], "user_id": ["u"], "position": [1], "timestamp": [1], "clicked": [True]})
    return check(BASE_EVENTS, BASE_ITEMS, users, shown, source="a test", report={"found": 7})


def frame(rows: list[dict], columns) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in columns.items()})


@pytest.fixture
def folder(tmp_path) -> Path:
    event = {"user_id": "u", "event_type": "click", "timestamp": 9, "request_id": "r"}
    events = [
        event | {"event_id": "1", "item_id": "a"},
        event | {"event_id": "2", "item_id": "a", "event_type": "complete", "watch_duration_seconds": 90.0},
        event | {"event_id": "3", "item_id": "new", "event_type": "rate", "rating": 3.0},
        event | {"event_id": "4", "item_id": "b", "event_type": "skip"},
        event | {"event_id": "5", "item_id": "c", "event_type": "click", "user_id": "x"},
        event | {"event_id": "6", "item_id": "nobody described"},
    ]
    shown = {"request_id": "r", "user_id": "u", "timestamp": 8}
    places = [shown | {"item_id": item_id, "position": place} for place, item_id in enumerate(("a", "new", "b", "c"), start=1)]
    items = [{"item_id": "new", "content_embedding": [1.0, 2.0, 3.0]}, {"item_id": "a", "title": "A, again"}, {"item_id": "c"}]
    frame(events, EVENTS).write_parquet(tmp_path / "events.parquet")
    frame(places, IMPRESSIONS).write_parquet(tmp_path / "impressions.parquet")
    frame(items, ITEMS).write_parquet(tmp_path / "items.parquet")
    return tmp_path


def test_events_items_and_slates_follow_those_of_the_base(folder):
    tables = read(base(), [str(folder)])
    assert tables.events["event_id"].to_list()[:5] == ["1", "2", "3", "4", "5"] and len(tables.events) == 7
    assert tables.items["item_id"].to_list() == ["a", "b", "new", "c"] and tables.items["title"].to_list() == ["A, again", "B", None, None]
    assert tables.impressions["request_id"].to_list() == ["old", "r", "r", "r", "r"]
    told = tables.report
    assert (told["events_of_unknown_items"], told["items_told_again"], told["embeddings_of_another_width"], told["base_found"]) == (
        1,
        1,
        1,
        7,
    )
    assert told["users_without_a_row"] == 1 and tables.users.equals(base().users)


def test_what_came_of_a_slate_is_what_the_events_of_its_request_tell(folder):
    outcome = read(base(), [str(folder)], liked_from=4.0).impressions
    columns = ("clicked", "completed", "skipped", "watch_duration_seconds")
    assert outcome.select(columns).rows() == [
        (True, None, None, None), (True, True, False, 90.0), (False, False, False, 0.0), (True, False, True, None),
        (False, False, False, 0.0),  # the click on c is of another user
    ]  # fmt: skip
    assert read(base(), [str(folder)], liked_from=3.0).impressions["clicked"].to_list()[2] is True


def test_a_click_that_came_with_the_next_folder_counts_for_the_slate_of_the_last(folder, tmp_path):
    later = tmp_path / "later"
    later.mkdir()
    late = {"event_id": "7", "user_id": "u", "item_id": "c", "event_type": "watch", "timestamp": 10, "request_id": "r"}
    frame([late], EVENTS).write_parquet(later / "events.parquet")
    assert read(base(), [str(folder), str(later)]).impressions["clicked"].to_list()[-1] is True


def test_told_twice_is_counted_and_kept_once(folder):
    once, twice = (read(base(), [str(folder)] * times) for times in (1, 2))
    assert twice.report["events_duplicate"] == 6 and twice.report["impressions_duplicate"] == 4
    for name in ("events", "items", "users", "impressions"):
        assert getattr(once, name).equals(getattr(twice, name)), name


def test_without_slates_there_is_none(folder):
    tables = read_without_slates(base(), [str(folder)])
    assert len(tables.impressions) == 0 and tables.report["impressions_left_out"] == 5 and len(tables.events) == 7


def test_the_forgotten_are_in_no_table(folder, tmp_path):
    (tmp_path / "forgotten.txt").write_text(user_digest("u") + "\n" + user_digest("never seen") + "\n")
    tables = read(base(), [str(folder)], forgotten=str(tmp_path / "forgotten.txt"))
    assert set(tables.events["user_id"]) == {"w", "x"} and tables.users["user_id"].to_list() == ["w"] and not len(tables.impressions)
    assert tables.report["users_forgotten"] == 1
    assert "users_forgotten" not in read(base(), [str(folder)], forgotten=str(tmp_path / "no such file")).report


def test_a_folder_that_is_not_there_or_damaged_is_named(folder, tmp_path):
    with pytest.raises(SchemaError, match="no such folder"):
        read(base(), [str(tmp_path / "gone")])
    (folder / "events.parquet").write_bytes(b"PAR1")
    with pytest.raises(SchemaError, match=r"events.parquet: cannot be read"):
        read(base(), [str(folder)])
