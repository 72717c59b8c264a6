"""What a finished retrieval run left behind, and whether two of them answered the same questions.

Shapes: U users of the test · T targets · K depth of the lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data.log import Log, queries
from data.split import TEST
from towers.evaluation import BEYOND, ItemLists, Ranking
from towers.saved import SavedModelError, SavedRetrieval

SAME = ("data", "split", "log")
OF_ITEMS = ("seed", "text_width", "tags")
"""Settings of the log that decide how items are told to a model, and nothing of what is asked."""
SETTING = ("log", "bias", "task", "trainer", "warm_start")
"""What two runs on one log have in common that are trainings of one setting."""


class CompareError(ValueError):
    """Runs that cannot be compared; the message names the run and the reason."""


@dataclass(frozen=True, slots=True)
class Lists:
    """What a finished run, of either kind, answered: its name, its configuration, and the best items of every user of the test."""

    name: str
    cfg: DictConfig
    lists: pl.DataFrame

    @classmethod
    def open(cls, folder: Path) -> "Lists":
        """Read what `train.py` left in a run's folder, or MLflow kept of it. Raises CompareError where a file is missing."""
        for name in ("config.yaml", "test_topk.parquet"):
            if not (folder / name).is_file():
                raise CompareError(f"{folder} holds no {name}: it is no finished run, or one without a test part")
        return cls(folder.name, OmegaConf.load(folder / "config.yaml"), pl.read_parquet(folder / "test_topk.parquet"))


@dataclass(frozen=True, slots=True)
class Run:
    """A finished retrieval run: its folder's name, its configuration, its lists and its model."""

    name: str
    cfg: DictConfig
    lists: pl.DataFrame
    model: SavedRetrieval

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read what `train.py` left in a run's folder; `models/<name>`, the link to a run's model, is as good.

        Raises:
            CompareError: a file is missing, or it is the run of a ranker, which orders what one retrieval model proposes.
        """
        if (folder / "meaning.json").is_file():
            folder = folder.resolve().parent
        for name in ("config.yaml", "test_topk.parquet", "model/meaning.json"):
            if not (folder / name).is_file():
                raise CompareError(f"{folder} holds no {name}: give the folders of finished retrieval runs (a ranker leaves no lists)")
        try:
            model = SavedRetrieval.open(folder / "model")
        except SavedModelError as error:
            raise CompareError(str(error)) from error
        return cls(folder.resolve().name, OmegaConf.load(folder / "config.yaml"), pl.read_parquet(folder / "test_topk.parquet"), model)


def same_log(runs: Sequence[Run | Lists]) -> Log:
    """The log that all runs were trained and tested on, read as the first run read it.

    Raises:
        CompareError: a run had other data, another split or another idea of what is liked.
    """
    first = runs[0]
    log = instantiate(first.cfg.log)(instantiate(first.cfg.split)(instantiate(first.cfg.data)))
    for run in runs[1:]:
        for name in SAME:
            mine, other = (_but(cfg[name], OF_ITEMS if name == "log" else ()) for cfg in (first.cfg, run.cfg))
            if mine == other:
                continue
            differs = _first_difference(mine, other, name)
            if name != "data":
                raise CompareError(f"{run.name} has another {name} than {first.name} ({differs}), so their tests ask different questions")
            mine, other = log.split.tables.fingerprint(), instantiate(run.cfg.data).fingerprint()
            if mine != other:
                raise CompareError(f"{run.name} has other data than {first.name} ({differs}; fingerprints {other} and {mine})")
    return log


def settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by what was tried: those that differ by their seed alone are trainings of one setting, named after its first run. Where all
    are of one setting, or a seed stands twice in one, each run is looked at by itself."""
    by_setting: dict[str, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(repr([_but(run.cfg.get(name), ("seed",)) for name in SETTING]), []).append(run)
    seeds = [[run.cfg.get("seed") for run in several] for several in by_setting.values()]
    if len(by_setting) == 1 or any(len(set(of)) < len(of) for of in seeds):
        return {run.name: [run] for run in runs}
    return {of[0].name + (f" and {len(of) - 1} more seed{'s' * (len(of) > 2)}" if of[1:] else ""): of for of in by_setting.values()}


def _but(part: object, names: Sequence[str]) -> object:
    """A part of a configuration without the keys of these names, at any depth."""
    part = OmegaConf.to_container(part) if isinstance(part, DictConfig) else part
    return {key: _but(value, names) for key, value in part.items() if key not in names} if isinstance(part, dict) else part


def _first_difference(mine: dict, other: dict, name: str) -> str:
    flat = [{f"{name}.{key}": value for key, value in sorted(part.items())} for part in (mine, other)]
    key = next(key for key in [*flat[0], *flat[1]] if flat[0].get(key) != flat[1].get(key))
    return f"{key} is {flat[1].get(key)}, not {flat[0].get(key)}"


def ranking_of(run: Run | Lists, log: Log) -> Ranking:
    """The run's own lists as the answers to the test's questions.

    Raises:
        CompareError: they are of other users or items than the log's test part now has.
    """
    asked = queries(log, TEST)
    user_ids = pl.Series("user_id", log.user_ids, dtype=pl.String).gather(asked.user_row_Q)
    if run.lists["user_id"].to_list() != user_ids.to_list():
        raise CompareError(
            f"{run.name}: its lists are of {len(run.lists):,} users and not of the {len(user_ids):,} that the test part now asks;"
            " the data have changed since, so train it anew"
        )
    row = pl.DataFrame({"item_ids": log.catalogue.item_ids, "row": range(len(log.catalogue.item_ids))}, schema_overrides={"row": pl.Int64})
    long = run.lists.select("item_ids").with_row_index("u").explode("item_ids").join(row, on="item_ids", how="left", maintain_order="left")
    if (strange := long.filter(pl.col("item_ids").is_not_null() & pl.col("row").is_null())).height:
        raise CompareError(f"{run.name}: its lists hold item {strange['item_ids'][0]!r}, which is not in the log; train it anew")
    depth = int(run.lists["item_ids"].list.len().max())
    top_UK = torch.full((len(run.lists), depth), -1)
    place = long.filter(pl.col("row").is_not_null()).with_columns(place=pl.int_range(pl.len()).over("u"))
    user, at, item = (torch.as_tensor(place[name].cast(pl.Int64).to_numpy(writable=True)) for name in ("u", "place", "row"))
    top_UK[user, at] = item
    targets = ItemLists(torch.as_tensor(asked.target_offset), torch.as_tensor(asked.target_row))
    hit_TK = top_UK[targets.user_index()] == targets.item_row[:, None]
    rank_T = torch.where(hit_TK.any(1), hit_TK.int().argmax(1) + 1, BEYOND)
    return Ranking(torch.as_tensor(asked.user_row_Q), targets, rank_T, top_UK, torch.zeros(top_UK.shape), depth, 0, asked.seen_policy)
