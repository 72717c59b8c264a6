"""The hourly job: the same trained models in the world as it is now. A release of what the store logged since, published.

    release     what is served, and the runs it was made from; what is new since
    logs        what the store logged since those runs were trained → state/refresh/<stamp>/logs
    export      export.py: posted items in the catalogue, their rows by the item tower, histories, popularity, trends, indexes and quiz
                anew, held against golden answers
    publish     the link `current`, unless something else was promoted meanwhile
    slates      everybody's, ahead of their requests

Every refresh continues the log that the models were trained on, not the refresh before it, so none hands its faults to the next. A job that
was killed goes on under its stamp. Whatever fails, what is served is served on.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from data.schema import user_digest
from serve import continuation, publication
from serve.continuation import Reached
from serve.forget import FORGOTTEN
from serve.job import ROOT, Champion, Refused, Report, Runner, alone, champion_of, export_words, quoted, since, trained_on
from serve.manifest import write_whole
from serve.settings import composed
from serve.store import Store

REFRESHED, NOTHING_NEW, REFUSED = "refreshed", "nothing new", "refused"
TABLES = ("events", "impressions", "draws", "items")


@dataclass(frozen=True, slots=True)
class Refreshing:
    """conf/refresh.yaml, field by field; what each means stands there."""

    releases: Path
    state: Path
    runs: Path
    export: tuple[str, ...]
    nice: Annotated[int, Field(ge=0, le=19)]
    timeout_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def folder(self) -> Path:
        """Where every refresh has a folder of its own."""
        return self.state / "refresh"

    @property
    def forgotten(self) -> Path:
        """The digests of the users that are to be left out, one file for all jobs: see `serve.forget`."""
        return self.state / "retrain" / FORGOTTEN


def refreshing(overrides: list[str]) -> Refreshing:
    """conf/refresh.yaml with `key=value` overrides. Raises as `serve.settings.composed`."""
    return composed("refresh", Refreshing, overrides)


def refresh(
    store: Store, chosen: Refreshing, *, stamp: str | None = None, slates: Callable[[], int] | None = None
) -> dict[str, Any]:  # fmt: skip
    """Run the whole job; the report. Its `verdict` is "refreshed" (`version` is the release), "nothing new" (nothing was published) or
    "refused" (`why` says so). `slates` makes everybody's slate once the release is current; how many.

    Raises:
        StoreError, ReleaseError, OSError: the store or the releases cannot be used. report.json says "running" up to that step.
        BlockingIOError: another refresh is under way here.
    """
    stamp = stamp or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = chosen.folder / stamp
    folder.mkdir(parents=True, exist_ok=True)
    with alone(chosen.folder, "refresh"):
        ended = _verdict(folder)
        report = Report(folder, stamp)
        try:
            if not _release(store, chosen, folder, stamp, report, ended):
                return report.end(NOTHING_NEW, None)
        except Refused as error:
            return report.end(REFUSED, str(error))
        report.told["version"] = stamp
        if slates is not None:
            with report.step("slates") as figures:
                figures["users"] = slates()
        return report.end(REFRESHED, None)


def _release(store: Store, chosen: Refreshing, folder: Path, stamp: str, report: Report, ended: str | None) -> bool:
    """Have a release of this stamp current; whether there was any need."""
    with report.step("release") as figures:
        champion = champion_of(chosen.releases, chosen.runs)
        figures |= {"version": champion.version, "retrieval": str(champion.retrieval), "ranker": str(champion.ranker)}
        if champion.version == stamp:
            return True
        against = folder / "against"
        if ended == REFRESHED or (against.is_file() and against.read_text() != champion.version):
            begun = against.read_text() if against.is_file() else "another"
            raise Refused(f"{folder} was begun against release {begun}, current is {champion.version}: take another stamp")
        figures["new"] = new = _news(store, chosen, champion)
        if not any(new.values()):
            return False
        write_whole(against, champion.version)
    with report.step("logs") as figures:
        reached, counts = continuation.read(folder / "logs") or continuation.write(
            store, folder / "logs", since(store, trained_on(champion))
        )  # fmt: skip
        figures |= {"rows": counts, "reached": asdict(reached)}
    with report.step("export") as figures:
        told = {
            "retrieval": champion.retrieval / "model", "ranker": champion.ranker / "model", "releases": chosen.releases,
            "forgotten": chosen.forgotten, "hydra.run.dir": folder / "export", "version": stamp,
        }  # fmt: skip
        words = [*(f"{key}={quoted(value)}" for key, value in told.items()), f"logs=[{quoted(folder / 'logs')}]", "promote=none"]
        if stamp not in publication.versions(chosen.releases):
            run = Runner(folder, nice=chosen.nice, timeout_minutes=chosen.timeout_minutes)
            run("export", str(ROOT / "export.py"), *words, *export_words(champion), *chosen.export)
        figures["release"] = stamp
    with report.step("publish"):
        if (now := publication.current(chosen.releases)) != champion.version:
            raise Refused(f"release {now} became current meanwhile; {stamp} lies there, and the next refresh begins from {now}")
        publication.promote(chosen.releases, stamp)
    for name in TABLES:  # the store has them; written.json stays and says how far this release has read
        (folder / "logs" / f"{name}.parquet").unlink(missing_ok=True)
    return True


def _news(store: Store, chosen: Refreshing, champion: Champion) -> dict[str, bool | int]:
    """What the current release does not know of: whether there are events, slates and items since, and how many users it still holds that
    are to be forgotten."""
    own = chosen.folder / champion.version / "logs"
    known: Reached = since(store, [own] if continuation.read(own) else trained_on(champion))
    return {
        "events": len(store.events_since(known.events, limit=1)) > 0,
        "slates": bool(store.slates_since(known.slates, limit=1)),
        "items": bool(store.items_since(known.items, limit=1)),
        "forgotten": _still_held(chosen.releases / champion.version, chosen.forgotten),
    }


def _still_held(release: Path, forgotten: Path) -> int:
    if not forgotten.is_file():
        return 0
    digests = set(forgotten.read_text().split())
    users = pl.concat([pl.read_parquet(release / f"{name}.parquet", columns=["user_id"]) for name in ("histories", "users")])
    return sum(user_digest(user_id) in digests for user_id in users["user_id"].unique())


def _verdict(folder: Path) -> str | None:
    """What an earlier run under this stamp came to."""
    try:
        return json.loads((folder / "report.json").read_bytes())["verdict"]
    except FileNotFoundError:
        return None


def said(told: Mapping[str, Any]) -> str:
    """What became of a job, by its report, in a line."""
    match told["verdict"]:
        case "refreshed":
            return f"release {told['version']} is current"
        case "nothing new":
            return "nothing is new since the current release: nothing was published"
    return f"{told['verdict']}: {told['why']}"


def in_short(step: Mapping[str, Any]) -> str:
    """A step's figures in a line."""
    figures = step["figures"].get("rows") or step["figures"]
    return ", ".join(f"{name} {value}" for name, value in figures.items() if not isinstance(value, dict))
