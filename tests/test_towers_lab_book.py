"""The lab book in a real MLflow: curves, notes, names; and `champion` moves where the interval lies above zero, nowhere else."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.logs import small
from tests.test_towers_compare import write_run
from towers import conclude, promote
from towers.evaluation import per_user
from towers.lab_book import LabBook, note, offer, page, register
from towers.metrics import bootstrap_difference
from towers.resume import ResumeError, write_page
from towers.run_folder import Lists, ranking_of


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    """One for the whole file: MLflow makes its tables once."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def store(database, tmp_path, monkeypatch) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    return MlflowClient(database)


def finished(client: MlflowClient, folder: Path, vector_ID: np.ndarray, *, name: str, fingerprint: str | None = None) -> Path:
    """A run as train.py leaves it, in its folder and in MLflow."""
    _, log = small()
    write_run(folder, log, vector_ID)
    experiment = client.get_experiment_by_name("towers")
    tags = {"data_fingerprint": fingerprint or log.split.tables.fingerprint(), "folder": str(folder), "question": "Which?"}
    run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("towers"), tags=tags)
    client.log_param(run.info.run_id, "name", name)
    for file in ("config.yaml", "test_topk.parquet"):
        client.log_artifact(run.info.run_id, str(folder / file))
    client.log_artifacts(run.info.run_id, str(folder / "model"), "model")
    write_page(folder, run.info.run_id, client.tracking_uri, -0.5)
    return folder


def only_begun(client: MlflowClient, folder: Path) -> Path:
    """A run that has only begun."""
    run = client.create_run(client.get_experiment_by_name("towers").experiment_id)
    client.log_param(run.info.run_id, "name", "begun")
    folder.mkdir()
    write_page(folder, run.info.run_id, client.tracking_uri)
    return folder


def champion(client: MlflowClient, name: str) -> str:
    return client.get_model_version_by_alias(name, "champion").run_id


