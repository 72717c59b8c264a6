"""The daily job on a tiny world: what users did after the log's end becomes a challenger, or a report that says why not."""

import fcntl
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from serve import publication
from serve.contract import Draw, LoggedSlate
from serve.forget import forget
from serve.release import Release
from serve.retrain import retrain, said
from serve.retraining import Gate, continued, retraining, verdict
from serve.settings import SettingsError
from serve.sqlite_store import SqliteStore
from serve.store import Event
from tests import stand_ins

ROOT = Path(__file__).parents[1]
WORLD = ["data=world", "data.users=120", "data.items=120", "data.events=4000"]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
DAY_MS = 86_400_000
GATE = Gate("ndcg_at_20", 0.02, 100, 0.1)


@pytest.fixture(scope="module")
def served(tmp_path_factory, forge):
    """(folder, store, end of the log): a champion, and four days of what users did after it was trained, slates and a new film too."""
    folder = tmp_path_factory.mktemp("daily")
    for command in (
        ["train.py", "experiment=world_two_tower", *WORLD, "trainer.trainer.max_epochs=1", "task.batch_size=256"],
        ["train.py", "experiment=world_ranker", *WORLD, "trainer.trainer.max_epochs=1"],
        ["export.py", "version=first", "golden_requests=2", "frontier_requests=2"],
    ):
        done = subprocess.run(
            [sys.executable, stand_ins.__file__, "forged", str(ROOT / command[0]), *command[1:]], cwd=folder,
            env=os.environ | QUIET | {"STAND_IN_FORGE": forge}, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder / "state").mkdir()
    store = SqliteStore(folder / "state" / "live.sqlite")
    first = folder / "releases" / "first"
    store.load_histories(first / "histories.parquet", first / "users.parquet", version="first")
    histories = pl.read_parquet(first / "histories.parquet")
    end = histories["timestamp"].list.max().max()
    live(store, histories["user_id"].sort().to_list(), pl.read_parquet(first / "catalogue.parquet")["item_id"].to_list(), end)
    yield folder, store, end
    store.close()


def live(store: SqliteStore, user_ids: list[str], item_ids: list[str], end: int) -> None:
    """Each user comes once a day for four days, sees five films, one of them drawn by chance, and clicks one; some click the new film."""
    rng = np.random.default_rng(3)
    store.put_items(
        {"new": json.dumps({"item_id": "new", "title": "A new film", "genres": ["drama"], "release_date": "2024-01-01", "posted_at": 1})}
    )
    for day in range(4):
        slates, events = [], []
        for number, user_id in enumerate(user_ids):
            at = end + day * DAY_MS + 60_000 * (1 + number)
            *shown, drawn = (item_ids[row] for row in rng.choice(len(item_ids), 5, replace=False))
            pool = (drawn, *(item_ids[row] for row in rng.choice(len(item_ids), 9, replace=False) if item_ids[row] not in (*shown, drawn)))
            draw = Draw(0.5, (4,), pool, (drawn,)) if number % 2 else Draw(0.5, (4,), pool, (None,))
            slates.append(
                LoggedSlate(f"live-{day}-{number}", user_id, at, "champion", "first", "personalised", "phone", None, (*shown, drawn),
                            (("collaborative",),) * 5, (None,) * 4 + (0.5,), draw)
            )  # fmt: skip
            clicked = drawn if number % 4 == 1 else shown[0]
            events.append(Event(f"e-{day}-{number}", user_id, clicked, "click", at + 5_000, request_id=f"live-{day}-{number}"))
            if number % 10 == 0:
                events.append(Event(f"n-{day}-{number}", user_id, "new", "complete", at + 9_000, 600.0))
        store.log_slates(slates)
        store.append(events)


@pytest.fixture
def within(served, monkeypatch):
    folder, store, _ = served
    monkeypatch.chdir(folder)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    return folder, store


def chosen(*more: str):
    return retraining(["overrides=['trainer.trainer.max_epochs=1']", "export=['golden_requests=2','frontier_requests=2']", "nice=0", *more])


