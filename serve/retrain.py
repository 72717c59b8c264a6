"""The daily job: train on the logs since, measure against the champion, and make it the challenger, or say why not.

    logs        what the store logged since the champion was trained → state/retrain/<stamp>/logs
    retrieval   train.py with the champion's own configuration, its data continued, started warm from its model
    rivals      both models on the last days' users, and in the slots that chance filled: python -m towers.rivals
    gate        may it challenge?
    ranker      train.py with the configuration of the champion's ranker, beside the new retrieval
    export      export.py: a release, held against golden answers, that nobody is served from yet
    challenge   the link

Training and export run as processes of their own, since serving knows no torch. state/retrain/<stamp>/report.json is written anew after
every step. A job that was killed may be run again: under its stamp it goes on, steps that ended well under the same command are not
repeated; under a new one it begins from the champion.
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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.features import DAY_MS
from serve import continuation, publication
from serve.continuation import Reached
from serve.manifest import Manifest, write_whole
from serve.retraining import READ, READ_WITHOUT_SLATES, Retraining, continued, folders_of, verdict, with_retrieval
from serve.store import Store
from serve.triton import PYTORCH

ROOT = Path(__file__).resolve().parent.parent
REFUSED_EXIT = 3
LINES_SHOWN = 6
LEAST_SLATES = 20


class Refused(Exception):
    """This retraining ends here; the message says why. Nothing that is served has changed."""


class Champion(NamedTuple):
    """The current release, the folders of the runs it was made from, and their configurations."""

    version: str
    retrieval: Path
    ranker: Path
    retrieval_cfg: dict[str, Any]
    ranker_cfg: dict[str, Any]
    backend: str


class Report:
    """What is known of a retraining so far, on the disk after every step."""

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


def retrain(store: Store, chosen: Retraining, *, stamp: str | None = None) -> dict[str, Any]:
    """Run the whole job; the report. Its `verdict` is "challenger" (`version` is the release) or "refused" (`why` says so).

    Relative paths in the champion's configuration are read from the working directory, as its training read them.

    Raises:
        StoreError, ReleaseError, OSError: the store or the releases cannot be used. report.json says "running" up to that step.
        BlockingIOError: another retraining is under way here.
    """
    stamp = stamp or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = chosen.folder / stamp
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(chosen.folder):
        report = Report(folder, stamp)
        try:
            version = _job(store, chosen, folder, stamp, report)
        except Refused as error:
            return report.end("refused", str(error))
        report.told["version"] = version
        return report.end("challenger", None)


def _job(store: Store, chosen: Retraining, folder: Path, stamp: str, report: Report) -> str:
    with report.step("champion") as figures:
        champion = champion_of(chosen)
        against = folder / "champion"
        if against.is_file() and against.read_text() != champion.version:
            raise Refused(f"{folder} was begun against release {against.read_text()}, current is {champion.version}: take another stamp")
        write_whole(against, champion.version)
        figures |= {"version": champion.version, "retrieval": str(champion.retrieval), "ranker": str(champion.ranker)}
    with report.step("logs") as figures:
        before = [Path(path) for path in folders_of(champion.retrieval_cfg)]
        reached, counts = continuation.read(folder / "logs") or continuation.write(store, folder / "logs", _since(store, before))
        figures |= {"rows": counts, "reached": asdict(reached)}
        if counts["events"] < chosen.least_events:
            raise Refused(f"{counts['events']} events since the champion was trained, fewer than least_events={chosen.least_events}")
    run = _Runner(chosen, folder)
    model = chosen.runs / f"{stamp}_retrieval" / "model"
    with report.step("retrieval") as figures:
        cfg = continued(champion.retrieval_cfg, chosen, stamp=stamp, kind="retrieval", logs=folder / "logs", read=READ)
        run.train("retrieval", cfg | {"warm_start": str((champion.retrieval / "model").resolve())})
        figures["run"] = str(model.parent)
    with report.step("rivals") as figures:
        log_end = _log_end(chosen.releases / champion.version)
        draws = [str(logs / "draws.parquet") for logs in (*before, folder / "logs")]
        run(
            "rivals", "-m", "towers.rivals", "--run", str(model.parent), "--champion", str(champion.retrieval / "model"),
            "--share", str(chosen.gate.share), "--champion-log-end", str(log_end), "--out", str(folder / "rivals.json"), "--draws", *draws,
        )  # fmt: skip
        measured = json.loads((folder / "rivals.json").read_bytes())
        figures |= measured
    with report.step("gate") as figures:
        figures |= asdict(chosen.gate)
        if why := verdict(measured, chosen.gate):
            raise Refused(why)
    with report.step("ranker") as figures:
        slates = _slates_to_learn_from([*before, folder / "logs"], chosen)
        read = READ if slates else READ_WITHOUT_SLATES
        cfg = continued(champion.ranker_cfg, chosen, stamp=stamp, kind="ranker", logs=folder / "logs", read=read)
        run.train("ranker", with_retrieval(cfg, model))
        figures |= {"run": str(chosen.runs / f"{stamp}_ranker"), "learnt_from": "slates" if slates else "likes beside what was retrieved"}
    with report.step("export") as figures:
        backend = ["backend.path=serve.triton.PYTORCH"] if champion.backend == PYTORCH.name else []
        ranker = chosen.runs / f"{stamp}_ranker" / "model"
        told = {"retrieval": model, "ranker": ranker, "releases": chosen.releases, "hydra.run.dir": chosen.runs / f"{stamp}_export"}
        paths = [f"{key}={_quoted(path)}" for key, path in told.items()]
        if stamp not in publication.versions(chosen.releases):
            run("export", str(ROOT / "export.py"), *paths, f"version={_quoted(stamp)}", "promote=none", *backend, *chosen.export)
        figures["release"] = stamp
    with report.step("challenge"):
        publication.challenge(chosen.releases, stamp)
    return stamp


def champion_of(chosen: Retraining) -> Champion:
    """The current release and the runs it was made from.

    Raises:
        ReleaseError: nothing is published, or its manifest is damaged.
        Refused: the folder of a run is not there.
    """
    version = publication.current(chosen.releases)
    manifest = Manifest.read(chosen.releases / version)
    folders, cfgs = {}, {}
    for kind in ("retrieval", "ranker"):
        folders[kind] = chosen.runs / manifest.runs[kind]
        path = folders[kind] / "config.yaml"
        if not path.is_file() or not (folders[kind] / "model").is_dir():
            raise Refused(f"{path} or model/ beside it is not there: release {version} was made from that run; give runs=, or train anew")
        cfgs[kind] = OmegaConf.to_container(OmegaConf.load(path))
    return Champion(version, folders["retrieval"], folders["ranker"], cfgs["retrieval"], cfgs["ranker"], manifest.backend)


class _Runner:
    """Runs one of the scripts as a process that ends with ours, its words in a file of its own; not again, where it ended well before."""

    def __init__(self, chosen: Retraining, folder: Path) -> None:
        self._chosen, self._folder = chosen, folder

    def train(self, kind: str, cfg: Mapping[str, Any]) -> None:
        name = f"retrain_{kind}"
        text = OmegaConf.to_yaml(OmegaConf.create(dict(cfg)))
        (self._folder / f"{name}.yaml").write_text(text)
        where = ["--config-dir", str(self._folder.resolve()), "--config-name", name]
        self(kind, str(ROOT / "train.py"), *where, *self._chosen.overrides, told=text)

    def __call__(self, step: str, *command: str, told: str = "") -> None:
        path, done_by = self._folder / f"{step}.log", self._folder / f"{step}.done"
        said = json.dumps([*command, told], indent=1)
        if done_by.is_file() and done_by.read_text() == said:
            return
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        nice = ["setpriv", "--pdeathsig", "TERM", "nice", "-n", str(self._chosen.nice)]
        with path.open("w") as log:
            try:
                done = subprocess.run(
                    [*nice, sys.executable, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False,
                    env={**os.environ, "PYTHONPATH": paths}, timeout=60 * self._chosen.timeout_minutes,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise Refused(f"{step} took more than timeout_minutes={self._chosen.timeout_minutes}; see {path}") from error
        if done.returncode:
            end = " ".join(path.read_text(errors="replace").split("\n")[-LINES_SHOWN:]).strip()
            raise Refused(f"{step} ended with {done.returncode}; see {path}, which ends: {end}")
        write_whole(done_by, said)


def _since(store: Store, before: list[Path]) -> Reached:
    """Where the champion's last logs ended; the beginning, where it read none or the store has been begun anew since."""
    if not before:
        return Reached()
    known = continuation.read(before[-1])
    if known is None:
        raise Refused(f"{before[-1]}, which the champion was trained on, is not whole; restore it")
    reached, _ = known
    # or its last event was a forgotten user's: what is then read again is known by its event_id
    begun_anew = reached.events and not len(store.events_since(reached.events - 1, limit=1))
    return Reached() if begun_anew else reached


