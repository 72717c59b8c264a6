"""What the jobs have in common, `serve.retrain` and `serve.refresh`: what they start from, their report, and the scripts they run.

A job has a folder of its own, state/<kind>/<stamp>/, with report.json, written anew after every step, and every script's log. A job that
was killed may be run again under its stamp: scripts that ended well under the same command are not run again.
"""

import fcntl
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from serve import continuation, publication
from serve.continuation import Reached
from serve.manifest import Manifest, write_whole
from serve.retraining import folders_of
from serve.store import Store
from serve.triton import PYTORCH

ROOT = Path(__file__).resolve().parent.parent
LINES_SHOWN = 6


class Refused(Exception):
    """This job ends here; the message says why. Nothing that is served has changed."""


class Champion(NamedTuple):
    """The current release, the folders of the runs it was made from, and their configurations."""

    version: str
    retrieval: Path
    ranker: Path
    retrieval_cfg: dict[str, Any]
    ranker_cfg: dict[str, Any]
    backend: str


class Report:
    """What is known of a job so far, on the disk after every step."""

    def __init__(self, folder: Path, stamp: str) -> None:
        self.path = folder / "report.json"
        self.told: dict[str, Any] = {"stamp": stamp, "verdict": "running", "why": None, "steps": []}
        self.write()

    def write(self) -> None:
        write_whole(self.path, json.dumps(finite(self.told), indent=1, allow_nan=False))

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """A step, which fills in its figures; written when it ends, well or not."""
        step = {"step": name, "seconds": None, "figures": {}, "why": None}
        self.told["steps"].append(step)
        self.write()
        start = time.monotonic()
        try:
            yield step["figures"]
        except Refused as error:
            step["why"] = str(error)
            raise
        finally:
            step["seconds"] = round(time.monotonic() - start, 2)
            self.write()

    def end(self, said: str, why: str | None) -> dict[str, Any]:
        self.told |= {"verdict": said, "why": why}
        self.write()
        return self.told


class Runner:
    """Runs one of the scripts as a process that ends with ours, its words in a file of its own; not again, where it ended well before."""

    def __init__(self, folder: Path, *, nice: int, timeout_minutes: float) -> None:
        self._folder, self._nice, self._timeout_minutes = folder, nice, timeout_minutes

    def __call__(self, step: str, *command: str, told: str = "") -> None:
        """Run `command`; `told` is what else decides what it does.

        Raises:
            Refused: it did not end well, or not in time.
        """
        path, done_by = self._folder / f"{step}.log", self._folder / f"{step}.done"
        said = json.dumps([*command, told], indent=1)
        if done_by.is_file() and done_by.read_text() == said:
            return
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        nice = ["setpriv", "--pdeathsig", "TERM", "nice", "-n", str(self._nice)]
        with path.open("w") as log:
            try:
                done = subprocess.run(
                    [*nice, sys.executable, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False,
                    env={**os.environ, "PYTHONPATH": paths}, timeout=60 * self._timeout_minutes,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise Refused(f"{step} took more than timeout_minutes={self._timeout_minutes}; see {path}") from error
        if done.returncode:
            end = " ".join(path.read_text(errors="replace").split("\n")[-LINES_SHOWN:]).strip()
            raise Refused(f"{step} ended with {done.returncode}; see {path}, which ends: {end}")
        write_whole(done_by, said)


def champion_of(releases: Path, runs: Path) -> Champion:
    """The current release and the runs it was made from.

    Raises:
        ReleaseError: nothing is published, or its manifest is damaged.
        Refused: the folder of a run is not there.
    """
    version = publication.current(releases)
    manifest = Manifest.read(releases / version)
    folders, cfgs = {}, {}
    for kind in ("retrieval", "ranker"):
        folders[kind] = runs / manifest.runs[kind]
        path = folders[kind] / "config.yaml"
        if not path.is_file() or not (folders[kind] / "model").is_dir():
            raise Refused(f"{path} or model/ beside it is not there: release {version} was made from that run; give runs=, or train anew")
        cfgs[kind] = OmegaConf.to_container(OmegaConf.load(path))
    return Champion(version, folders["retrieval"], folders["ranker"], cfgs["retrieval"], cfgs["ranker"], manifest.backend)


def trained_on(champion: Champion) -> list[Path]:
    """The folders of serving's logs that a champion's models have learned from, oldest first."""
    return [Path(path) for path in folders_of(champion.retrieval_cfg)]


def since(store: Store, before: list[Path]) -> Reached:
    """Where the logs in these folders ended; the beginning, where there are none or the store has been begun anew since.

    Raises:
        Refused: the last folder is not whole.
    """
    if not before:
        return Reached()
    known = continuation.read(before[-1])
    if known is None:
        raise Refused(f"{before[-1]}, which the champion was trained on, is not whole; restore it")
    reached, _ = known
    # or its last event was a forgotten user's: what is then read again is known by its event_id
    begun_anew = reached.events and not len(store.events_since(reached.events - 1, limit=1))
    return Reached() if begun_anew else reached


def export_words(champion: Champion) -> list[str]:
    """What export.py is told so that the release runs where the champion does."""
    return ["backend.path=serve.triton.PYTORCH"] if champion.backend == PYTORCH.name else []


def quoted(value: Path | str) -> str:
    """A value that Hydra reads as it stands, whatever characters it holds."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def finite(told: Any) -> Any:
    """NaN has no word in JSON: null."""
    if isinstance(told, Mapping):
        return {name: finite(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [finite(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """One job of a kind at a time; the lock goes with the process.

    Raises:
        BlockingIOError: another is under way.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, f"{folder}: another {what} is under way; wait for it, or end it") from error
        yield
    finally:
        os.close(descriptor)
