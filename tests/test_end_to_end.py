"""The whole way on a tiny world, as a stranger would go it: train.py, export.py, python -m serve, HTTP; and a run killed and resumed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.content import read_recipe, write_recipe
from data.features import HOUR_MS
from serve import continuation
from serve.contract import MAX_BATCH
from serve.mmr import mmr
from serve.release import Release
from tests import stand_ins

ROOT = Path(__file__).parents[1]
WORLD = ["data=world", "data.users=150", "data.items=160", "data.events=6000"]
FEW = ("golden_requests=2", "frontier_requests=2")
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


class Run(Protocol):
    """A command of the README in a folder, what it said and how it ended: well, where `check`."""

    def __call__(self, folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess: ...


@pytest.fixture(scope="module")
def run(forge) -> Run:
    """Runs them in forks of the forge; where the process itself is the matter, `alone` does."""
    return partial(alone, prefix=[stand_ins.__file__, "forged"], environment={"STAND_IN_FORGE": forge})


def alone(
    folder: Path, *command: str, check: bool = True, prefix: Sequence[str] = (), environment: Mapping[str, str] = QUIET
) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *prefix, *command], cwd=folder, env=os.environ | QUIET | environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    run(folder, str(ROOT / "train.py"), "experiment=world_two_tower", *WORLD, "trainer.trainer.max_epochs=2", "task.batch_size=256")
    run(folder, str(ROOT / "train.py"), "experiment=world_ranker", *WORLD, "trainer.trainer.max_epochs=1")
    run(folder, str(ROOT / "export.py"), "version=first")
    return folder


@pytest.fixture(scope="module")
def served(trained):
    port = free_port()
    log = (trained / "serve.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "up", f"port={port}", "time=log-end", "deadline_ms=20000", "access.writing=open", *PLAIN],
        cwd=trained,
        env=os.environ | QUIET,
        stdout=log,
        stderr=log,
    )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert process.poll() is None and time.monotonic() < deadline, (trained / "serve.log").read_text()[-3000:]
            time.sleep(0.3)
    yield url
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, (trained / "serve.log").read_text()[-3000:]


PLAIN = ("~rules.boosts", "~rules.caps", "~rules.turns", "~rules.explore", "triton.timeout_ms=10000")  # the models decide alone


def ask(url: str, path: str, body: object = None) -> dict:
    request = urllib.request.Request(url + path, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def busiest(release: Release) -> pl.DataFrame:
    histories = pl.read_parquet(release.path / "histories.parquet")
    return histories.sort(pl.col("item_id").list.len(), "user_id", descending=[True, False])


def test_the_running_server_answers_as_the_trained_modules_did(trained, served):
    """The parity that publication demanded, seen once more from outside: golden requests come back item by item."""
    golden = json.loads((trained / "releases" / "current" / "golden.json").read_text())
    assert len(golden) == 9
    for one in golden:
        request = one["request"]
        path = f"/v1/recommendations?user_id={request['user_id'].replace(' ', '%20')}&count={request['count']}&time={request['timestamp']}"
        assert [item["item_id"] for item in ask(served, path)["recommendations"]] == one["item_ids"]


def test_nothing_seen_is_recommended_and_every_item_has_a_title_a_score_and_a_reason(trained, served):
    release = Release.open(trained / "releases" / "current")
    log = instantiate(OmegaConf.load((trained / "models" / "world_two_tower").resolve().parent / "config.yaml").data).events
    did = (
        log.filter(~pl.col("event_type").is_in(["view", "skip"]))
        .group_by("user_id")
        .agg("item_id")
        .sort(pl.col("item_id").list.len(), descending=True)
    )
    assert did["item_id"].list.len().max() > release.manifest.history_length, "nobody did more than the models read; take a busier world"
    for user in did.head(5).iter_rows(named=True):
        answer = ask(served, f"/v1/recommendations?user_id={user['user_id']}&count=20")
        assert answer["model_version"] == "first" and answer["answered_by"] == "personalised"
        ids = [item["item_id"] for item in answer["recommendations"]]
        assert len(set(ids)) == len(ids) == 20 and not set(ids) & set(user["item_id"])
        assert all(item["title"] and item["reason"] and item["row"] and 0 < item["score"] < 1 for item in answer["recommendations"])


def test_the_slate_is_what_mmr_chooses_each_row_in_its_order(trained, served):
    """Ask for everything, do MMR on it here at λ = 0.5, and find the served page."""
    release = Release.open(trained / "releases" / "current")
    user = busiest(release)["user_id"][0]
    found = ask(served, f"/v1/recommendations?user_id={user}&count=200&lambda=1")["recommendations"]
    by_score = sorted(found, key=lambda item: -item["score"])
    scores = np.array([item["score"] for item in by_score])
    rows = release.catalogue.rows(item["item_id"] for item in by_score)
    vectors = np.asarray(release.items[rows, release.manifest.width :], np.float32)
    expected = [by_score[place]["item_id"] for place in mmr(scores, vectors, count=10, mmr_lambda=0.5)]
    page = ask(served, f"/v1/recommendations?user_id={user}&count=10&lambda=0.5")
    shown = [(item["row"], item["item_id"]) for item in page["recommendations"]]
    assert {item for _, item in shown} == set(expected)
    assert [row for row, _ in shown] == sorted((row for row, _ in shown), key=page["rows"].index)
    for title in page["rows"]:
        in_row = [item for row, item in shown if row == title]
        assert in_row == [item for item in expected if item in in_row]


def test_a_posted_event_changes_the_next_answer(served):
    ids = lambda: [item["item_id"] for item in ask(served, "/v1/recommendations?user_id=a-newcomer&count=10")["recommendations"]]  # noqa: E731
    before = ask(served, "/v1/recommendations?user_id=a-newcomer&count=10")
    assert before["answered_by"] == "popular" and all("opular" in item["row"] for item in before["recommendations"])
    watched = before["recommendations"][0]["item_id"]
    told = ask(served, "/v1/events", {"event_id": "e1", "user_id": "a-newcomer", "item_id": watched, "event_type": "complete"})
    assert told["stored"] == 1
    after = ask(served, "/v1/recommendations?user_id=a-newcomer&count=10")
    assert after["answered_by"] == "personalised" and watched not in ids()
    assert (
        ask(served, "/v1/events", {"event_id": "e1", "user_id": "a-newcomer", "item_id": watched, "event_type": "complete"})["stored"] == 0
    )


def test_an_item_posted_to_the_server_lies_where_the_trained_tower_puts_it(trained, served):
    """The content of item 0 under a new id: its vector is that of the tower as it was trained, from the features it was trained on."""
    release = Release.open(trained / "releases" / "first")
    assert release.catalogue.room == 1_000
    known = {name: value for name, value in release.catalogue.frame.row(0, named=True).items() if value is not None}
    assert ask(served, "/v1/items", json.loads(json.dumps(known | {"item_id": "brand new", "title": known.get("title", "t")}, default=str)))
    tower = torch.jit.load(str((trained / "models" / "world_two_tower").resolve() / "item_tower.pt"))
    with torch.no_grad():
        row = tower(torch.as_tensor(release.recipe.features(release.catalogue.frame[:1])))[0].float().numpy()
    vector_ID = np.asarray(release.items[: len(release.catalogue), release.manifest.width :], np.float32)
    cosine_I = vector_ID @ row[release.manifest.width :] / np.linalg.norm(vector_ID, axis=1) / np.linalg.norm(row[release.manifest.width :])
    near = ask(served, "/v1/items/brand%20new/similar?count=10")["recommendations"]
    np.testing.assert_allclose([item["score"] for item in near], cosine_I[release.catalogue.rows(i["item_id"] for i in near)], atol=2e-3)
    nearest = ask(served, f"/v1/items/{near[0]['item_id']}/similar?count=159")["recommendations"]
    assert "brand new" in [item["item_id"] for item in nearest]


def test_a_recipe_that_makes_other_features_is_not_published(trained, run):
    path = (trained / "models" / "world_two_tower").resolve() / "recipe.npz"
    good = path.read_bytes()
    try:
        recipe = read_recipe(path)
        write_recipe(path, replace(recipe, mean={name: value + 1 for name, value in recipe.mean.items()}))
        done = run(trained, str(ROOT / "export.py"), "version=fifth", check=False)
    finally:
        path.write_bytes(good)
    assert done.returncode and "recipe.npz makes other features" in done.stdout + done.stderr


def test_a_release_that_would_not_answer_as_its_model_is_not_published(trained, run):
    """A user tower that was altered after training: refused, and the old release stays current."""
    tower = (trained / "models" / "world_two_tower").resolve() / "user_tower.pt"
    good = tower.read_bytes()
    try:
        tower.write_bytes(good[: len(good) // 2])
        done = run(trained, str(ROOT / "export.py"), "version=third", check=False)
    finally:
        tower.write_bytes(good)
    assert done.returncode and "user_tower.pt" in done.stdout + done.stderr
    assert [path.name for path in (trained / "releases").iterdir() if path.is_dir() and not path.is_symlink()] == ["first"]


def test_a_twin_that_answers_otherwise_than_what_was_trained_is_not_published(trained, run):
    """A user tower scripted from other weights: a whole file, and still refused by what the trained module once answered."""
    tower = (trained / "models" / "world_two_tower").resolve() / "user_tower.pt"
    good = tower.read_bytes()
    try:
        other = torch.jit.load(str(tower))
        for parameter in other.parameters():
            parameter.data.mul_(1.01)
        other.save(str(tower))
        done = run(trained, str(ROOT / "export.py"), "version=other", *FEW, check=False)
    finally:
        tower.write_bytes(good)
    assert done.returncode and "user_tower" in done.stdout + done.stderr and "query__0" in done.stdout + done.stderr
    assert os.readlink(trained / "releases" / "current") == "first"


def test_a_release_for_nvidias_container_is_held_against_the_same_models_and_taken_back(trained, run):
    run(trained, str(ROOT / "export.py"), "version=pytorch", "backend.path=serve.triton.PYTORCH", *FEW)
    assert os.readlink(trained / "releases" / "current") == "pytorch"
    repository = trained / "releases" / "pytorch" / "triton"
    assert 'backend: "pytorch"' in (repository / "user_tower" / "config.pbtxt").read_text()
    assert not list(repository.rglob("model.py")) and len(list(repository.rglob("model.pt"))) == 3
    assert "first" in run(trained, "-m", "serve", "release", "rollback").stdout
    assert os.readlink(trained / "releases" / "current") == "first"


def test_a_ranker_of_another_retrieval_is_refused(trained, run):
    rows = (trained / "models" / "world_two_tower").resolve() / "rows.npy"
    good = rows.read_bytes()
    try:
        rows.write_bytes(good[:-2] + b"\x00\x01")
        done = run(trained, str(ROOT / "export.py"), "version=fourth", check=False)
    finally:
        rows.write_bytes(good)
    assert done.returncode and "train the ranker again" in done.stdout + done.stderr


def test_everything_about_a_run_is_in_mlflow(trained):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{trained}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("towers").experiment_id])
    assert {run.info.run_name for run in runs} == {"world_two_tower", "world_ranker"}
    for run_ in runs:
        assert {"question", "data_fingerprint", "git_commit"} <= run_.data.tags.keys()
        assert {"test/recall_at_20", "test/ndcg_at_20", "test/ndcg_at_20_low"} <= run_.data.metrics.keys()
        assert run_.data.params["seed"] == "0"
        artifacts = {artifact.path for artifact in client.list_artifacts(run_.info.run_id)}
        assert {"config.yaml", "test_topk.parquet", "figures", "model"} <= artifacts
        figures = {artifact.path for artifact in client.list_artifacts(run_.info.run_id, "figures")}
        assert {"figures/calibration.png", "figures/recall_by_popularity_decile.png", "figures/embedding_map_by_genre.png"} <= figures
        assert {"train/grad_norm", "train/seconds", "system/memory_mib", "val/best"} <= run_.data.metrics.keys()
        assert all(f"**{part}.** " in run_.data.tags["mlflow.note.content"] for part in ("Question", "Changed", "Result"))
        assert client.get_model_version_by_alias(run_.info.run_name, "challenger").run_id == run_.info.run_id
    lists = pl.read_parquet(next((trained / "runs").glob("*two_tower/test_topk.parquet")))
    assert lists.columns == ["user_id", "item_ids", "scores"] and lists["item_ids"].list.len().max() == 100
    assert lists["scores"].list.diff().list.max().max() <= 0


def test_two_processes_under_lightnings_ddp_learn_what_one_learns_on_the_joined_batches(tmp_path, run):
    plain = ["trainer.trainer.accelerator=cpu", "trainer.trainer.max_epochs=2", "trainer.patience=9", "task.module.item_tower.id_dropout=0"]
    plain += ["task.module.item_tower.dropout=0", "task.module.user_tower.dropout=0"]
    both = ["trainer.trainer.devices=2", "trainer.trainer.strategy=ddp", "task.batch_size=64"]
    for by, name, how in ((run, "one", ["task.batch_size=128"]), (alone, "two", both)):  # Lightning starts the second by the first's words
        by(tmp_path, str(ROOT / "train.py"), "experiment=world_two_tower", *WORLD, *plain, *how, f"name={name}")
    one, two = (np.load(tmp_path / "models" / name / "rows.npy").astype(np.float32) for name in ("one", "two"))
    assert one.std() > 0.05  # something was learnt
    np.testing.assert_allclose(one, two, atol=2e-2)


def test_a_config_key_that_does_not_exist_is_hydras_error(tmp_path, run):
    done = run(tmp_path, str(ROOT / "train.py"), "task.module.widht=32", check=False)
    assert done.returncode and "widht" in done.stderr


def test_a_killed_run_resumes_to_the_same_model(tmp_path, run):
    command = [
        str(ROOT / "train.py"),
        "experiment=world_two_tower",
        *WORLD,
        "trainer.trainer.max_epochs=8",
        "task.batch_size=64",
        "trainer.patience=99",
    ]
    run(tmp_path, *command, "hydra.run.dir=whole")
    killed = subprocess.Popen(
        [sys.executable, *command, "hydra.run.dir=killed"],
        cwd=tmp_path,
        env=os.environ | QUIET,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 90
    while not last.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.4)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    run(tmp_path, *command, f"resume={last}", "hydra.run.dir=resumed")
    whole, resumed = (torch.load(tmp_path / name / "model" / "state.pt", weights_only=True) for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # it went on in the killed run's folder, where the best epoch so far lies whichever it was
    assert (tmp_path / "killed" / "checkpoints" / "best.ckpt").exists() and not (tmp_path / "resumed" / "checkpoints").exists()


def test_the_hour_of_the_log_end_is_after_every_event(trained):
    histories = pl.read_parquet(trained / "releases" / "first" / "histories.parquet")
    golden = json.loads((trained / "releases" / "first" / "golden.json").read_text())
    newest = histories["timestamp"].list.max().max()
    assert 0 < golden[0]["request"]["timestamp"] - newest <= HOUR_MS and MAX_BATCH


def test_an_hour_later_a_release_of_the_same_models_knows_what_was_posted_and_the_server_follows(trained, served, run):
    """python -m serve refresh: a film posted and watched before it stands in the sealed catalogue, the histories and the counts."""
    first = Release.open(trained / "releases" / "first")
    assert os.readlink(trained / "releases" / "current") == "first"
    known = {name: value for name, value in first.catalogue.frame.row(3, named=True).items() if value is not None}
    ask(served, "/v1/items", json.loads(json.dumps(known | {"item_id": "late film", "title": "A late film"}, default=str)))
    watchers = busiest(first)["user_id"].head(3).to_list()
    events = [{"event_id": f"late-{user}", "user_id": user, "item_id": "late film", "event_type": "complete"} for user in watchers]
    assert ask(served, "/v1/events", events)["stored"] == 3
    words = ["time=log-end", "deadline_ms=20000", *PLAIN, "nice=0", f"export={list(FEW)}"]
    told = json.loads(run(trained, "-m", "serve", "refresh", "--json", "--stamp", "hourly", *words).stdout)
    assert (told["verdict"], os.readlink(trained / "releases" / "current")) == ("refreshed", "hourly")
    assert [step["step"] for step in told["steps"]] == ["release", "logs", "export", "publish", "slates"]
    assert told["steps"][4]["figures"]["users"] >= 150

    hourly = Release.open(trained / "releases" / "hourly")
    row, count = hourly.catalogue.row_of["late film"], first.manifest.item_count
    assert count <= row < hourly.catalogue.sealed_count == hourly.manifest.item_count and hourly.manifest.runs == first.manifest.runs
    assert hourly.catalogue.item_ids[:count] == first.catalogue.item_ids[:count]
    taste = first.items.shape[1] - len(json.loads(Path(trained / "models/world_two_tower/meaning.json").read_text())["half_lives_days"])
    assert np.array_equal(hourly.items[:count, :taste], first.items[:count, :taste])  # what was learnt of an item follows its id
    lone = torch.jit.load(str((trained / "models" / "world_two_tower").resolve() / "item_tower.pt"))
    with torch.no_grad():
        made = lone(torch.as_tensor(hourly.recipe.features(hourly.catalogue.frame[row : row + 1])))[0].numpy()
    np.testing.assert_allclose(hourly.items[row, :taste].astype(np.float32), made[:taste].astype(np.float32), atol=2e-3)
    did = pl.read_parquet(hourly.path / "histories.parquet").filter(pl.col("user_id").is_in(watchers))["item_id"]
    assert all(items.to_list()[-1] == "late film" for items in did)
    after = json.loads((hourly.path / "trends.json").read_text())["log_end"] // HOUR_MS + 1
    assert hourly.clock.before(np.array([row]), after)[0] > 2.9  # three completions, just now
    assert continuation.trained_to(hourly.path) == continuation.trained_to(first.path) < after * HOUR_MS

    def follows(version: str) -> dict:
        deadline = time.monotonic() + 120
        while (answer := ask(served, f"/v1/recommendations?user_id={watchers[0]}&count=20"))["model_version"] != version:
            assert time.monotonic() < deadline, f"release {version} is not followed"
            time.sleep(0.5)
        return answer

    answer = follows("hourly")
    ids = [item["item_id"] for item in answer["recommendations"]]
    assert answer["answered_by"] == "personalised" and len(set(ids)) == 20 and "late film" not in ids
    assert "late film" in [item["item_id"] for item in ask(served, f"/v1/items/{known['item_id']}/similar?count=159")["recommendations"]]
    with pytest.raises(urllib.error.HTTPError, match="409"):
        ask(served, "/v1/items", {"item_id": "late film", "title": "It is sealed"})
    run(trained, "-m", "serve", "release", "rollback")
    follows("first")
