"""The reader of people's own files: every way to say what a column means, and what is said back when it cannot be so."""

import logging
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest

from data.readers import tables
from data.schema import SchemaError

MAP = {"user_id": "visitor", "item_id": "sku", "timestamp": "at", "event_type": None}


def test_tables_from_csv_with_lists_zeros_and_a_constant_event_type(tmp_path, caplog):
    (tmp_path / "log.csv").write_text("visitor,sku,at,shop\n007,0042,1365029107,north\n7,0043,1365029108.5,south\n")
    (tmp_path / "films.csv").write_text(
        "item_id,title,genres,content_embedding,release_date\n0042,Bus,Drama | Crime,0.5|1,1974-03-31\n0043,Car,,1|2,\n"
    )
    with caplog.at_level(logging.INFO):
        read = tables.read(tmp_path / "log.csv", tmp_path / "films.csv", columns=MAP, timestamp_unit="s", event_type="view")
    assert read.events.select("user_id", "item_id", "timestamp", "event_type").rows() == [
        ("007", "0042", 1365029107000, "view"),
        ("7", "0043", 1365029108500, "view"),
    ]
    assert read.items.select("title", "genres", "content_embedding", "release_date").rows() == [
        ("Bus", ["Drama", "Crime"], [0.5, 1.0], date(1974, 3, 31)),
        ("Car", None, [1.0, 2.0], None),
    ]
    assert (read.report["columns_unused"], read.report["events_given_the_constant_type"]) == (1, 2)
    assert "columns not used: shop (map one by data.columns.<name>=<column>)" in caplog.text
    assert "2 events from 2013-04-03 22:45:07 to 2013-04-03 22:45:08.500000 UTC" in caplog.text


@pytest.mark.parametrize(
    ("values", "unit", "milliseconds"),
    [
        ([1_500, 2_500], "ms", [1_500, 2_500]),
        ([1_500_999, 2_500_000], "us", [1_500, 2_500]),
        ([1_500_000_000, 2_500_000_000], "ns", [1_500, 2_500]),
        ([1.5, 2.5], "s", [1_500, 2_500]),
        ([datetime(1970, 1, 1, 0, 0, 1, 500_000), datetime(1970, 1, 1, 0, 0, 2)], "s", [1_500, 2_000]),
        (
            [datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(1970, 1, 1, 3, tzinfo=UTC)],
            "ms",
            [0, 10_800_000],
        ),
        ([date(1970, 1, 2), date(1970, 1, 3)], "ms", [86_400_000, 172_800_000]),
        (["1970-01-01T00:00:01Z", "1970-01-01 00:00:02.25"], "iso", [1_000, 2_250]),
        (["1970-01-01T02:00:00+02:00", "1970-01-02"], "iso", [0, 86_400_000]),
    ],
)
def test_tables_times_become_utc_milliseconds(tmp_path, values, unit, milliseconds):
    pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "timestamp": values}).write_parquet(tmp_path / "log.parquet")
    read = tables.read(tmp_path / "log.parquet", timestamp_unit=unit)
    assert read.events.select("user_id", "item_id", "timestamp").rows() == [("1", "3", milliseconds[0]), ("2", "4", milliseconds[1])]


@pytest.mark.parametrize(
    ("values", "unit", "message"),
    [
        (["5", "soon"], "s", "row 1: found 'soon', expected a number of s since 1970 UTC"),
        ([1, 1_365_029_107_000], "s", "row 1: found 1365029107000, expected a time before the year 10000: as s it is not one"),
        ([1.0, float("nan")], "ms", "row 1: found nan"),
        (["1970-01-01", "31.12.1970"], "iso", "row 1: found '31.12.1970', expected an ISO time"),
        ([1, 2], "iso", "holds Int64, but data.timestamp_unit=iso reads text"),
        ([True, False], "s", "holds Boolean"),
        ([timedelta(1), timedelta(2)], "s", "holds Duration"),
        ([1, 2], "minutes", "data.timestamp_unit=minutes: expected one of s, ms, us, ns, iso"),
        ([1, None], "s", "row 1: found None"),
    ],
)
def test_tables_times_that_are_none_are_named(tmp_path, values, unit, message):
    pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "timestamp": values}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(SchemaError) as refused:
        tables.read(tmp_path / "log.parquet", timestamp_unit=unit)
    assert message in str(refused.value)


