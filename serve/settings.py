"""conf/serve.yaml, read into what it means: an unknown key or a value that cannot be is an error that names the key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import hydra
import limits
from hydra.utils import get_object
from omegaconf import OmegaConf
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from serve import precompute
from serve.ab import arm
from serve.panel import BUDGETS, Budget
from serve.rules import Rules

CONF = Path(__file__).resolve().parent.parent / "conf"
T = TypeVar("T")
Positive = Field(gt=0, allow_inf_nan=False)


def _rate(text: str) -> str:
    limits.parse(text)
    return text


class SettingsError(ValueError):
    """The configuration asks for what cannot be. The message names the key."""


@dataclass(frozen=True, slots=True)
class Triton:
    """Which server runs the models; None starts one here."""

    url: str | None
    timeout_ms: Annotated[float, Positive]


@dataclass(frozen=True, slots=True)
class Arms:
    """Which share of the users is answered by the challenger, while there is one. `salt` names the experiment: another stirs all users
    anew."""

    salt: str
    shares: dict[Literal["champion", "challenger"], float]


Rate = Annotated[str, AfterValidator(_rate)]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what over HTTP. `keys` is the file of `python -m serve key`; administering always needs one. `rates` are of one key or
    address, None without limit; `origins` those of pages elsewhere that a browser may let call."""

    reading: Literal["open", "keyed"]
    writing: Literal["open", "keyed"]
    keys: Path | None
    rates: dict[Literal["reading", "writing", "administering"], Rate | None]
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OwnSource:
    """A source of one's own: what it may cost, and what it is made by, `_target_` and its arguments."""

    candidates: Annotated[int, Positive]
    timeout_ms: Annotated[float, Positive]
    made_by: dict[str, object]

    @property
    def budget(self) -> Budget:
        """What it may cost."""
        return Budget(self.candidates, self.timeout_ms)


def _parted(told: object) -> object:
    """What stands in the file side by side: the budget, and what makes the source."""
    if not isinstance(told, Mapping):
        return told
    costs = ("candidates", "timeout_ms")
    return {key: told[key] for key in costs if key in told} | {"made_by": {key: told[key] for key in told if key not in costs}}


@dataclass(frozen=True, slots=True)
class Settings:
    """The file, field by field; what each means stands there."""

    releases: Path
    state: Path
    store: str | None
    time: Literal["now", "log-end"]
    host: str
    port: Annotated[int, Field(ge=0, le=65_535)]
    deadline_ms: Annotated[float, Positive]
    at_once: Annotated[int, Positive] | None
    history_length: Annotated[int, Positive]
    editorial: Path | None
    judged: Annotated[float, Field(ge=0, le=1)]
    access: Access
    log: Literal["text", "json"]
    triton: Triton
    sources: dict[str, Budget]
    own_sources: dict[str, Annotated[OwnSource, BeforeValidator(_parted)]]
    rules: Rules
    precomputed: precompute.Rule
    arms: Arms


def composed(name: str, kind: type[T], overrides: Sequence[str]) -> T:
    """conf/<name>.yaml with `key=value` overrides, read as a `kind`.

    Raises:
        HydraException, OmegaConfBaseException: an unknown key, or an override that cannot be read.
        SettingsError: a value of the wrong kind or out of bounds.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(name, overrides=list(overrides))
    try:
        return TypeAdapter(kind).validate_python(OmegaConf.to_container(cfg, resolve=True))
    except ValidationError as error:
        found = error.errors()[0]
        key = ".".join(map(str, found["loc"]))
        raise SettingsError(f"{key}={found['input']}: {found['msg'].removeprefix('Input ')}") from error


def settings(overrides: Sequence[str]) -> Settings:
    """conf/serve.yaml with `key=value` overrides. Raises as `composed`."""
    chosen = composed("serve", Settings, overrides)
    try:
        arm("", chosen.arms.salt, chosen.arms.shares)
    except ValueError as error:
        raise SettingsError(f"arms.shares: {error}") from error
    for name, budget in chosen.sources.items():
        if not (budget.candidates > 0 and budget.timeout_ms > 0):
            raise SettingsError(f"sources.{name}={budget}: both should be greater than 0")
    if set(chosen.sources) != set(BUDGETS):
        raise SettingsError(f"sources: expected exactly {', '.join(BUDGETS)}; one of your own belongs to own_sources")
    for name, own in chosen.own_sources.items():
        _check_own(name, own)
    return chosen


def _check_own(name: str, own: OwnSource) -> None:
    key, target = f"own_sources.{name}", own.made_by.get("_target_")
    if name in BUDGETS:
        raise SettingsError(f"{key}: {name} is the name of one of the usual sources; choose another")
    if not isinstance(target, str):
        raise SettingsError(f"{key}: expected _target_, the path of a class such as my_module.MySource")
    try:
        made = get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"{key}._target_={target}: {error}") from error
    if not callable(made):
        raise SettingsError(f"{key}._target_={target}: expected a class, or what makes a source")
