"""The releases of a folder as an operator sees them: what each is, what is served, what a rollback would bring, and whether it was found
whole and answering as it did at export."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serve import golden, publication
from serve.engine import Engine
from serve.limits import InvalidRequest
from serve.manifest import MANIFEST, Manifest, ReleaseError
from serve.publication import VERSION
from serve.recommender import Recommender
from serve.served import Served

CLOSED = ConfigDict(extra="forbid")


class Check(BaseModel):
    """What was found of a release at `at` (ms UTC): when this process opened it, or when somebody asked. `golden` says whether its models
    were asked what was asked at export."""

    model_config = CLOSED

    at: int
    by: Literal["opening", "asked"]
    passed: bool
    golden: bool
    said: str


class ReleaseTold(BaseModel):
    """A release. `serves` are the arms that it answers in this process, `role` what the links in the folder make of it; `before` was
    current before it. `error` says why its manifest cannot be read; then nothing else is known of it."""

    model_config = CLOSED

    version: str
    role: Literal["current", "challenger"] | None
    serves: list[str]
    created_at: str | None
    items: int | None
    backend: str | None
    runs: dict[str, str]
    before: str | None
    check: Check | None
    error: str | None


class ArmFollows(BaseModel):
    """An arm: the release that its link names, the one that answers, and why they differ, where that is known."""

    model_config = CLOSED

    arm: str
    wanted: str | None
    serving: str | None
    error: str | None
    retry_in_s: float | None


class Releases(BaseModel):
    """All releases, the newest first; `rollback_to` is what a rollback would make current, null where nothing was before. `settled` is
    whether every arm of this process serves what its link names."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "current": "20261125-090000", "challenger": None, "rollback_to": "20261118-090000", "settled": True,
                    "arms": [
                        {"arm": "champion", "wanted": "20261125-090000", "serving": "20261125-090000", "error": None, "retry_in_s": None}
                    ],
                    "releases": [
                        {
                            "version": "20261125-090000", "role": "current", "serves": ["champion"],
                            "created_at": "2026-11-25T09:00:00+00:00", "items": 20000, "backend": "python",
                            "runs": {"retrieval": "4f1c…"}, "before": "20261118-090000", "error": None,
                            "check": {
                                "at": 1795600000000, "by": "opening", "passed": True, "golden": True,
                                "said": "whole, and answers as it did at export",
                            },
                        }
                    ],
                }
            ]
        },
    )  # fmt: skip

    current: str | None
    challenger: str | None
    rollback_to: str | None
    settled: bool
    arms: list[ArmFollows]
    releases: list[ReleaseTold]


