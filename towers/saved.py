"""What a retrieval run leaves behind: a folder that the ranker learns from and that `export.py` publishes.

user_tower.pt, item_tower.pt (TorchScript), rows.npy (I, 2 D float16: input half, vector half, just after the training part), golden.npz
(random inputs and what the trained modules answered, before any scripting), meaning.json (ids and words behind the numbers), recipe.npz
(the content recipe), state.pt (weights, for a warm start). TorchScript and arrays only: nothing is unpickled.
"""

import hashlib
import json
import pickle
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.content import write_recipe
from data.datamodule import RetrievalData
from data.features import EVENT_CODES, NUMBERS, PROFILE, MomentVocabulary, Vocabulary
from data.log import Log, hour_after, popularity_clocks
from data.schema import digest
from data.split import TEST, LeakError
from towers.ranker import HEADS, TASKS
from towers.retrieval import RetrievalTask
from towers.two_tower import prior


class SavedModelError(RuntimeError):
    """A model folder that cannot be used; the message names it, the reason and the remedy."""


def script(module: torch.nn.Module, path: Path) -> None:
    """Write `module` in eval mode as TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.*")
        torch.jit.script(module.eval()).save(str(path))


def load_script(path: Path) -> torch.jit.ScriptModule:
    """Read what `script` wrote.

    Raises:
        SavedModelError: the file is missing, cut short or no TorchScript.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.*")
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise SavedModelError(f"{path} cannot be read as TorchScript ({str(error).splitlines()[0]}); train the run again") from error


def read_state(path: Path) -> dict:
    """The weights in a model folder's `state.pt`. Raises SavedModelError where the file is missing, cut short or altered."""
    return _read(path, "give another model folder, or train that run again", weights_only=True)


def check_checkpoint(path: Path) -> None:
    """Raises SavedModelError where a run cannot be resumed from `path`: missing, cut short or altered."""
    _read(path, "resume from another (best.ckpt lies beside last.ckpt), or start the run anew", weights_only=False)


def _read(path: Path, remedy: str, *, weights_only: bool) -> dict:
    try:
        return torch.load(path, weights_only=weights_only, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise SavedModelError(f"{path} cannot be read ({str(error).splitlines()[0]}); {remedy}") from error


def meaning(log: Log) -> dict:
    """The ids and words behind a log's numbers, and a digest of the test part that was kept from what learned of it."""
    return {
        "item_ids": list(log.catalogue.item_ids),
        "device": list(log.vocabulary.device.words),
        "region": list(log.vocabulary.region.words),
        "subscription_tier": list(log.vocabulary.subscription_tier.words),
        "genres": list(log.catalogue.recipe.genres.words),
        "tags": list(log.catalogue.recipe.tags.words),
        "liked_from": log.liked_from if np.isfinite(log.liked_from) else None,
        "test_part": digest(log.split.of(TEST).select("user_id", "item_id", "event_type", "timestamp")),
    }


def save_retrieval(task: RetrievalTask, data: RetrievalData, folder: Path) -> None:
    """Write the folder of a trained two-tower model."""
    folder.mkdir(parents=True, exist_ok=True)
    task = task.eval().cpu()
    script(task.user_tower, folder / "user_tower.pt")
    script(task.item_tower, folder / "item_tower.pt")
    rows = task.item_rows(data.train_log).numpy().astype(np.float16)
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "golden.npz", **golden_towers(task, data.log, rows))
    torch.save(task.state_dict(), folder / "state.pt")
    write_recipe(folder / "recipe.npz", data.log.catalogue.recipe)
    facts = {
        "kind": "retrieval",
        "width": task.width,
        "history_length": task.history_length,
        "half_lives_days": task.half_lives_days,
        "learned_until_ms": int(data.train_log.timestamp_E.max()),
        **meaning(data.log),
    }
    (folder / "meaning.json").write_text(json.dumps(facts))


