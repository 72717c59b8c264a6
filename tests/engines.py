"""A whole engine over a small release: real Triton, real store, as `python -m serve up` has it, with deadlines that a busy machine can
keep."""

from contextlib import AbstractContextManager
from pathlib import Path

from serve.commands import engine
from serve.engine import Engine
from serve.panel import BUDGETS
from serve.publication import publish
from serve.served import last_resort
from serve.settings import settings
from tests.releases import write_release

PATIENT = ("triton.timeout_ms=10000", "deadline_ms=20000", "time=log-end", *(f"sources.{name}.timeout_ms=10000" for name in BUDGETS))


def published(root: Path, *versions: str, **size) -> Path:
    """The folder of releases with these in it, the last current."""
    for version in versions:
        publish(write_release(root / f".staging-{version}", version=version, **{"items": 60, "room": 20, "seed": 3} | size), root, version)
    return root


def started(releases: Path, state: Path, *overrides: str, retry_s: float = 0.2) -> AbstractContextManager[Engine]:
    """An engine as it stands behind HTTP. `overrides` come last, so they hold."""
    return engine(
        settings([*PATIENT, f"releases={releases}", f"state={state}", "editorial=null", *overrides]), stand_in=last_resort, retry_s=retry_s
    )