class ReleaseRoom:
    """The releases that an engine is served from. Remembers what was found of each, for as long as the process lives. Safe to share between
    threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._root = engine, engine.fleet.root
        self._asked: dict[str, Check] = {}
        self._alone = threading.Lock()

    def listed(self) -> Releases:
        """All of them, and how the arms follow.

        Raises:
            ReleaseError: promotions.json cannot be read.
        """
        status, line = self._engine.fleet.status(), self._line()
        challenger = publication.challenger(self._root) if line else None
        told = [self._told(version, line, challenger) for version in publication.versions(self._root)]
        told.sort(key=lambda one: (one.created_at or "", one.version), reverse=True)
        arms = [
            ArmFollows(arm=one.arm, wanted=one.wanted, serving=one.serving, error=one.error, retry_in_s=one.retry_in_s)
            for one in status.arms
        ]
        # the links may have moved after the fleet looked at them last
        links = {"champion": line[0] if line else None, "challenger": challenger}
        serving = {"champion": None, "challenger": None} | {one.arm: one.serving for one in status.arms}
        return Releases(
            current=line[0] if line else None, challenger=challenger, rollback_to=line[1] if len(line) > 1 else None,
            settled=status.whole and serving == links, arms=arms, releases=told,
        )  # fmt: skip

    def one(self, version: str) -> ReleaseTold:
        """One of them. Raises InvalidRequest, NoSuchRelease, ReleaseError."""
        named(version)
        publication.published(self._root, version)
        line = self._line()
        return self._told(version, line, publication.challenger(self._root) if line else None)

    def check(self, version: str) -> Check:
        """Read every file of a release and, where it is loaded here, ask its models what was asked at export. One at a time.

        Raises:
            InvalidRequest, NoSuchRelease: there is none of this name.
            TritonError: its models do not answer now, so nothing was found out.
        """
        named(version)
        folder = publication.published(self._root, version)
        with self._alone:
            try:
                publication.verify(folder)
                with self._loaded(version) as served:
                    asked, said = (
                        (False, "whole; its models were not asked, for it is not loaded here") if served is None else _asked(served)
                    )
                found = Check(at=_now_ms(), by="asked", passed=True, golden=asked, said=said)
            except ReleaseError as error:
                found = Check(at=_now_ms(), by="asked", passed=False, golden=error.file.startswith("golden"), said=error.plain)
            self._asked[version] = found
        return found

    def move(self, version: str, how: Callable[[Path, str], None]) -> Releases:
        """Have `how` (publication.promote or challenge) move a link to a release. Raises InvalidRequest, NoSuchRelease, ReleaseError."""
        named(version)
        publication.published(self._root, version)
        how(self._root, version)
        return self.listed()

    def rollback(self) -> Releases:
        """Go back to what was current before. Raises ReleaseError."""
        publication.rollback(self._root)
        return self.listed()

    def withdraw(self) -> Releases:
        """Serve the current release alone. Raises ReleaseError: nothing challenges it."""
        if publication.drop_challenger(self._root) is None:
            raise ReleaseError(self._root.name, publication.CHALLENGER, "is not there: nothing challenges", "nothing needs to be done")
        return self.listed()

    def _line(self) -> tuple[str, ...]:
        """The current version and those before it; none where nothing was published."""
        return publication.line(self._root) if (self._root / publication.CURRENT).is_symlink() else ()

    def _told(self, version: str, line: tuple[str, ...], challenger: str | None) -> ReleaseTold:
        serves = [one.arm for one in self._engine.fleet.status().arms if one.serving == version]
        role = "current" if line and line[0] == version else "challenger" if challenger == version else None
        before = line[line.index(version) + 1] if version in line[:-1] else None
        told = {"version": version, "role": role, "serves": serves, "before": before, "check": self._last(version)}
        try:
            path = self._root / version
            manifest = _manifest(path, (path / MANIFEST).stat().st_mtime_ns)
        except (ReleaseError, OSError) as error:
            said = error.plain if isinstance(error, ReleaseError) else f"{MANIFEST} cannot be read ({error.strerror})"
            return ReleaseTold(**told, created_at=None, items=None, backend=None, runs={}, error=said)
        return ReleaseTold(
            **told,
            created_at=manifest.created_at,
            items=manifest.item_count,
            backend=manifest.backend,
            runs=dict(manifest.runs),
            error=None,
        )

    def _last(self, version: str) -> Check | None:
        """What was found last, by opening or because somebody asked."""
        found = [self._asked[version]] if version in self._asked else []
        for one in self._engine.fleet.status().arms:
            if one.serving == version and one.opened_at is not None:
                said = "whole, and answers as it did at export"
                found.append(Check(at=one.opened_at, by="opening", passed=True, golden=True, said=said))
            if one.wanted == version and one.error is not None:
                said = one.error.replace(f"{self._root}/", "")
                found.append(Check(at=_now_ms(), by="opening", passed=False, golden=False, said=said))
        return max(found, key=lambda one: one.at, default=None)

    @contextmanager
    def _loaded(self, version: str) -> Iterator[Served | None]:
        """What answers of a release in some arm, held until the end of the block; None where it is not loaded whole."""
        with ExitStack() as stack:
            served = None
            for arm in (one.arm for one in self._engine.fleet.status().arms if one.serving == version):
                with suppress(LookupError):  # it moved on
                    served = stack.enter_context(self._engine.fleet.preview(arm))
            whole = isinstance(served, Served) and served.recommender.release.manifest.version == version
            yield served if whole else None


def named(version: str) -> None:
    """Raises InvalidRequest unless a release can be called so: before any path is made of it."""
    if not VERSION.fullmatch(version) or version in (publication.CURRENT, publication.CHALLENGER):
        raise InvalidRequest("version", "is no name of a release: up to 100 letters, digits, dots, dashes and underscores, no dot first.")


def _asked(served: Served) -> tuple[bool, str]:
    """(True, what was found) of a release whose models answer as at export. Raises ReleaseError where they answer otherwise, TritonError
    where they do not answer."""
    recommender = served.recommender
    release = recommender.release
    patient = Recommender.patient(release, recommender.scorer.client.url, store=recommender.store)
    try:
        release.check_golden(patient.scorer.client)
        posted = len(release.catalogue) - release.catalogue.sealed_count
        if posted:  # they may rightly stand in a slate that was recorded before they were there
            return (
                True,
                f"whole, and its models answer as at export; whole slates were not compared, for {posted:,} items were posted since",
            )
        golden.check_slates(patient)
    finally:
        patient.close()
    return True, "whole, and answers as it did at export"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@lru_cache(256)
def _manifest(folder: Path, _: int) -> Manifest:
    """As of the time it was last changed."""
    return Manifest.read(folder)