@dataclass(frozen=True, slots=True)
class SavedRetrieval:
    """A trained two-tower model, ready to answer: rows of all items, and the user tower as it will be served."""

    folder: Path
    user_tower: torch.jit.ScriptModule
    item_tower: torch.jit.ScriptModule
    row_IW: Tensor
    width: int
    history_length: int
    half_lives_days: tuple[float, ...]
    item_ids: tuple[str, ...]
    liked_from: float
    vocabulary: MomentVocabulary

    @classmethod
    def open(cls, folder: Path) -> "SavedRetrieval":
        """Read what `save_retrieval` wrote.

        Raises:
            SavedModelError: a file is missing or cannot be read.
        """
        facts = read_meaning(folder, "retrieval")
        words = (Vocabulary(tuple(facts[name])) for name in ("device", "region", "subscription_tier"))
        return cls(
            folder=folder,
            user_tower=load_script(folder / "user_tower.pt"),
            item_tower=load_script(folder / "item_tower.pt"),
            row_IW=torch.as_tensor(np.load(folder / "rows.npy")),
            width=facts["width"],
            history_length=facts["history_length"],
            half_lives_days=tuple(facts["half_lives_days"]),
            item_ids=tuple(facts["item_ids"]),
            liked_from=-np.inf if facts["liked_from"] is None else facts["liked_from"],
            vocabulary=MomentVocabulary(*words),
        )

    def rows_after(self, log: Log) -> Tensor:
        """The item table, (I, 2 D) float16, with its popularity columns as they stand just after `log`."""
        if not self.half_lives_days:
            return self.row_IW
        row_I = np.arange(len(self.row_IW))
        clocks = popularity_clocks(log, self.half_lives_days)
        popularity_IP = np.stack([clock.before(row_I, hour_after(log))[0] for clock in clocks], axis=1)
        taste_IW = self.row_IW[:, : -len(clocks)]
        return torch.cat([taste_IW, prior(torch.as_tensor(popularity_IP)).half()], dim=1)

    @torch.no_grad()
    def knowing(self, log: Log, *, block: int = 4096) -> "SavedRetrieval":
        """This model beside a log that holds more items than it was trained on: those it knows keep their rows, which follow their ids; of
        the others, which come after them, the item tower makes rows from their content, as it does of what is posted.

        Raises:
            SavedModelError: the log's first items are not the model's, or the item tower gives no numbers for one.
        """
        count = len(self.item_ids)
        if log.catalogue.item_ids[:count] != self.item_ids:
            raise SavedModelError(f"{self.folder} was trained on other items than this log begins with; train on the log as it is now")
        feature_NF = torch.as_tensor(log.catalogue.feature_IF[count:])
        row_NW = torch.cat([self.row_IW[:0], *(self.item_tower(rows) for rows in feature_NF.split(block) if len(rows))])
        if not (finite_N := row_NW.isfinite().all(dim=1)).all():
            item_id = log.catalogue.item_ids[count + int(finite_N.int().argmin())]
            raise SavedModelError(f"{self.folder}: the item tower gives no numbers for item {item_id!r}; mend the item, or train anew")
        return replace(self, row_IW=torch.cat([self.row_IW, row_NW]), item_ids=log.catalogue.item_ids)

    def check_same_items(self, log: Log) -> None:
        """The rows of this model are the rows of `log`.

        Raises:
            SavedModelError: the log's items or words are others than those the model was trained on.
            LeakError: another test part was kept from the model, so that it may have learned of this one.
        """
        trained, now = read_meaning(self.folder, "retrieval"), meaning(log)
        remedy = "train the ranker with the data, split and log settings of its retrieval run"
        if trained.get("test_part") != now.pop("test_part"):
            raise LeakError(f"{self.folder} was trained with another test part held out than this log's, of which it may know; {remedy}")
        for name, words in now.items():
            if trained[name] != words:
                raise SavedModelError(f"{self.folder} was trained on other {name} than this log has; {remedy}")


def read_meaning(folder: Path, kind: str) -> dict:
    """meaning.json of a model folder of this kind (retrieval or ranking).

    Raises:
        SavedModelError: there is no such folder, or it is of another kind.
    """
    path = folder / "meaning.json"
    if not path.is_file():
        raise SavedModelError(f"{folder} holds no meaning.json, so it is no model folder; give runs/<run>/model of a finished {kind} run")
    facts = json.loads(path.read_text())
    if facts.get("kind") != kind:
        raise SavedModelError(f"{folder} is the model of a {facts.get('kind')} run, expected one of a {kind} run")
    return facts


