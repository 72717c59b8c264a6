"""The last half hour of this process, for whoever opens the console: every few seconds what `serve.gauges` counted since the time before.

The numbers are those that Prometheus reads. Percentiles are found as PromQL's histogram_quantile finds them, over the trailing minute: a
few seconds of little traffic have no percentiles worth drawing.
"""

import logging
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from serve.engine import Engine
from serve.gauges import Reading
from serve.vitals import Vitals

logger = logging.getLogger(__name__)
EVERY_S, KEEP_S = 5.0, 1_800.0
WINDOW_S = 60.0
"""Of percentiles."""
RECALL_WINDOW_S = 600.0
"""Of the index's recall: a hundredth of the queries are judged."""
RECALL = ("towers_index_recall_count", "towers_index_recall_sum")
COUNTED = {
    "answers": "towers_answers_total", "lacking": "towers_lacking_total", "precomputed": "towers_precomputed_total",
    "arms": "towers_arm_answers_total", "refused": "towers_refused_total", "proposed": "towers_proposed_total",
    "shown": "towers_shown_total", "dropped": "towers_dropped_total", "missing": "towers_source_missing_total",
    "events": "towers_events_total", "lost": "towers_lost_total",
}  # fmt: skip
"""The counters of a point: what stands in it, by the metric it is the growth of."""
FROZEN = ConfigDict(extra="forbid", frozen=True)
Key = tuple[str, ...]


class Percentiles(BaseModel):
    """Of the observations of the trailing minute: how many, and below how many seconds a half, 95 and 99 of a hundred lay."""

    model_config = FROZEN

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class Recall(BaseModel):
    """Queries that were searched exactly too within the last ten minutes, and the mean share of the exact nearest that the index found."""

    model_config = FROZEN

    queries: int
    mean: float | None


class ArmStands(BaseModel):
    """An arm at the end of the point's time: its release, when that was exported (s since 1970 UTC), requests it is answering; and of what
    it showed within the last hour the share of the catalogue and the ages in seconds."""

    model_config = FROZEN

    arm: str
    version: str
    in_flight: int
    created_s: float | None
    items: int | None
    coverage: float | None
    newest_age_s: float | None
    median_age_s: float | None


class Point(BaseModel):
    """`seconds` of this process up to `at` (ms UTC). Counts are of these seconds, what is 0 is left out; `fallbacks` are answers that
    lacked a part; `missing` counts by "source: why". What waits, and the age of the live counts, is as it was at the end."""

    model_config = FROZEN

    at: int
    seconds: float
    answers: dict[str, int]
    fallbacks: int
    lacking: dict[str, int]
    precomputed: dict[str, int]
    arms: dict[str, int]
    refused: dict[str, int]
    proposed: dict[str, int]
    shown: dict[str, int]
    dropped: dict[str, int]
    missing: dict[str, int]
    events: dict[str, int]
    lost: dict[str, int]
    latency: dict[str, Percentiles]
    stored_lag: Percentiles
    known_lag: Percentiles
    recall: Recall
    standing: list[ArmStands]
    turns_waiting: int
    slates_waiting: int
    live_counts_age_s: float | None


class Beat(NamedTuple):
    """One reading: when, by `time.monotonic` and by the clock on the wall (ms UTC), and what was read."""

    at_s: float
    at_ms: int
    read: Reading