def _log_end(release: Path) -> int:
    return pl.scan_parquet(release / "histories.parquet").select(pl.col("timestamp").list.max().max()).collect().item() or 0


def _slates_to_learn_from(folders: list[Path], chosen: Retraining) -> bool:
    """Whether enough slates were logged in the validation days, which the ranker learns from, and any in the test days: where there are
    slates it learns from them alone."""
    shown, events = ([pl.scan_parquet(folder / f"{name}.parquet") for folder in folders] for name in ("impressions", "events"))
    end = pl.concat(events).select(pl.col("timestamp").max()).collect().item() + 1
    days_R = pl.concat(shown).select("request_id", days=(end - pl.col("timestamp")) / DAY_MS).unique("request_id").collect()["days"]
    in_test = (days_R <= chosen.test_days).sum()
    return in_test > 0 and (days_R <= chosen.test_days + chosen.validation_days).sum() - in_test >= LEAST_SLATES


def _quoted(value: Path | str) -> str:
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
def _alone(folder: Path) -> Iterator[None]:
    """One retraining at a time; the lock goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, f"{folder}: another retraining is under way; wait for it, or end it") from error
        yield
    finally:
        os.close(descriptor)


def show(told: Mapping[str, Any]) -> None:
    """Print a report: a line for each step, the gate's figures, and what became of it."""
    table = Table("step", "s", "what", title=f"retraining {told['stamp']}", title_justify="left")
    for step in told["steps"]:
        table.add_row(step["step"], f"{step['seconds'] or 0:.1f}", escape(step["why"] or _in_short(step)))
    console = Console()
    console.print(table)
    said = f"challenger: release {told['version']}" if told["verdict"] == "challenger" else f"{told['verdict']}: {told['why']}"
    console.print(said, markup=False)


def _in_short(step: Mapping[str, Any]) -> str:
    figures = step["figures"]
    if step["step"] == "rivals" and figures:
        compared = [
            f"{name} {one['champion']:.4f} → {one['challenger']:.4f} (difference {one['low']:+.4f} to {one['high']:+.4f})"
            for name, one in figures["figures"].items()
        ]
        drawn = figures["off_policy"]
        return "; ".join([f"{figures['users']} users", *compared, drawn.get("said", f"{drawn['slots']} randomised slots")])
    return ", ".join(f"{name} {value}" for name, value in (figures.get("rows") or figures).items())