def read_ranking(folder: Path) -> dict:
    """meaning.json of the folder of a ranker that is told and answers what this version knows.

    Raises:
        SavedModelError: as `read_meaning`, or it learned on other numbers or another profile, or answers by other heads.
    """
    facts = read_meaning(folder, "ranking")
    for name, known in (("numbers", NUMBERS), ("profile", PROFILE), ("heads", HEADS)):
        if facts.get(name) != list(known):
            raise SavedModelError(f"{folder} has the {name} {facts.get(name)}, this version {list(known)}; train the ranker again")
    return facts


GOLDEN_ROWS, GOLDEN_CANDIDATES = 8, 32


@torch.no_grad()
def golden_towers(task: RetrievalTask, log: Log, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of both towers, histories of several lengths among them, and the answers of the modules as they were trained."""
    rng = np.random.default_rng(0)
    B, L = GOLDEN_ROWS, max(task.history_length, 1)
    history = torch.as_tensor(rows[rng.integers(0, len(rows), (B, L)), : task.width])
    code = torch.as_tensor(rng.integers(1, EVENT_CODES, (B, L)) * (np.arange(L) >= np.arange(B)[:, None] * L // B))
    age = torch.as_tensor(rng.integers(0, 1_000_000, (B, L)))
    moment = torch.as_tensor(rng.integers(0, log.vocabulary.sizes, (B, len(log.vocabulary.sizes))))
    feature = torch.as_tensor(log.catalogue.feature_IF[:B])
    tensors = {
        "user_tower/history": history, "user_tower/event_code": code, "user_tower/age_minutes": age, "user_tower/moment": moment,
        "user_tower/query__0": task.user_tower(history, code, age, moment),
        "item_tower/feature": feature, "item_tower/row__0": task.item_tower(feature),
    }  # fmt: skip
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@torch.no_grad()
def golden_ranker(task, data) -> dict[str, np.ndarray]:
    """Inputs of the ranker, profile and numbers spread as those it learned from, and the answers of the module as it was trained."""
    rng = np.random.default_rng(0)
    rows, sizes = data.model.row_IW, data.log.vocabulary.sizes
    query = torch.as_tensor(rng.standard_normal((GOLDEN_ROWS, data.model.width), np.float32) / np.float32(data.model.width**0.5))
    moment = torch.as_tensor(rng.integers(0, sizes, (GOLDEN_ROWS, len(sizes))))
    candidate = rows[torch.as_tensor(rng.integers(0, len(rows), (GOLDEN_ROWS, GOLDEN_CANDIDATES))), : data.model.width]
    profile, number = (
        spread.mean + spread.std * torch.as_tensor(rng.standard_normal((*shape, len(spread.mean)), np.float32))
        for spread, shape in ((data.profile_spread, (GOLDEN_ROWS,)), (data.number_spread, (GOLDEN_ROWS, GOLDEN_CANDIDATES)))
    )
    told = {"query": query, "moment": moment, "profile": profile, "candidate": candidate, "number": number}
    told["value__0"] = task.ranker(*told.values())
    return {f"ranker/{name}": tensor.numpy() for name, tensor in told.items()}


def save_ranker(task, data, folder: Path) -> None:
    """Write the folder of a trained ranker: ranker.pt, golden.npz, and in meaning.json the retrieval folder it ranks for."""
    folder.mkdir(parents=True, exist_ok=True)
    task.ranker = task.ranker.cpu().eval()
    script(task.ranker, folder / "ranker.pt")
    np.savez(folder / "golden.npz", **golden_ranker(task, data))
    facts = {
        "kind": "ranking",
        "heads": list(HEADS),
        "numbers": list(NUMBERS),
        "profile": list(PROFILE),
        "value_weight": {name: round(share, 6) for name, share in zip(TASKS, task.ranker.value_T.tolist(), strict=True)}
        | {"skip": round(float(task.ranker.skip_cost), 6)},
        "learned": [head for head, known in zip(HEADS, (*task.answers.known, True), strict=True) if known],
        "clock_half_life_days": data.half_life_days,
        "retrieval": str(data.model.folder.resolve()),
        "retrieval_rows": rows_digest(data.model.folder),
    }
    (folder / "meaning.json").write_text(json.dumps(facts))


def rows_digest(folder: Path) -> str:
    """SHA-256 of a retrieval model's item rows: a ranker serves only beside the rows it learned from."""
    return hashlib.sha256((folder / "rows.npy").read_bytes()).hexdigest()