def test_tables_folder_and_glob_read_every_file_and_name_the_bad_one(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    row = {"user_id": [1], "item_id": [2], "event_type": ["click"], "timestamp": [0]}
    pl.DataFrame(row).write_parquet(logs / "a.parquet")
    pl.DataFrame({**row, "timestamp": [1], "split": ["test"]}).write_ipc(logs / "b.arrow")
    pl.DataFrame({**row, "timestamp": [2]}).write_csv(logs / "c.csv")
    (logs / "_SUCCESS").touch()
    assert tables.read(logs).events.select("timestamp", "split").rows() == [(0, None), (1, "test"), (2, None)]
    assert tables.read(str(logs / "*.parquet")).events.height == 1
    pl.DataFrame({**row, "event_type": ["bought"]}).write_csv(logs / "c.csv")
    with pytest.raises(SchemaError, match=r"c.csv: events, column 'event_type', row 0: found 'bought'"):
        tables.read(logs)
    (logs / "d.json").touch()
    with pytest.raises(SchemaError, match=r"d.json: data.events reads .parquet"):
        tables.read(logs)
    with pytest.raises(FileNotFoundError, match=r"data.items=.*no file there"):
        tables.read(str(logs / "a.parquet"), logs / "none-*.csv")


def test_tables_mapped_column_that_is_absent_names_file_map_and_columns(tmp_path):
    (tmp_path / "log.csv").write_text("visitor,item_id,timestamp\n1,2,3\n")
    with pytest.raises(
        SchemaError, match=r"log.csv has no column 'user', which data.columns.user_id names. Columns there: visitor, item_id, timestamp"
    ):
        tables.read(tmp_path / "log.csv", columns={"user_id": "user"})
    with pytest.raises(SchemaError, match=r"log.csv has no column 'user_id'; say which one holds it by data.columns.user_id=…"):
        tables.read(tmp_path / "log.csv")
    with pytest.raises(SchemaError, match=r"data.columns.usr: events have no such column; expected one of event_id, user_id"):
        tables.read(tmp_path / "log.csv", columns={"usr": "visitor"})


def test_tables_files_that_are_no_tables_are_named(tmp_path):
    (tmp_path / "log.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(SchemaError, match=r"log.parquet: cannot be read as parquet"):
        tables.read(tmp_path / "log.parquet")
    (tmp_path / "log.csv").touch()
    with pytest.raises(SchemaError, match=r"log.csv: cannot be read as csv"):
        tables.read(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(SchemaError, match="the log is empty"):
        tables.read(tmp_path / "log.csv")


def test_tables_impressions_and_users(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,2,3\n")
    (tmp_path / "shown.csv").write_text(
        "request_id,item_id,user_id,position,timestamp,clicked,propensity,sources\nr,2,1,1,3,TRUE,0.25,popular|new\nr,2,1,2,3,0,,\n"
    )
    (tmp_path / "people.tsv").write_text("who\tregion\tborn\n1\tDE\t1990\n")
    read = tables.read(
        tmp_path / "log.csv",
        users=tmp_path / "people.tsv",
        impressions=tmp_path / "shown.csv",
        user_columns={"user_id": "who", "birth_year": "born"},
    )
    assert read.users.rows() == [("1", "DE", None, 1990)]
    assert read.impressions.select("position", "clicked", "propensity", "sources").rows() == [
        (1, True, 0.25, ["popular", "new"]),
        (2, False, None, None),
    ]
    (tmp_path / "shown.csv").write_text("request_id,item_id,user_id,position,timestamp,clicked\nr,2,1,1,3,maybe\n")
    with pytest.raises(SchemaError, match=r"shown.csv, column 'clicked', row 0: found 'maybe', expected true, false, 1 or 0"):
        tables.read(tmp_path / "log.csv", impressions=tmp_path / "shown.csv")
