"""`precompute`, `refresh`, `retrain`, `forget`: what is done now and then, to everybody or for good."""

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from serve import command_line, publication
from serve import forget as forgetting
from serve import precompute as ahead
from serve import refresh as refreshing_job
from serve import retrain as retraining_job
from serve.commands.parts import engine, store_of
from serve.commands.telling import add, table, tell
from serve.job import quoted
from serve.manifest import ReleaseError
from serve.refresh import refreshing
from serve.retraining import check_installed, retraining
from serve.served import NOBODY
from serve.settings import Settings, SettingsError

logger = logging.getLogger("serve")
REFUSED_EXIT = 3
RETRAIN_SHARES = ("releases", "state", "store")  # what `retrain` tells conf/serve.yaml; all else is conf/retrain.yaml's
STILL_HELD = "still held: "


class Interrupted(Exception):
    """Somebody stopped a job by Ctrl-C. The message says how it goes on."""


def precompute(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Make everybody's slate, and nobody's for those of whom none was made."""
    _check_threads(arguments.threads)
    with _going_on("run it again"):
        version, count = _slates(chosen, arguments.threads)
    tell(arguments.json, {"version": version, "slates": count}, f"{count:,} slates of release {version} are ready")


def _slates(chosen: Settings, threads: int) -> tuple[str, int]:
    with engine(chosen) as made, made.fleet.champion() as served:
        recommender, now = served.recommender, made.now_ms()
        made.store.put_precomputed({NOBODY: recommender.ahead(NOBODY, now)})
        count = ahead.precompute(
            recommender, chosen.state / "precompute.json", now=now, threads=threads,
            tell=lambda done: logger.info("precomputed: %s users", f"{done:,}"),
        )  # fmt: skip
        return recommender.release.manifest.version, count


def refresh(chosen: Settings, arguments: argparse.Namespace) -> int:
    """Make what was logged since a release of the same models, serve it, and make everybody's slate; 3 where it could not be."""
    _check_threads(arguments.threads)
    stamp = _stamp(arguments.stamp)
    job = refreshing([one for one in arguments.overrides if key_of(one) in _keys_of("refresh") or key_of(one) not in _keys_of("serve")])

    check_installed()

    def slates() -> int:
        version, count = _slates(chosen, arguments.threads)
        if version != stamp:
            raise ReleaseError(job.releases / stamp, "current", f"cannot be opened: {version} stands in for it", "see the log above")
        return count

    with store_of(chosen) as store, _going_on(f"go on by --stamp {stamp}"):
        told = refreshing_job.refresh(store, job, stamp=stamp, slates=None if arguments.no_precompute else slates)
    tell(arguments.json, told, _steps(told, refreshing_job.in_short), refreshing_job.said(told))
    return REFUSED_EXIT if told["verdict"] == refreshing_job.REFUSED else 0


def retrain(chosen: Settings, arguments: argparse.Namespace) -> int:
    """Train, evaluate, gate, export, challenge; 3 where the gate refused."""
    stamp = _stamp(arguments.stamp)
    job = retraining([one for one in arguments.overrides if key_of(one) != "store"])
    check_installed()
    with store_of(chosen) as store, _going_on(f"go on by --stamp {stamp}"):
        told = retraining_job.retrain(store, job, stamp=stamp)
    tell(arguments.json, told, _steps(told, retraining_job.in_short), retraining_job.said(told))
    return 0 if told["verdict"] == "challenger" else REFUSED_EXIT


def forget(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Erase a user everywhere, and say what was erased and what a release still holds."""
    folders = [f"releases={quoted(chosen.releases)}", f"state={quoted(chosen.state)}"]
    job = retraining(folders)
    with store_of(chosen) as store:
        told = forgetting.forget(
            arguments.user, store, [job.folder, refreshing(folders).folder, job.runs, Path("mlruns")], releases=chosen.releases,
            forgotten=job.forgotten,
        )  # fmt: skip
    held = {name.removeprefix(STILL_HELD): count for name, count in told.items() if name.startswith(STILL_HELD)}
    erased = {name: count for name, count in told.items() if not name.startswith(STILL_HELD)}
    of = table(f"User {arguments.user} is forgotten", "Rows", "Where", "Erased", numbers=("Rows",))
    for name, count in erased.items():
        add(of, f"{count:,}", name, "yes" if count else "nothing there")
    for name, count in held.items():
        add(of, f"{count:,}", name, "no: a release is sealed")
    said = "No release loaded later brings them back, no training and no refresh reads them."
    tell(arguments.json, {"user_id": arguments.user, "erased": erased, "still_held": held}, of, said)


def _steps(told: Mapping[str, Any], in_short: Callable[[Mapping[str, Any]], str]) -> Table:
    of = table(f"Job {told['stamp']}", "Step", "Seconds", "What", numbers=("Seconds",))
    for step in told["steps"]:
        add(of, step["step"], f"{step['seconds'] or 0:.1f}", "refused" if step["why"] else in_short(step))
    return of


def serve_words(command: str, overrides: list[str]) -> list[str]:
    """Those of a command's overrides that conf/serve.yaml is told."""
    if command == "retrain":
        return [one for one in overrides if key_of(one) in RETRAIN_SHARES]
    if command == "refresh":
        return [one for one in overrides if key_of(one) in _keys_of("serve")]
    return overrides


def key_of(override: str) -> str:
    """The key at the top of what an override changes: rules of +rules.caps.director=3."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def _keys_of(conf: str) -> set[str]:
    return {key.partition(".")[0] for key in command_line.keys(conf)}


def _stamp(given: str | None) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S") if given is None else given
    if not publication.VERSION.fullmatch(stamp):
        raise SettingsError(f"--stamp {stamp!r}: expected up to 100 letters, digits, dots, dashes and underscores, no dot first")
    return stamp


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise SettingsError(f"--threads {threads}: expected at least 1")


@contextmanager
def _going_on(how: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; {how}") from error
