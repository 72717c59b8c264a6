"""What operators ask and do: the console's numbers, how the arms compare, and which release is served. Moving releases needs an admin's
key; this process and every other that shares the folder follow the links within a second or two."""

import math
import threading
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from serve import publication
from serve.ab import ArmReport, Estimate
from serve.api.access import Door
from serve.api.documents import says
from serve.api.queries import NoQuery
from serve.engine import Engine
from serve.pulse import RECALL_WINDOW_S, WINDOW_S, Point, Pulse
from serve.releases import Check, ReleaseRoom, Releases, ReleaseTold

REPORT_S = 60.0
SHARE_OF_TIME = 0.05
"""That reports of the arms may take: they read the whole log, so one that took a second is shown for twenty at least."""
CLOSED = ConfigDict(extra="forbid")
NO_STORE = {"Cache-Control": "no-store"}
Version = Annotated[str, InPath(description="The name of a release.", min_length=1)]
Nothing = Annotated[NoQuery, Query()]


class ConsoleQuery(BaseModel):
    """Only what happened after `since` (ms UTC): the `at` of the last point that the caller has."""

    model_config = CLOSED

    since: Annotated[int, Field(ge=0)] = 0


class Console(BaseModel):
    """The last half hour of one process, a point for every `every_seconds`; percentiles are of the trailing `window_seconds`, recall of
    `recall_window_seconds`. `process` names it: behind a load balancer, two answers may be of two. `parts` are as of the last point."""

    model_config = CLOSED

    process: str
    now: int
    uptime_seconds: float
    model_version: str
    challenger: str | None
    ready: bool
    parts: dict[str, str]
    every_seconds: float
    window_seconds: float
    recall_window_seconds: float
    points: list[Point]


class Interval(BaseModel):
    """A figure's difference to the champion, and its 95 % interval; null where there is too little to say it from."""

    model_config = CLOSED

    value: float | None
    low: float | None
    high: float | None


class Arm(BaseModel):
    """What came of an arm's slates; `differences` are to the champion, and none for the champion itself."""

    model_config = CLOSED

    arm: str
    users: int
    slates: int
    figures: dict[str, float | None]
    differences: dict[str, Interval]


class Experiments(BaseModel):
    """How the arms compare as of `at` (ms UTC), from the log of what was shown and the events since; `shares` are those they should have.
    `mismatch_p` is the probability of users parted so unevenly: below 0.001 no difference means anything. `refused` says why there is no
    report."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "at": 1795600000000, "shares": {"champion": 0.9, "challenger": 0.1}, "mismatch_p": 0.42, "users_in_several_arms": 0,
                    "events_unmatched": 3, "refused": None,
                    "arms": [
                        {"arm": "champion", "users": 900, "slates": 4100, "figures": {"click_through": 0.31}, "differences": {}},
                        {
                            "arm": "challenger", "users": 103, "slates": 480, "figures": {"click_through": 0.34},
                            "differences": {"click_through": {"value": 0.03, "low": -0.01, "high": 0.07}},
                        },
                    ],
                }
            ]
        },
    )  # fmt: skip

    at: int
    shares: dict[str, float]
    arms: list[Arm]
    mismatch_p: float | None
    users_in_several_arms: int
    events_unmatched: int
    refused: str | None


class Reports:
    """Reports of the arms, made when asked for and kept for a while. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._made: Experiments | None = None
        self._until_s = 0.0

    def newest(self) -> Experiments:
        """One that is at most a minute old, or twenty times as old as it took to make. Raises StoreError."""
        with self._lock:
            if self._made is None or time.monotonic() >= self._until_s:
                start = time.monotonic()
                self._made = self._report()
                took_s = time.monotonic() - start
                self._until_s = time.monotonic() + max(REPORT_S, took_s / SHARE_OF_TIME)
            return self._made

    def _report(self) -> Experiments:
        shares, at = dict(self._engine.fleet.shares), time.time_ns() // 1_000_000
        nothing = Experiments(at=at, shares=shares, arms=[], mismatch_p=None, users_in_several_arms=0, events_unmatched=0, refused=None)
        try:
            told = self._engine.reported(self._engine.store, shares)
        except ValueError as error:  # the log has arms of another assignment
            self._engine.gauges.mismatch(None)
            return nothing.model_copy(update={"refused": f"{error}."})
        self._engine.gauges.mismatch(told.mismatch_p)
        return nothing.model_copy(
            update={
                "arms": [_arm(one) for one in told.arms], "mismatch_p": told.mismatch_p,
                "users_in_several_arms": told.users_in_several_arms, "events_unmatched": told.events_unmatched,
            }
        )  # fmt: skip


