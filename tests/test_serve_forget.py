"""Who is forgotten is in nothing that can be rewritten, and what cannot is named."""

import json
from pathlib import Path

import polars as pl
import pytest

from data.schema import user_digest
from serve import continuation, publication
from serve.continuation import Reached
from serve.contract import Draw, LoggedSlate
from serve.forget import forget
from serve.sqlite_store import SqliteStore
from serve.store import Event
from tests.releases import START_MS, write_release


@pytest.fixture
def store(tmp_path):
    """Users u4 and u5 of release v1, each with an event and a slate since; an item was posted."""
    publication.publish(write_release(tmp_path / "releases" / ".staging", version="v1"), tmp_path / "releases", "v1")
    opened = SqliteStore(tmp_path / "live.sqlite")
    first = tmp_path / "releases" / "v1"
    opened.load_histories(first / "histories.parquet", first / "users.parquet", version="v1")
    for number, user_id in enumerate(("u4", "u5")):
        opened.log_slates([slate(number, user_id)])
        opened.append([Event(f"e{number}", user_id, "i1", "click", START_MS + number, request_id=f"r{number}")])
    opened.put_items(
        {"n1": json.dumps({"item_id": "n1", "title": "New", "release_date": "2024-02-29", "posted_at": 5, "genres": ["drama"]})}
    )
    yield opened
    opened.close()


def slate(number: int, user_id: str) -> LoggedSlate:
    draw = Draw(0.1, (1,), ("i8", "i9"), ("i9",)) if number else None
    chances = (None, 0.05) if number else (None, None)
    return LoggedSlate(
        f"r{number}", user_id, START_MS + number, "champion", "v1", "personalised", "tv", "DE", ("i1", "i9"), (("popular",), ("explore",)),
        chances, draw,
    )  # fmt: skip


def test_what_the_store_logged_is_written_as_tables_and_goes_on_where_it_ended(store, tmp_path):
    reached, rows = continuation.write(store, tmp_path / "one", Reached())
    assert rows == {"events": 2, "impressions": 4, "draws": 1, "items": 1} and continuation.read(tmp_path / "one") == (reached, rows)
    shown = pl.read_parquet(tmp_path / "one" / "impressions.parquet")
    columns = ("request_id", "item_id", "position", "sources", "propensity", "arm", "release", "timestamp", "device", "region")
    assert shown.select(columns).row(3) == ("r1", "i9", 2, ["explore"], 0.05, "champion", "v1", START_MS + 1, "tv", "DE")
    assert shown["propensity"].to_list() == [None, None, None, 0.05]
    drawn = pl.read_parquet(tmp_path / "one" / "draws.parquet").row(0, named=True)
    assert (drawn["request_id"], drawn["slots"], drawn["pool"], drawn["drawn"]) == ("r1", [1], ["i8", "i9"], ["i9"])
    assert pl.read_parquet(tmp_path / "one" / "items.parquet").row(0)[:3] == ("n1", "New", ["drama"])
    assert pl.read_parquet(tmp_path / "one" / "events.parquet")["event_id"].to_list() == ["e0", "e1"]

    store.append([Event("e2", "u5", "i2", "click", START_MS + 9)])
    _, rows = continuation.write(store, tmp_path / "two", reached)
    assert rows == {"events": 1, "impressions": 0, "draws": 0, "items": 0}
    assert continuation.read(tmp_path / "never written") is None


def test_forgetting_erases_says_what_and_names_what_is_sealed(store, tmp_path):
    continuation.write(store, tmp_path / "retrain" / "one" / "logs", Reached())
    pl.DataFrame({"user_id": ["u5", "u5", "u1"], "item_ids": [["i1"], ["i2"], ["i3"]]}).write_parquet(tmp_path / "retrain" / "topk.parquet")
    releases, forgotten = tmp_path / "releases", tmp_path / "retrain" / "forgotten.txt"
    told = forget("u5", store, [tmp_path / "retrain"], releases=releases, forgotten=forgotten)
    logs = tmp_path / "retrain" / "one" / "logs"
    assert (told["store: events"], told["store: slates"]) == (1, 1)
    assert {name: count for name, count in told.items() if not name.startswith("store: ")} == {
        str(logs / "events.parquet"): 1, str(logs / "impressions.parquet"): 2, str(logs / "draws.parquet"): 1,
        str(tmp_path / "retrain" / "topk.parquet"): 2,
        f"still held: {releases / 'v1' / 'histories.parquet'}": 1, f"still held: {releases / 'v1' / 'users.parquet'}": 1,
    }  # fmt: skip
    for path in Path(tmp_path / "retrain").rglob("*.parquet"):
        table = pl.read_parquet(path)
        assert "user_id" not in table.columns or "u5" not in set(table["user_id"]), path
    assert pl.read_parquet(logs / "events.parquet")["user_id"].to_list() == ["u4"]
    assert forgotten.read_text() == user_digest("u5") + "\n"
    publication.verify(releases / "v1")  # a sealed release is left as it was sealed


def test_forgetting_twice_finds_only_what_is_sealed(store, tmp_path):
    asked = {"releases": tmp_path / "releases", "forgotten": tmp_path / "retrain" / "forgotten.txt"}
    forget("u5", store, [tmp_path / "retrain"], **asked)
    again = forget("u5", store, [tmp_path / "retrain"], **asked)
    assert all(name.startswith("still held: ") for name, count in again.items() if count)
    assert asked["forgotten"].read_text() == user_digest("u5") + "\n"
    assert not any(count for count in forget("nobody", store, [], **asked).values())
