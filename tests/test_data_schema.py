"""The gate: what is wrong is named by file, column and row; what is merely untidy is counted."""

from datetime import date, datetime

import polars as pl
import pytest

from data import schema
from data.schema import SchemaError, check, check_table

LOG = {"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "event_type": ["click"] * 3, "timestamp": [1, 2, 3]}


def refusal(columns, its=schema.EVENTS, table="events"):
    with pytest.raises(SchemaError) as refused:
        check_table(pl.DataFrame(columns), its, table=table, source="log.csv")
    return str(refused.value)


@pytest.mark.parametrize(
    ("column", "values", "row", "found"),
    [
        ("user_id", ["a", "", "b"], 1, "''"),
        ("item_id", ["x", None, None], 1, "None"),
        ("event_type", ["click", "click", "purchase"], 2, "'purchase'"),
        ("timestamp", ["1", "soon", "3"], 1, "'soon'"),
        ("timestamp", [1.0, 2.5, 3.0], 1, "2.5"),
        ("timestamp", [1, -2, 3], 1, "-2"),
        ("rating", [4.0, float("nan"), 1.0], 1, "nan"),
        ("watch_duration_seconds", [1.0, 2.0, float("inf")], 2, "inf"),
        ("watch_duration_seconds", ["1", "2", "-3"], 2, "'-3'"),
        ("split", ["train", "dev", "test"], 1, "'dev'"),
        ("event_id", ["1", "", "3"], 1, "''"),
    ],
)
def test_a_bad_event_is_named_by_file_column_row_value_and_what_was_expected(column, values, row, found):
    message = refusal({**LOG, column: values})
    assert message.startswith(f"log.csv: events, column {column!r}, row {row}: found {found}, expected ")
    bad = 2 if column == "item_id" else 1
    assert message.endswith(f"({bad} such rows of 3).")
    assert schema.EVENTS[column].expected in message


@pytest.mark.parametrize(
    ("column", "values", "row"),
    [
        ("genres", [["a", None], ["b"]], 0),
        ("content_embedding", [[1.0, 2.0], [1.0]], 1),
        ("content_embedding", [[1.0, 2.0], [1.0, float("nan")]], 1),
        ("maturity", [18, 99], 1),
        ("maturity", [18, 40_000], 1),
        ("release_date", ["1999-03-31", "March"], 1),
        ("duration_seconds", [-1.0, 5.0], 0),
    ],
)
def test_a_bad_item_is_named(column, values, row):
    assert f"items, column {column!r}, row {row}: found" in refusal({"item_id": ["x", "y"], column: values}, schema.ITEMS, "items")


@pytest.mark.parametrize(
    ("column", "values", "row"),
    [("position", [1, 0], 1), ("propensity", [0.5, 0.0], 1), ("propensity", [1.5, 0.5], 0), ("clicked", [1, 2], 1)],
)
def test_a_bad_impression_is_named(column, values, row):
    log = {"request_id": ["r", "r"], "item_id": ["x", "y"], "user_id": ["a", "a"], "position": [1, 2], "timestamp": [0, 0]}
    assert f"impressions, column {column!r}, row {row}: found" in refusal({**log, column: values}, schema.IMPRESSIONS, "impressions")


@pytest.mark.parametrize(
    ("its", "columns", "remedy"),
    [
        (schema.USERS, {"user_id": [1.0, 2.0]}, "store it as integers or text"),
        (schema.ITEMS, {"item_id": ["x"], "release_date": [1999]}, "days since 1970"),
        (schema.ITEMS, {"item_id": ["x"], "genres": ["Drama"]}, "a list belongs in a list column"),
        (schema.ITEMS, {"item_id": ["x"], "title": [["a", "b"]]}, "a list belongs in a list column"),
        (schema.EVENTS, {k: v[:1] for k, v in LOG.items()} | {"timestamp": [datetime(2024, 1, 1)]}, "UTC milliseconds"),
    ],
)
def test_a_cast_that_would_change_the_meaning_is_refused_with_the_remedy(its, columns, remedy):
    assert remedy in refusal(columns, its, "table")


def test_a_missing_column_names_those_that_are_there():
    message = refusal({"user_id": ["a"], "item_id": ["x"]})
    assert message.startswith("log.csv: events has no column 'event_type'") and message.endswith("Columns there: user_id, item_id.")


def test_a_column_nobody_knows_is_refused():
    assert "has a column 'stars' that is none of" in refusal({**LOG, "stars": [1, 2, 3]})


def test_tables_have_exactly_the_schemas_columns_and_dtypes():
    tables = check(pl.DataFrame(LOG).with_columns(pl.col("timestamp").cast(pl.UInt32)), source="here")
    for frame, its in zip(
        (tables.events, tables.items, tables.users, tables.impressions),
        (schema.EVENTS, schema.ITEMS, schema.USERS, schema.IMPRESSIONS),
        strict=True,
    ):
        assert dict(frame.schema) == {name: column.dtype for name, column in its.items()}
    assert tables.items["item_id"].to_list() == ["x", "y"]
    assert tables.users["user_id"].to_list() == ["a", "b"]


def test_good_values_survive_the_cast():
    items = check_table(
        pl.DataFrame(
            {"item_id": [7], "release_date": ["1999-03-31"], "genres": [["Drama"]], "content_embedding": [[1, 2]], "maturity": ["18"]}
        ),
        schema.ITEMS,
        table="items",
        source="here",
    )
    assert items.row(0, named=True) == {
        "item_id": "7", "title": None, "genres": ["Drama"], "tags": None, "release_date": date(1999, 3, 31), "duration_seconds": None,
        "creator": None, "franchise": None, "regions": None,
        "maturity": 18, "content_embedding": [1.0, 2.0], "popularity_score": None, "avg_rating": None,
    }  # fmt: skip


def test_repeats_and_events_of_unknown_items_are_removed_and_counted():
    events = pl.DataFrame(
        {
            "event_id": ["1", "1", None, None, None, None],
            "user_id": ["a", "a", "b", "b", "b", "c"],
            "item_id": ["x", "x", "x", "x", "x", "ghost"],
            "event_type": ["click"] * 6,
            "timestamp": [1, 9, 2, 2, 3, 4],
        }
    )
    log = pl.DataFrame(
        {"request_id": ["r", "r", "r"], "item_id": ["x", "x", "ghost"], "user_id": ["d"] * 3, "position": [1, 1, 2], "timestamp": [0] * 3}
    )
    users = pl.DataFrame({"user_id": ["a", "b"]})
    tables = check(events, pl.DataFrame({"item_id": ["x"]}), users, log, source="here", report={"files": 1})
    assert tables.events.select("user_id", "timestamp").rows() == [("a", 1), ("b", 2), ("b", 3)]
    assert tables.report == {
        "files": 1, "events_read": 6, "impressions_read": 3, "events_duplicate": 2, "events_of_unknown_items": 1,
        "impressions_duplicate": 1, "impressions_of_unknown_items": 1, "users_without_a_row": 1,
    }  # fmt: skip


def test_an_id_listed_twice_is_refused():
    with pytest.raises(SchemaError, match="here: items, column 'item_id', row 0: 'x' stands more than once"):
        check(pl.DataFrame(LOG), pl.DataFrame({"item_id": ["x", "y", "x"]}), source="here")


def test_a_log_without_an_event_to_learn_from_says_why():
    with pytest.raises(SchemaError, match=r"the log is empty \(0 rows read\)"):
        check(schema.empty(schema.EVENTS), source="here")
    with pytest.raises(SchemaError, match=r"none of its items is in the items table \(3 rows read\)"):
        check(pl.DataFrame(LOG), pl.DataFrame({"item_id": ["z"]}), source="here")


def test_the_fingerprint_follows_the_values_and_not_how_the_frame_came_about():
    whole = check(pl.DataFrame(LOG), source="here")
    parts = check(pl.concat([pl.DataFrame(LOG)[:1], pl.DataFrame(LOG)[1:]], rechunk=False), source="there")
    assert whole.fingerprint() == parts.fingerprint()
    other = check(pl.DataFrame({**LOG, "timestamp": [1, 2, 4]}), source="here")
    order = check(pl.DataFrame(LOG).reverse(), source="here")
    assert len({whole.fingerprint(), other.fingerprint(), order.fingerprint()}) == 3


def test_every_table_is_named_by_its_own_file():
    events = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "event_type": ["click"], "timestamp": [1]})
    items = pl.DataFrame({"item_id": ["i", "i"]})
    with pytest.raises(SchemaError, match=r"films\.csv: items, column 'item_id', row 0"):
        check(events, items, source="log.csv", sources={"items": "films.csv"})
