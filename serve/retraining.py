"""What a retraining may choose, and how the champion's configuration becomes the challenger's. `serve.retrain` is the job."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from serve.settings import SettingsError, composed

READ, READ_WITHOUT_SLATES = "data.readers.continued.read", "data.readers.continued.read_without_slates"
RETRAINED = "_retrained"
TRAINING = ("torch", "pytorch_lightning", "mlflow")
Days = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Gate:
    """conf/retrain.yaml, `gate`."""

    figure: Literal["ndcg_at_20", "recall_at_20"]
    tolerance: Annotated[float, Field(allow_inf_nan=False)]
    least_users: Annotated[int, Field(ge=1)]
    share: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class Retraining:
    """The file, field by field; what each means stands there."""

    releases: Path
    state: Path
    runs: Path
    test_days: Days
    validation_days: Days
    least_events: Annotated[int, Field(ge=0)]
    overrides: tuple[str, ...]
    export: tuple[str, ...]
    nice: Annotated[int, Field(ge=0, le=19)]
    timeout_minutes: Days
    gate: Gate

    @property
    def folder(self) -> Path:
        """Where every retraining has a folder of its own."""
        return self.state / "retrain"

    @property
    def forgotten(self) -> Path:
        """The digests of the users that are to be left out of every training: see `serve.forget`."""
        return self.folder / "forgotten.txt"


def check_installed() -> None:
    """See, before anything is written, that train.py and export.py can run here: serving alone installs none of what they import.

    Raises:
        SettingsError: a package of the extra `train` is not there.
    """
    if missing := [name for name in TRAINING if find_spec(name) is None]:
        raise SettingsError(f"no {', '.join(missing)} here, which training and export need and serving does not: pip install towers[train]")


def retraining(overrides: Sequence[str]) -> Retraining:
    """conf/retrain.yaml with `key=value` overrides. Raises as `serve.settings.composed`."""
    return composed("retrain", Retraining, overrides)


def folders_of(cfg: Mapping[str, Any]) -> list[str]:
    """The folders of serving's logs that a run has read already, oldest first."""
    data = cfg["data"]
    return list(data["folders"]) if data["_target_"] in (READ, READ_WITHOUT_SLATES) else []


def continued(cfg: Mapping[str, Any], chosen: Retraining, *, stamp: str, kind: str, logs: Path, read: str) -> dict[str, Any]:
    """The resolved configuration of a run, to be run again on its data and `logs`, tested on the last days. `kind` ends the run's name."""
    new = deepcopy(dict(cfg))
    data = new["data"]
    new["data"] = {
        "_target_": read, "_convert_": "all",
        "base": data["base"] if data["_target_"] in (READ, READ_WITHOUT_SLATES) else data,
        "folders": [*folders_of(cfg), str(logs.resolve())],
        "forgotten": str(chosen.forgotten.resolve()),
        "liked_from": new["log"]["liked_from"],
    }  # fmt: skip
    new["split"] = {
        "_target_": "data.split.by_days", "_partial_": True, "test_days": chosen.test_days, "validation_days": chosen.validation_days,
        **{key: how for key, how in new["split"].items() if key == "seen_policy"},
    }  # fmt: skip
    name = new["name"].removesuffix(RETRAINED) + RETRAINED
    new |= {
        "name": name,
        "question": f"Is what {new['name']} does better done with the logs up to {stamp}?",
        "resume": None,
        "warm_start": None,
    }
    new["hydra"] = {"run": {"dir": str((chosen.runs / f"{stamp}_{kind}").resolve())}, "output_subdir": None}
    return new


def with_retrieval(cfg: Mapping[str, Any], model: Path) -> dict[str, Any]:
    """A ranker's configuration, to learn beside another retrieval model."""
    new = deepcopy(dict(cfg))
    new["task"]["retrieval"] = new["task"]["datamodule"]["retrieval"] = str(model.resolve())
    return new


def verdict(measured: Mapping[str, Any], gate: Gate) -> str | None:
    """Why the challenger may not challenge, by what `towers.rivals` measured; None where it may.

    It passes where the paired interval's lower end is at least −tolerance of the champion's figure, and where chance filled slots, unless
    the whole interval of the off-policy difference lies below 0.
    """
    if measured["users"] < gate.least_users:
        return f"{measured['users']} test users, fewer than gate.least_users={gate.least_users}: wait for more, or take more test_days"
    found = measured["figures"][gate.figure]
    allowed = -gate.tolerance * found["champion"]
    if not found["low"] >= allowed:  # NaN passes nothing
        return (
            f"{gate.figure} may be worse than gate.tolerance={gate.tolerance} allows: {found['challenger']:.4f} against"
            f" {found['champion']:.4f}, difference {found['difference']:+.4f} with a 95 % interval from {found['low']:+.4f} to"
            f" {found['high']:+.4f}, allowed from {allowed:+.4f}"
        )
    drawn = measured["off_policy"]
    if drawn["slots"] and drawn["high"] < 0:
        return (
            f"in {drawn['slots']} randomised slots it would have been clicked less: {drawn['challenger']:.4f} against"
            f" {drawn['champion']:.4f}, difference from {drawn['low']:+.4f} to {drawn['high']:+.4f}"
        )
    return None
