"""The published tables: what a run's record is, which records stand in one mean, and that the README says what was recorded."""

from dataclasses import replace

import pytest
from mlflow import MlflowClient

from bench import tables
from bench.tables import BEGIN, END, EXPERIMENTS, TABLES, Published, Record, Table
from tests.test_end_to_end import ROOT
from towers.resume import write_page

FIRST = Record("a", 0, "1111111aa", "s", "d", "a CPU, 1 thread", 3, 100, 9, {}, {"hit_rate_at_10": 0.08, "ndcg_at_10": 0.05})
SECOND = replace(FIRST, seed=1, commit="2222222bb+changes", epochs=5, seconds=121, test={"hit_rate_at_10": 0.10, "ndcg_at_10": 0.05})
THIRD = replace(FIRST, seed=2, epochs=4, seconds=100, test={"hit_rate_at_10": 0.13, "ndcg_at_10": 0.05})
TABLE = Table(
    "T", ("hit_rate_at_10", "ndcg_at_10"), ("a", "b"), (Published("x", (0.01, None), "w"), Published("y", (0.2, 0.1), "v")), (0.1, 0.06)
)


def test_a_table_by_hand(monkeypatch):
    monkeypatch.setattr(tables, "TABLES", (TABLE,))
    # the mean of .08, .10 and .13 is .1033 and reaches .10, their sample deviation √(.001267 / 2); .05 does not reach .06
    assert tables.rendered([FIRST, SECOND, THIRD]) == (
        "**T**\n\n"
        "|  | HR@10 | NDCG@10 | seeds | epochs | seconds | hardware | commit, or where |\n"
        "|---|---:|---:|---:|---:|---:|---|---|\n"
        "| [`a`](conf/experiment/a.yaml) | **.1033 ± .0252** | .0500 ± .0000 | 3 | 3 5 4 | 107 | a CPU, 1 thread | 1111111, 2222222+ |\n"
        "| [`b`](conf/experiment/b.yaml) | | | not run | | | | |\n"
        "| *to be reached, by the mean of three seeds* | .1000 | .0600 | | | | | |\n"
        "| y | .2000 | .1000 | | | | | v |\n"
        "| x | .0100 | – | | | | | w |\n"
    )


def test_fewer_than_three_seeds_reach_no_bar_and_one_has_no_deviation():
    lucky = replace(FIRST, test={"hit_rate_at_10": 0.5, "ndcg_at_10": 0.5})
    assert "| .5000 | .5000 | 1 |" in tables.row("a", TABLE, [lucky])
    assert "| .5000 ± .0000 | .5000 ± .0000 | 2 |" in tables.row("a", TABLE, [lucky, replace(lucky, seed=1)])


def test_only_records_of_the_newest_settings_and_data_stand_in_one_mean_each_seed_once():
    other = [replace(FIRST, seed=5, settings="t"), replace(FIRST, seed=6, data="e"), replace(FIRST, experiment="b")]
    again = replace(FIRST, commit="3333333")
    assert tables.of("a", [*other, FIRST, THIRD, again, SECOND]) == [again, SECOND, THIRD]
    assert tables.of("c", other) == []


def test_a_record_takes_the_place_of_its_experiments_seeds_and_commits_own(tmp_path):
    path = tmp_path / "records.json"
    records = tables.keep(tables.keep(tables.keep(tables.read(path), FIRST, path), SECOND, path), replace(FIRST, epochs=7), path)
    assert tables.read(path) == records == [SECOND, replace(FIRST, epochs=7)]


@pytest.mark.parametrize("refit", [False, True])
def test_what_mlflow_knows_of_a_run_by_hand(tmp_path, monkeypatch, refit):
    """Validated after every third epoch, the second time was the best: epoch 6 was kept; with refit=true it was another run
    that chose, and its seconds count too."""
    monkeypatch.setattr(tables, "hardware", lambda: "here")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("towers")

    def a_run(folder, *, chooses: bool, tested: bool):
        run = client.create_run(experiment, tags={"git_commit": "1111111aa", "data_fingerprint": "d"})
        client.log_param(run.info.run_id, "trainer/monitor", "val/ndcg_at_10")
        points = {"val/best": [0.3]}
        if chooses:
            points |= {f"val/{name}": [0.1, 0.2, 0.15] for name in tables.TITLES} | {"val/ndcg_at_10": [0.1, 0.3, 0.2]}
            points |= {"val/seconds": [1.0, 1.0, 1.0], "epoch": [2.0, 5.0, 8.0]}
        points |= {"train/seconds": [10.0, 10.0, 10.0][: 3 if chooses else 2]}
        if tested:
            points |= {f"test/{name}": [0.5] for name in tables.TITLES} | {
                "test/users": [9.0],
                "test/seconds": [2.0],
                "test/history_0/users": [1.0],
            }
        for name, values in points.items():
            for epoch, value in enumerate(values):
                client.log_metric(run.info.run_id, name, value, step=17 * (epoch + 1))
        folder.mkdir()
        write_page(folder, run.info.run_id, uri, -0.3)

    a_run(tmp_path / "run", chooses=not refit, tested=True)
    if refit:
        a_run(tmp_path / "run" / "choosing", chooses=True, tested=False)
    validation = dict.fromkeys(tables.TITLES, 0.2) | {"ndcg_at_10": 0.3}
    assert tables.recorded(tmp_path / "run", "a", 4, "s") == Record(
        "a", 4, "1111111aa", "s", "d", "here", 6, 55 if refit else 35, 9, validation, dict.fromkeys(tables.TITLES, 0.5)
    )


def test_the_readme_says_what_was_recorded():
    page = (ROOT / "README.md").read_text()
    assert page == tables.written(page, tables.read()), "python -m bench.tables --write"


def test_a_page_without_a_place_for_them_is_refused():
    for page in ("", f"{BEGIN}", f"{END}\n{BEGIN}"):
        with pytest.raises(ValueError, match="expected one <!-- tables -->"):
            tables.written(page, [])
    assert tables.written(f"before {BEGIN} old {END} after", []).startswith(f"before {BEGIN}\n\n**")


def test_rows_and_records_are_of_experiments_that_are_there():
    there = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    assert set(EXPERIMENTS) <= there
    assert {record.experiment for record in tables.read()} <= set(EXPERIMENTS)
    assert all(len(other.figures) == len(table.metrics) for table in TABLES for other in table.published)


def test_settings_are_told_apart_by_what_is_learned_and_not_by_who_asks_where():
    assert tables.settings_of("beauty_sasrec") == tables.settings_of("sports_sasrec") != tables.settings_of("beauty_hstu")
