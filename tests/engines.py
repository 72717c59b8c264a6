"""A whole engine over a small release: real Triton, real store, as `python -m serve up` has it, with deadlines that a busy machine can
keep."""

import atexit
import functools
import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from serve import local_triton
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


@functools.cache
def small_triton() -> str:
    """The address of a real Triton with the models of every small release of seed 3 and width 8, for as long as this process lives: what
    they answer hangs neither on items nor on version, and whoever opens a release compares its golden answers. Most of a Triton's start is
    three processes that import torch."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    models = write_release(folder / "v1", seed=3) / "triton"
    server = local_triton.start(models, log_path=folder / "triton.log", models=("user_tower", "item_tower", "ranker"))
    atexit.register(server.close)
    return server.grpc_url


def started(releases: Path, state: Path, *overrides: str, retry_s: float = 0.2) -> AbstractContextManager[Engine]:
    """An engine as it stands behind HTTP, over releases of `published`. `overrides` come last, so they hold: triton.url=null has it start
    a Triton for each of its releases, as it does where nobody gives it one."""
    told = [*PATIENT, f"releases={releases}", f"state={state}", "editorial=null"]
    if not any(word.startswith("triton.url=") for word in overrides):
        told.append(f"triton.url={small_triton()}")
    return engine(settings([*told, *overrides]), stand_in=last_resort, retry_s=retry_s)