def run_id(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["run_id"]


def test_the_champion_is_beaten_surely_or_stays(store, tmp_path, capsys):
    genre_IG = small()[1].catalogue.genre_IG
    noise, more_noise = (np.random.default_rng(seed).standard_normal(genre_IG.shape) for seed in (0, 1))
    first = finished(store, tmp_path / "first", noise, name="small")
    assert promote.main([str(first)]) == 0 and champion(store, "small") == run_id(first)
    assert "version 1 is the champion of small: there was none to hold it against" in capsys.readouterr().out
    assert promote.main([str(first)]) == 0 and "already" in capsys.readouterr().out

    other = finished(store, tmp_path / "other", more_noise, name="small")
    assert promote.main([str(other)]) == 3 and champion(store, "small") == run_id(first)
    said = capsys.readouterr().out
    assert "version 1 stays the champion of small, for the interval does not lie above zero: ndcg_at_20" in said and said.endswith(
        "before: 0\n"
    )

    knows = finished(store, tmp_path / "knows", genre_IG, name="small")
    assert promote.main([str(knows / "model")]) == 0 and champion(store, "small") == run_id(knows)  # as models/<name> leads there
    version = store.get_model_version_by_alias("small", "challenger")
    assert version.run_id == run_id(knows)
    assert (version.tags["against"], version.tags["won"], version.tags["metric"]) == ("1", "True", "ndcg_at_20")
    told = store.get_run(run_id(knows)).data.tags
    log = small()[1]
    mine, its = (per_user(ranking_of(Lists.open(path), log), (20,))["ndcg_at_20"] for path in (knows, first))
    apart = bootstrap_difference(mine, its)
    assert told["promotion"] == (
        f"version 3 is the champion of small: ndcg_at_20 {apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] over version 1"
        f" ({mine.mean():.4f} and {its.mean():.4f}, {len(mine)} users paired); judged by this test before: 1"
    )
    assert told["mlflow.note.content"].endswith(f"**Promotion.** {told['promotion']}")
    assert promote.main([str(first), "--metric", "recall_at_10"]) == 3 and champion(store, "small") == run_id(knows)  # surely worse


def test_a_variation_may_challenge_another_name(store, tmp_path):
    genre_IG = small()[1].catalogue.genre_IG
    plain = finished(store, tmp_path / "plain", np.random.default_rng(0).standard_normal(genre_IG.shape), name="plain")
    varied = finished(store, tmp_path / "varied", genre_IG, name="varied")
    sweep = only_begun(store, tmp_path / "sweep")
    store.set_tag(run_id(sweep), "best_run", run_id(varied))
    assert promote.main([str(plain)]) == 0 and promote.main([str(sweep), "--of", "plain"]) == 0  # its best job
    assert champion(store, "plain") == run_id(varied) and not store.search_registered_models("name = 'varied'")


def test_other_data_are_refused_and_register_nothing(store, tmp_path, capsys):
    genre_IG = small()[1].catalogue.genre_IG
    first = finished(store, tmp_path / "first", genre_IG, name="other")
    strange = finished(store, tmp_path / "strange", genre_IG, name="other", fingerprint="another")
    assert promote.main([str(first)]) == 0 and promote.main([str(strange)]) == 2
    assert "has other data than the champion's" in capsys.readouterr().err
    assert [version.run_id for version in store.search_model_versions("name = 'other'")] == [run_id(first)]
    begun = only_begun(store, tmp_path / "begun")
    assert promote.main([str(begun)]) == 2 and "left no model: it is not finished" in capsys.readouterr().err
    assert promote.main([str(tmp_path)]) == 2 and "holds no run.json: give the folder of a run" in capsys.readouterr().err


def test_data_that_changed_since_are_refused(store, tmp_path, capsys):
    genre_IG = small()[1].catalogue.genre_IG
    runs = [finished(store, tmp_path / name, genre_IG, name="changed", fingerprint="what it was") for name in ("one", "two")]
    assert promote.main([str(runs[0])]) == 0 and promote.main([str(runs[1])]) == 2
    assert "the data have changed since both runs were trained" in capsys.readouterr().err


def test_a_run_is_registered_once_and_offered_as_the_challenger(store, tmp_path):
    folder = finished(store, tmp_path / "first", small()[1].catalogue.genre_IG, name="once")
    client, run = page(folder)
    assert [register(client, "once", run) for _ in range(2)] == ["1", "1"]
    offer(client, run)
    assert store.get_model_version_by_alias("once", "challenger").run_id == run.info.run_id
    assert Path("models/once").resolve() == folder / "model"


def test_the_note_tells_what_was_asked_found_and_concluded(store, tmp_path, capsys):
    folder = finished(store, tmp_path / "first", small()[1].catalogue.genre_IG, name="note")
    note(store, run_id(folder), question="Which?", result="test: ndcg_at_20 0.5")
    assert conclude.main([str(folder), "The genres tell."]) == 0
    assert conclude.main([str(folder), "The genres tell: kept."]) == 0
    tags = store.get_run(run_id(folder)).data.tags
    assert tags["conclusion"] == "The genres tell: kept."
    assert tags["mlflow.note.content"] == (
        "**Question.** Which?\n\n**Result.** test: ndcg_at_20 0.5\n\n**Conclusion.** The genres tell: kept."
    )
    assert conclude.main([str(tmp_path), "Nothing."]) == 2 and "holds no run.json" in capsys.readouterr().err


def test_a_curve_holds_each_step_once_and_goes_on_where_it_was(store, tmp_path):
    """What a resumed run logs again is there; what is new is written; other data, or a run that nobody knows, are refused."""
    book = partial(LabBook, "towers", run_name="curve", tracking_uri=store.tracking_uri)
    first = book(tags={"data_fingerprint": "a"}, run_id=None)
    for step, value in enumerate((0.1, 0.2, 0.3)):
        first.log_metrics({"val/x": value, "epoch": step}, step)
    first.log_metrics({"epoch": 2, "train/loss": 1.0}, 2)  # as Lightning does, twice an epoch
    again = book(tags={"data_fingerprint": "a"}, run_id=first.run_id)
    assert store.get_run(first.run_id).info.status == "RUNNING"
    for step, value in ((1, 0.25), (2, 0.35), (3, 0.4)):
        again.log_metrics({"val/x": value, "val/y": value}, step)
    told = {name: [(p.step, p.value) for p in store.get_metric_history(first.run_id, name)] for name in ("val/x", "val/y", "epoch")}
    assert told["val/x"] == [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)] and told["epoch"] == [(0, 0), (1, 1), (2, 2)]
    assert told["val/y"] == [(1, 0.25), (2, 0.35), (3, 0.4)]
    with pytest.raises(ResumeError, match=r"the data have changed since run .* \(fingerprint b, it was a\)"):
        book(tags={"data_fingerprint": "b"}, run_id=first.run_id)
    with pytest.raises(ResumeError, match=r"knows no run lost: remove run\.json"):
        book(tags={"data_fingerprint": "a"}, run_id="lost")
