"""The experiments of the published tables on other people's data, by overrides alone: as a stranger would type them, in a folder of theirs.

Of each the test part is known, and whose it is; so a run of other data, or of another split than the format's own, is found out.
"""

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hydra import compose, initialize
from omegaconf import OmegaConf

from bench.tables import EXPERIMENTS
from tests.test_end_to_end import ROOT, run

__all__ = ["run"]  # a fixture

PEOPLE, ITEMS, PLACES = 30, 40, 10
FORMATS = {
    "interactions": ("data=interactions", "data.train=train.txt", "data.test=test.txt"),
    "sequences": ("data=sequences", "data.path=sequences.txt"),
    "tables": ("data=tables", "data.events=events.csv", "data.timestamp_unit=iso"),
}
QUICK = ("name=mine", "trainer.trainer.max_epochs=1", "task.batch_size=256", "task.module.width=16")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """A folder with the same log in each format: thirty people, ten items each, in the order of time."""
    folder, rng = tmp_path_factory.mktemp("theirs"), np.random.default_rng(0)
    lists = {f"u{person}": [f"i{item}" for item in rng.permutation(ITEMS)[:PLACES]] for person in range(PEOPLE)}
    for name, part in {"sequences": slice(None), "train": slice(-2), "test": slice(-2, None)}.items():
        (folder / f"{name}.txt").write_text("".join(f"{user} {' '.join(items[part])}\n" for user, items in lists.items()))
    rows = [(user, item, f"2024-01-{1 + place:02d}T12:00:00") for user, items in lists.items() for place, item in enumerate(items)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(folder / "events.csv")
    (folder / "commas.txt").write_text("u1 a b c\nu2,a,b\n")
    return folder


@cache
def composed(*words: str) -> dict:
    """The whole configuration that a command line comes to, as it stands, and what of it the data decide."""
    with initialize(version_base="1.3", config_path="../conf"):
        cfg = OmegaConf.to_container(compose("train", list(words)), resolve=False)
    return {"of the data": {key: cfg.pop(key) for key in ("data", "split")}, "else": cfg}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_command_lines_data_and_their_split_win_and_all_else_stays(experiment):
    for words in FORMATS.values():
        there = composed(f"experiment={experiment}", *words)
        assert there["of the data"] == composed(*words)["of the data"]
        assert there["else"] == composed(f"experiment={experiment}")["else"]


@pytest.mark.parametrize(
    ("experiment", "format_", "also", "tested"),
    [
        ("gowalla_graph", "interactions", (), 2),
        ("gowalla_two_tower", "interactions", (), 2),
        ("beauty_sasrec", "sequences", (), 1),
        ("movietweetings_two_tower", "tables", ("split.test_quantile=0.81",), 2),  # from the ninth day's first event
        ("beauty_sasrec", "interactions", (), 2),  # of lists that are in an order
        ("beauty_hstu", "tables", ("split=last_out",), 1),
        ("gowalla_two_tower", "sequences", (), 1),
    ],
)
def test_an_experiment_runs_and_asks_everybody_of_their_test_part(theirs, run, experiment, format_, also, tested):
    folder = f"{experiment}_{format_}"
    run(theirs, str(ROOT / "train.py"), f"experiment={experiment}", *FORMATS[format_], *also, *QUICK, f"hydra.run.dir={folder}")
    asked = pl.read_parquet(theirs / folder / "test_topk.parquet")
    assert sorted(asked["user_id"]) == sorted(f"u{person}" for person in range(PEOPLE))
    # what a user had before the test is not offered: a list is all other items, and so tells how many events were tested
    assert set(asked["item_ids"].list.len()) == {ITEMS - (PLACES - tested)}
    assert (theirs / folder / "choosing").exists() == experiment.startswith("gowalla")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("experiment=beauty_sasrec", "data=sequences", "data.path=none.txt"), "none.txt: no such file; set data.path="),
        (("experiment=beauty_sasrec", "data=sequences", "data.path=commas.txt"), "commas.txt, line 2: found a comma"),
        (("experiment=gowalla_two_tower", "data=interactions", "data.train=train.txt"), "data.test"),
        (("experiment=gowalla_two_tower",), "$DATA_ROOT/gowalla/train.txt: no such file; set data.train="),
        (("experiment=beauty_sasrec", *FORMATS["sequences"], "split=by_time"), "take split=last_out"),
        (("experiment=movietweetings_two_tower", *FORMATS["tables"], "data.event_type=rate", "+data.columns.rating=stars"), "stars"),
    ],
    ids=["missing", "malformed", "half", "unnamed", "no times", "no column"],
)
def test_what_cannot_be_is_refused_with_its_remedy(theirs, run, monkeypatch, words, said):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    done = run(theirs, str(ROOT / "train.py"), *words, *QUICK, check=False)
    assert done.returncode and said in done.stderr