def links(folder: Path) -> dict[str, str]:
    return {path.name: os.readlink(path) for path in (folder / "releases").iterdir() if path.is_symlink()}


def test_a_challenger_that_may_be_worse_is_refused_and_nothing_changes(within):
    folder, store = within
    before = (links(folder), publication.versions(folder / "releases"))
    told = retrain(store, chosen("gate.tolerance=-50"), stamp="second")
    assert told["verdict"] == "refused" and "gate.tolerance=-50" in told["why"]
    assert [step["step"] for step in told["steps"]] == ["champion", "logs", "retrieval", "rivals", "gate"]
    assert (links(folder), publication.versions(folder / "releases")) == before
    report = json.loads((folder / "state" / "retrain" / "second" / "report.json").read_text())
    assert report["verdict"] == "refused" and report["why"] == told["why"] and report["steps"][-1]["why"] == told["why"]
    assert said(told).startswith("refused: ndcg_at_20 may be worse")


def test_what_passes_the_gate_challenges_and_knows_what_happened_since(within):
    """Under the stamp of the test before: what was trained and measured there is not again."""
    folder, store = within
    trained = (folder / "runs" / "second_retrieval" / "model" / "meaning.json").stat().st_mtime_ns
    told = retrain(store, chosen("gate.tolerance=50"), stamp="second")
    assert told["verdict"] == "challenger" and told["version"] == "second", told["why"]
    root = folder / "releases"
    assert (folder / "runs" / "second_retrieval" / "model" / "meaning.json").stat().st_mtime_ns == trained
    assert publication.current(root) == "first" and publication.challenger(root) == "second"
    step = {step["step"]: step["figures"] for step in told["steps"]}
    users = step["rivals"]["users"]
    assert step["logs"]["rows"] == {
        "events": 4 * users + 4 * math.ceil(users / 10),
        "impressions": 20 * users,
        "draws": 4 * users,
        "items": 1,
    }
    read = step["rivals"]["read"]
    assert (
        read["events_duplicate"] == read["base_events_duplicate"] and read["impressions_duplicate"] == 0 == read["events_of_unknown_items"]
    )
    # two of the four days are the test; in every second slate chance filled the slot, and every second of those was clicked
    drawn = step["rivals"]["off_policy"]
    assert drawn["slots"] == 2 * (users // 2) and drawn["clicked"] == 2 * sum(number % 4 == 1 for number in range(users))
    assert step["rivals"]["test_events_the_champion_may_know"] == 0 and step["ranker"]["learnt_from"] == "slates"
    release = Release.open(root / "second")
    assert "new" in release.catalogue.row_of and (step["rivals"]["figures"]["ndcg_at_20"]["champion"] > 0)
    histories = pl.read_parquet(root / "second" / "histories.parquet")
    assert histories.explode("item_id").filter(pl.col("item_id") == "new").height == 4 * math.ceil(users / 10)
    assert (folder / "models" / "world_two_tower").resolve().parent.name == release_runs(root / "first")
    assert said(told) == "challenger: release second"


def release_runs(release: Path) -> str:
    return json.loads((release / "manifest.json").read_text())["runs"]["retrieval"]


def test_the_next_job_begins_where_the_champion_ended(within):
    """The challenger of the test before, promoted: nothing happened since it was trained."""
    folder, store = within
    publication.promote(folder / "releases", "second")
    told = retrain(store, chosen(), stamp="third")
    assert told["verdict"] == "refused" and told["why"].startswith("0 events since the champion was trained")
    assert json.loads((folder / "state" / "retrain" / "third" / "logs" / "written.json").read_text())["rows"]["items"] == 0
    again = retrain(store, chosen(), stamp="second")
    assert again["verdict"] == "refused" and "begun against release first, current is second" in again["why"]
    publication.rollback(folder / "releases")


def test_a_step_that_fails_says_so_and_where(within):
    _, store = within
    told = retrain(store, chosen("overrides=['task.module.widht=32']"), stamp="fourth")
    assert told["verdict"] == "refused" and "retrieval.log" in told["why"] and "widht" in told["why"]
    told = retrain(store, chosen("runs=elsewhere"), stamp="fifth")
    assert told["verdict"] == "refused" and "elsewhere" in told["why"]


def test_one_retraining_at_a_time(within):
    folder, store = within
    held = os.open(folder / "state" / "retrain", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match="another retraining"):
        retrain(store, chosen(), stamp="sixth")
    os.close(held)


def test_whoever_is_forgotten_is_in_no_table_and_no_later_training(within):
    folder, store = within
    user_id = store.user_ids(limit=1)[0]
    asked = chosen()
    told = forget(user_id, store, [asked.folder, folder / "runs"], releases=asked.releases, forgotten=asked.forgotten)
    assert told["store: events"] == 8 and told["store: slates"] == 4  # number 0 clicks every film twice
    assert told[str(asked.folder / "second" / "logs" / "impressions.parquet")] == 20
    assert told["still held: releases/first/histories.parquet"] == 1
    again = forget(user_id, store, [asked.folder, folder / "runs"], releases=asked.releases, forgotten=asked.forgotten)
    assert {name for name, count in again.items() if count and not name.startswith("still held")} == set()
    assert len(asked.forgotten.read_text().split()) == 1 and user_id not in asked.forgotten.read_text()
    tables = instantiate(OmegaConf.load(folder / "runs" / "second_retrieval" / "config.yaml").data)
    assert tables.report["users_forgotten"] == 1
    assert not any((frame["user_id"] == user_id).any() for frame in (tables.events, tables.users, tables.impressions))


def measured(low: float, *, users: int = 1000, champion: float = 0.5, slots: int = 0, high: float = 0.0) -> dict:
    figure = {"champion": champion, "challenger": champion, "difference": 0.0, "low": low, "high": 0.1}
    drawn = {"slots": slots, "champion": 0.2, "challenger": 0.1, "low": -0.2, "high": high}
    return {"users": users, "figures": {"ndcg_at_20": figure}, "off_policy": drawn}


def test_the_gate_by_hand():
    assert verdict(measured(-0.01), GATE) is None  # exactly 2 % of .5
    assert "allowed from -0.0100" in verdict(measured(-0.0101), GATE)
    assert "gate.tolerance" in verdict(measured(math.nan), GATE)
    assert "99 test users" in verdict(measured(0.0, users=99), GATE)
    assert "randomised slots" in verdict(measured(0.0, slots=10, high=-0.01), GATE)
    assert verdict(measured(0.0, slots=10, high=0.01), GATE) is None
    assert verdict(measured(0.0, slots=10, high=math.nan), GATE) is None


@settings(deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_better_lower_end_never_fails_where_a_worse_one_passes(low, other):
    low, other = sorted((low, other))
    assert verdict(measured(low), GATE) is not None or verdict(measured(other), GATE) is None


def test_a_run_continued_twice_has_one_base_and_two_folders():
    base = {"_target_": "data.world.mild", "users": 3}
    cfg = {"data": base, "log": {"liked_from": 4}, "split": {}, "name": "w", "question": "?", "resume": "x", "warm_start": None}
    once = continued(cfg, retraining([]), stamp="a", kind="retrieval", logs=Path("/a/logs"), read="data.readers.continued.read")
    twice = continued(once, retraining([]), stamp="b", kind="retrieval", logs=Path("/b/logs"), read="data.readers.continued.read")
    assert twice["data"]["base"] == base and twice["data"]["folders"] == ["/a/logs", "/b/logs"]
    assert (once["name"], twice["name"], cfg["data"]) == ("w_retrained", "w_retrained", base)


@pytest.mark.parametrize("wrong", ["test_days=0", "gate.share=2", "gate.figure=auc", "nice=40"])
def test_what_cannot_be_is_refused_by_its_key(wrong):
    with pytest.raises(SettingsError, match=wrong.split("=")[0]):
        retraining([wrong])