def operations(engine: Engine, door: Door, pulse: Pulse) -> APIRouter:
    """The routes of the console. `pulse` is kept beating by whoever made it."""
    router, room, reports = APIRouter(), ReleaseRoom(engine), Reports(engine)
    reading = {"dependencies": [Depends(door.reading)]}
    administering = {"dependencies": [Depends(door.administering)]}

    @router.get("/v1/console", **says(Console), **reading, summary="How does this process do?")
    def console(query: Annotated[ConsoleQuery, Query()]) -> Response:
        challenger = next((one.serving for one in engine.fleet.status().arms if one.arm == "challenger"), None)
        now = time.time()
        told = Console(
            process=pulse.process, now=int(1000 * now), uptime_seconds=round(now - pulse.started_s, 1), model_version=pulse.model_version,
            challenger=challenger, ready=pulse.ready, parts=pulse.parts, every_seconds=pulse.every_s, window_seconds=WINDOW_S,
            recall_window_seconds=RECALL_WINDOW_S, points=pulse.points(query.since),
        )  # fmt: skip
        return _json(told)

    @router.get("/v1/experiments", **says(Experiments), **reading, summary="Is the challenger better?")
    def experiments(query: Nothing) -> Response:
        return _json(reports.newest())

    @router.get("/v1/releases", **says(Releases, 409), **reading, summary="Which releases are there, and which is served?")
    def releases(query: Nothing) -> Response:
        return _json(room.listed())

    @router.post("/v1/releases/rollback", **says(Releases, 409), **administering, summary="Go back to the release before")
    def rollback(query: Nothing) -> Response:
        return _json(room.rollback())

    @router.post("/v1/releases/withdraw", **says(Releases, 409), **administering, summary="Have nothing challenge the current release")
    def withdraw(query: Nothing) -> Response:
        return _json(room.withdraw())

    @router.post("/v1/releases/{version:path}/check", **says(Check, 404), **administering, summary="Is a release whole?")
    def check(version: Version, query: Nothing) -> Response:
        return _json(room.check(version))

    @router.post("/v1/releases/{version:path}/promote", **says(Releases, 404, 409), **administering, summary="Make a release current")
    def promote(version: Version, query: Nothing) -> Response:
        return _json(room.move(version, publication.promote))

    @router.post(
        "/v1/releases/{version:path}/challenge", **says(Releases, 404, 409), **administering, summary="Try a release on some users"
    )
    def challenge(version: Version, query: Nothing) -> Response:
        return _json(room.move(version, publication.challenge))

    @router.get("/v1/releases/{version:path}", **says(ReleaseTold, 404, 409), **reading, summary="What is known of a release?")
    def release(version: Version, query: Nothing) -> Response:
        return _json(room.one(version))

    return router


def _arm(one: ArmReport) -> Arm:
    return Arm(
        arm=one.arm, users=one.users, slates=one.slates, figures={name: _finite(value) for name, value in one.figures.items()},
        differences={name: _interval(gap) for name, gap in one.differences.items()},
    )  # fmt: skip


def _interval(gap: Estimate) -> Interval:
    return Interval(value=_finite(gap.value), low=_finite(gap.low), high=_finite(gap.high))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _json(told: BaseModel) -> Response:
    fields: dict[str, Any] = told.model_dump()
    return JSONResponse(fields, headers=NO_STORE)
