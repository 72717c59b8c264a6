"""The hourly job but for its export, which tests/test_end_to_end.py goes through: what is news, what is done once, and that whatever fails
leaves all as it was."""

import fcntl
import json
import os

import numpy as np
import pytest

from data.log import retold
from data.split import TRAIN
from serve import continuation
from serve.commands.jobs import key_of, serve_words
from serve.continuation import Reached
from serve.contract import LoggedSlate
from serve.forget import forget
from serve.refresh import refresh, refreshing, said
from serve.sqlite_store import SqliteStore
from serve.store import Event
from tests.doors import door as opened
from tests.doors import releases
from tests.logs import tiny

CONFIG = "data: {_target_: data.world.mild}\nlog: {liked_from: 4}\n"


@pytest.fixture
def there(tmp_path, monkeypatch):
    """(folder, store): two releases made from runs of which nothing but the names is there."""
    releases(tmp_path, "v1", "v2")
    for run in ("r1", "r2"):
        (tmp_path / "runs" / run / "model").mkdir(parents=True)
        (tmp_path / "runs" / run / "config.yaml").write_text(CONFIG)
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SqliteStore(tmp_path / "state" / "live.sqlite")
    yield tmp_path, store
    store.close()


def chosen(*more):
    return refreshing(["nice=0", *more])


def happen(store):
    """An event, a slate and an item."""
    store.append([Event("e1", "u1", "i3", "complete", 1_700_000_900_000)])
    store.put_items({"new": json.dumps({"item_id": "new", "title": "New", "posted_at": 1})})
    store.log_slates(
        [LoggedSlate("s1", "u1", 1_700_000_900_000, "champion", "v2", "personalised", None, None, ("i3",), (("popular",),), (None,), None)]
    )


def current(folder):
    return os.readlink(folder / "releases" / "current")


def test_where_nothing_is_new_nothing_is_published(there, monkeypatch, capsys):
    folder, store = there
    told = refresh(store, chosen(), stamp="a", slates=lambda: pytest.fail("nobody's slate is news"))
    assert (told["verdict"], [step["step"] for step in told["steps"]]) == ("nothing new", ["release"])
    assert told["steps"][0]["figures"]["new"] == {"events": False, "slates": False, "items": False, "forgotten": 0}
    assert json.loads((folder / "state" / "refresh" / "a" / "report.json").read_text()) == told
    with opened(folder, monkeypatch, capsys) as door:
        code, out, _ = door("refresh", "--json", "--stamp", "b")
        assert (code, json.loads(out)["verdict"]) == (0, "nothing new")
        assert "nothing was published" in door("refresh")[1]
    assert sorted(path.name for path in (folder / "releases").iterdir()) == ["current", "promotions.json", "v1", "v2"]


def test_an_export_that_fails_leaves_what_is_served_and_says_why(there, monkeypatch, capsys):
    folder, store = there
    happen(store)
    asked = chosen()
    forget("u7", store, [], releases=asked.releases, forgotten=asked.forgotten)
    with opened(folder, monkeypatch, capsys) as door:
        code, out, _ = door("refresh", "--json", "--stamp", "a")
    told = json.loads(out)
    assert (code, told["verdict"], current(folder)) == (3, "refused", "v2")
    assert told["steps"][0]["figures"]["new"] == {"events": True, "slates": True, "items": True, "forgotten": 1}
    assert told["steps"][1]["figures"]["rows"] == {"events": 1, "impressions": 1, "draws": 0, "items": 1}
    assert "export.log" in told["why"] and "meaning.json" in told["why"]
    assert said(told) == f"refused: {told['why']}"


def test_what_a_refreshed_release_has_read_is_no_news(there):
    """v2 as a refresh would have made it of all there is: then nothing is new; after one event more, that is."""
    _, store = there
    happen(store)
    logs = chosen().folder / "v2" / "logs"
    reached, _ = continuation.write(store, logs, Reached())
    assert reached == Reached(1, 1, 1)
    assert refresh(store, chosen(), stamp="a")["verdict"] == "nothing new"
    store.append([Event("e2", "u1", "i4", "click", 1_700_000_950_000)])
    told = refresh(store, chosen("runs=nowhere"), stamp="b")
    assert told["verdict"] == "refused" and "nowhere" in told["why"]
    told = refresh(store, chosen("timeout_minutes=0.0001"), stamp="c")
    assert told["steps"][0]["figures"]["new"]["events"] and not told["steps"][0]["figures"]["new"]["slates"]
    assert told["steps"][1]["figures"]["rows"]["events"] == 2, "every refresh continues the log of the models, not the refresh before it"
    assert "timeout_minutes" in told["why"]


def test_a_job_whose_release_is_current_goes_on_with_the_slates(there):
    _, store = there
    happen(store)
    told = refresh(store, chosen(), stamp="v2", slates=lambda: 7)
    assert (told["verdict"], told["version"], [step["step"] for step in told["steps"]]) == ("refreshed", "v2", ["release", "slates"])
    assert told["steps"][1]["figures"] == {"users": 7}


def test_a_job_is_not_gone_on_with_where_another_release_is_current_nor_after_a_rollback(there):
    folder, store = there
    happen(store)
    begun = chosen().folder / "a"
    begun.mkdir(parents=True)
    (begun / "against").write_text("v1")
    assert "begun against release v1, current is v2" in refresh(store, chosen(), stamp="a")["why"]
    refresh(store, chosen(), stamp="v2")
    os.unlink(folder / "releases" / "current")
    os.symlink("v1", folder / "releases" / "current")
    told = refresh(store, chosen(), stamp="v2")
    assert told["verdict"] == "refused" and current(folder) == "v1"


def test_one_refresh_at_a_time(there):
    _, store = there
    asked = chosen()
    asked.folder.mkdir(parents=True)
    held = os.open(asked.folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match="another refresh"):
        refresh(store, asked, stamp="a")
    os.close(held)


def test_a_log_retold_of_its_own_tables_is_the_same_log_with_nothing_held_out():
    _, log = tiny()
    again = retold(log, log.split.tables)
    assert again.user_ids == log.user_ids and again.catalogue.item_ids == log.catalogue.item_ids and again.prior_rating == log.prior_rating
    for name in ("item_row_E", "event_code_E", "timestamp_E", "moment_EC", "offset_U1"):
        assert np.array_equal(getattr(again, name), getattr(log, name))
    assert np.array_equal(again.catalogue.feature_IF, log.catalogue.feature_IF)
    assert (again.part_E == TRAIN).all() and not (log.part_E == TRAIN).all()


def test_each_word_goes_to_the_configuration_that_knows_its_key():
    words = ["nice=5", "releases=x", "~rules.caps", "+rules.boosts.old=1", "triton.url=a:1", "unheard=of"]
    assert [key_of(word) for word in words] == ["nice", "releases", "rules", "rules", "triton", "unheard"]
    assert serve_words("refresh", words) == ["releases=x", "~rules.caps", "+rules.boosts.old=1", "triton.url=a:1"]
    assert serve_words("retrain", words) == ["releases=x"] and serve_words("up", words) == words
