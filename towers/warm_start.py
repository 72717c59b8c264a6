"""Start a run from an older one whose vocabulary was smaller: rows move by the id or word behind them, never by number."""

import json
from pathlib import Path

import torch

from data.datamodule import RetrievalData
from data.split import LeakError
from towers.retrieval import RetrievalTask
from towers.saved import meaning, read_meaning, read_state


def start_warm(task: RetrievalTask, data: RetrievalData, folder: Path) -> str:
    """Copy what the model in `folder` knows into `task`; returns a line that counts what was copied and what starts anew.

    Item embeddings move by item_id, moment embeddings by word, the first content layer by genre and tag (text columns start anew, because
    their directions change with the corpus); other parameters are copied where the shapes agree.

    Raises:
        SavedModelError: `folder` is no model folder of a retrieval run, or its weights cannot be read.
        LeakError: the old model has learned of events that lie in the new run's test.
    """
    then, now = read_meaning(folder, "retrieval"), meaning(data.log)
    cut, until = data.log.split.cut_ms, then.get("learned_until_ms")
    known = then.get("test_part") == now["test_part"] or (cut is not None and until is not None and until < cut.test)
    if not known and cut is not None and until is not None:
        raise LeakError(
            f"{folder} has learned of events up to {until} ms, and this run is tested on those from {cut.test} ms on: start warm from a"
            " model of before, or test later"
        )
    old = read_state(folder / "state.pt")
    new = task.state_dict()
    moved, fresh = 0, []
    pairs = {"item_id.weight": (then["item_ids"], now["item_ids"], 0)}
    for column, name in ((2, "device"), (3, "region"), (4, "subscription_tier")):
        pairs[f"user_tower.moment.{column}.weight"] = ([None, *then[name]], [None, *now[name]], 0)
    pairs["item_tower.content.0.weight"] = (_columns(then), _columns(now), 1)
    for name, tensor in new.items():
        if name in pairs and name in old and old[name].dim() == tensor.dim():
            moved += _move(old[name], tensor, *pairs[name])
        elif name in old and old[name].shape == tensor.shape:
            tensor.copy_(old[name])
        else:
            fresh.append(name)
    task.load_state_dict(new)
    items = len(set(then["item_ids"]) & set(now["item_ids"]))
    return (
        f"{items:,} of {len(now['item_ids']):,} items known from {folder}, {moved:,} rows and columns moved by name,"
        f" starting anew: {', '.join(fresh) or 'nothing'}" + ("" if known else "; whether it knows of this run's test, nothing tells")
    )


def _columns(facts: dict) -> list[str]:
    """Names of the content columns whose meaning is a word: genres and tags, which stand first."""
    return [json.dumps(["genre", word]) for word in facts["genres"]] + [json.dumps(["tag", word]) for word in facts["tags"]]


def _move(old: torch.Tensor, new: torch.Tensor, old_names: list, new_names: list, dim: int) -> int:
    place = {name: row for row, name in enumerate(old_names)}
    pairs = [(place[name], row) for row, name in enumerate(new_names) if name in place]
    if not pairs or old.shape[1 - dim] != new.shape[1 - dim]:
        return 0
    source, target = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
    new.index_copy_(dim, target, old.index_select(dim, source))
    return len(pairs)