class Pulse:
    """Safe to share between threads. `points`, `ready`, `parts` and `model_version` are as of the last beat; before the first there is
    nothing to say."""

    def __init__(self, engine: Engine, *, every_s: float = EVERY_S, keep_s: float = KEEP_S) -> None:
        self.every_s, self.started_s = every_s, time.time()
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        self.ready, self.parts, self.model_version = False, {}, "none"
        self._engine = engine
        self._minute: deque[Beat] = deque(maxlen=1 + math.ceil(WINDOW_S / every_s))
        self._judged: deque[Beat] = deque(maxlen=1 + math.ceil(RECALL_WINDOW_S / every_s))  # of the recall alone: a whole one is large
        self._points: deque[Point] = deque(maxlen=math.ceil(keep_s / every_s))
        self._beating = threading.Lock()

    def points(self, since: int = 0) -> list[Point]:
        """What is remembered after `since` (ms UTC), oldest first."""
        return [point for point in list(self._points) if point.at > since]

    def beat(self) -> None:
        """Read everything once, and remember what happened since the last time."""
        with self._beating:
            self.ready, told = self._engine.readiness()
            self.parts, self.model_version = told["parts"], told["model_version"]
            now = Beat(time.monotonic(), time.time_ns() // 1_000_000, self._engine.gauges.read())
            if self._minute:
                self._points.append(point(tuple(self._minute), tuple(self._judged), now, self._engine.vitals()))
            self._minute.append(now)
            self._judged.append(now._replace(read={name: now.read[name] for name in RECALL}))

    @contextmanager
    def beating(self) -> Iterator[None]:
        """`beat` every `every_s` seconds while the block lasts, from a thread that ends with it."""
        stopping = threading.Event()

        def run() -> None:
            due = time.monotonic()
            while not stopping.wait(max(due - time.monotonic(), 0.0)):
                self.beat()
                due = max(due + self.every_s, time.monotonic())

        thread = threading.Thread(target=run, name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()


def point(before: Sequence[Beat], judged: Sequence[Beat], now: Beat, stands: Vitals) -> Point:
    """What happened between the last of the beats `before`, oldest first, and `now`; recall since the beats `judged`."""
    last, minute, ten = before[-1], _from(before, now, WINDOW_S), _from(judged, now, RECALL_WINDOW_S)
    queries, found = (_grown(now, ten, name).get((), 0.0) for name in RECALL)
    counted = {name: {": ".join(key): round(value) for key, value in _grown(now, last, metric).items()} for name, metric in COUNTED.items()}
    stages = {key[0] for key in now.read.get("towers_request_seconds_count", {})}
    latency = {stage: _percentiles(now, minute, "towers_request_seconds", (stage,)) for stage in sorted(stages)}
    told = asdict(stands)
    return Point(
        at=now.at_ms, seconds=round(now.at_s - last.at_s, 3), **counted,
        fallbacks=round(_grown(now, last, "towers_fallbacks_total").get((), 0.0)),
        latency={stage: one for stage, one in latency.items() if one.count},
        stored_lag=_percentiles(now, minute, "towers_event_stored_lag_seconds", ()),
        known_lag=_percentiles(now, minute, "towers_event_known_lag_seconds", ()),
        recall=Recall(queries=round(queries), mean=round(found / queries, 4) if queries else None),
        standing=[ArmStands(**arm) for arm in told.pop("arms")], **told,
    )  # fmt: skip


def quantile(q: float, count_of: Mapping[float, float]) -> float:
    """The q-quantile of observations of which `count_of[edge]` are at most `edge`: linear within the bucket where it lies, as PromQL's
    histogram_quantile has it. The first bucket begins at 0; what lies beyond the last finite edge is told as that edge; NaN of none.

    https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
    """
    edges = sorted(count_of)
    total = count_of[edges[-1]] if edges else 0.0
    if not total:
        return math.nan
    rank, below, start = q * total, 0.0, 0.0
    for edge in edges:
        if count_of[edge] >= rank:
            break
        below, start = count_of[edge], edge
    if math.isinf(edge):
        return start
    within = count_of[edge] - below
    return start + (edge - start) * (rank - below) / within if within else start


def _from(before: Sequence[Beat], now: Beat, window_s: float) -> Beat:
    """The latest beat that is at least `window_s` before now; the first there is where none is."""
    return next((beat for beat in reversed(before) if now.at_s - beat.at_s >= window_s - 1e-3), before[0])


def _grown(now: Beat, since: Beat, metric: str) -> dict[Key, float]:
    """How much each of a metric's counters grew; those that did not are left out."""
    earlier = since.read.get(metric, {})
    grown = {key: value - earlier.get(key, 0.0) for key, value in now.read.get(metric, {}).items()}
    return {key: value for key, value in grown.items() if value}


def _percentiles(now: Beat, since: Beat, metric: str, labels: Key) -> Percentiles:
    """Of the observations of one histogram between two beats; `labels` are those before the bucket's edge."""
    later, earlier = now.read.get(f"{metric}_bucket", {}), since.read.get(f"{metric}_bucket", {})
    count_of = {float(key[-1]): value - earlier.get(key, 0.0) for key, value in later.items() if key[:-1] == labels}
    found = {f"p{percent}": quantile(percent / 100, count_of) for percent in (50, 95, 99)}
    told = {name: None if math.isnan(value) else round(value, 6) for name, value in found.items()}
    return Percentiles(count=round(max(count_of.values(), default=0.0)), **told)
