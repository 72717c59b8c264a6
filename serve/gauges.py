"""What operations watches, for Prometheus: how long answers take and where, how they were made, what was left out, what came back, and how
things stand. `serve.pulse` keeps the last half hour of the same numbers for the console.

No label holds a user, an item or a request: every label has a few dozen values at most, all of them words of this program.
"""

import threading
from collections import Counter as Counting
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary, generate_latest

from serve.contract import Slate
from serve.vitals import Vitals

BUCKETS_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
"""No bucket from 1 to 500 ms is wider than twice its beginning; the objectives, 200 and 500 ms, are edges."""
LAG_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0, 86_400.0)
Reading = Mapping[str, Mapping[tuple[str, ...], float]]
"""The value of every sample by its name and its label's values, in the order in which they were declared."""


class Gauges:
    """Counters of one process. Each instance has a registry of its own, so that two in one program do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reading, self._asked = threading.Lock(), []
        ProcessCollector(registry=self._registry)
        self._seconds = self._histogram("towers_request_seconds", "Time to make an answer; stage 'total' is the whole.", BUCKETS_S, "stage")
        self._answers = self._counter("towers_answers", "Answers by how they were made.", "answered_by")
        self._fallbacks = self._counter("towers_fallbacks", "Answers that were made without some part.")
        self._lacking = self._counter("towers_lacking", "Answers by a part they were made without.", "part")
        self._ahead = self._counter("towers_precomputed", "Requests by what came of the precomputed slate: used, or why not.", "outcome")
        self._arms = self._counter("towers_arm_answers", "Answers by the arm that made them.", "arm")
        self._proposed = self._counter("towers_proposed", "Candidates, by each source that proposed them.", "source")
        self._sources = self._counter("towers_shown", "Items shown, by each source that proposed them.", "source")
        self._missing = self._counter("towers_source_missing", "Answers made without a source, by why.", "source", "why")
        self._drawn = self._counter("towers_explored", "Explore slots shown, by whether chance drew.", "drawn")
        self._dropped = self._counter("towers_dropped", "Candidates left out of answers, by reason.", "reason")
        self._recall = Summary("towers_index_recall", "Of the exact nearest, what the index found, a query.", registry=self._registry)
        self._parts = self._gauge("towers_part_ready", "1 where a part is in its place.", "part")
        self._lost = self._counter("towers_lost", "What could not be kept, by what it was.", "what")
        self._events = self._counter("towers_events", "Events received, by what became of them.", "outcome")
        self._future = self._counter("towers_future_events", "Events of a time that had not come yet; their lag counts as none.")
        self._stored = self._histogram("towers_event_stored_lag_seconds", "From an event's own time until it was stored.", LAG_BUCKETS_S)
        self._known = self._histogram("towers_event_known_lag_seconds", "From stored until the live counts knew it.", LAG_BUCKETS_S)
        self._refused = self._counter("towers_refused", "Requests refused, by HTTP status.", "status")
        self._info = self._gauge("towers_release_info", "1; the release that an arm is answered by.", "arm", "version")
        self._created = self._gauge("towers_release_created_timestamp_seconds", "When an arm's release was exported.", "arm")
        self._in_flight = self._gauge("towers_requests_in_flight", "Requests that an arm is answering now.", "arm")
        self._items = self._gauge("towers_catalogue_items", "Items of an arm's catalogue, those posted since included.", "arm")
        self._coverage = self._gauge("towers_coverage_ratio", "Share of an arm's catalogue shown in the last hour.", "arm")
        self._newest = self._gauge("towers_newest_shown_item_age_seconds", "Age of the newest item shown in the last hour.", "arm")
        self._median = self._gauge("towers_shown_item_median_age_seconds", "Median age of the items shown in the last hour.", "arm")
        self._of_arms = [self._info, self._created, self._in_flight, self._items, self._coverage, self._newest, self._median]
        self._turns = self._gauge("towers_turns_waiting", "Requests that wait for their turn at the models.")
        self._waiting = self._gauge("towers_slates_waiting", "Slates that wait to be logged.")
        self._behind = self._gauge("towers_live_counts_age_seconds", "Since the live counts had last read all that was stored.")
        self._mismatch = self._gauge("towers_experiment_mismatch_p", "How probable users parted so unevenly are, by the last report.")
        self._mismatch.set(float("nan"))  # nobody asked for a report yet
        self._lost.labels("slates not logged")  # a counter that is there at 0 shows its first step
        for outcome in ("stored", "repeated"):
            self._events.labels(outcome)

    def sources(self, names: Iterable[str]) -> None:
        """There are these sources; what each does counts from 0."""
        for name in names:
            self._proposed.labels(name)
            self._sources.labels(name)
            for why in ("late", "failed"):
                self._missing.labels(name, why)

    def answered(self, slate: Slate, arm: str) -> None:
        """Count one answer."""
        lacks = lacking(slate.answered_by)
        base, _, _ = slate.answered_by.partition(" (")
        self._answers.labels(slate.answered_by if len(lacks) < 2 else f"{base} (without several parts)").inc()
        if lacks:
            self._fallbacks.inc()
        for part in lacks:
            self._lacking.labels(part).inc()
        if slate.why_live is not None or base == "precomputed":
            self._ahead.labels(slate.why_live or "used").inc()
        self._arms.labels(arm).inc()
        for source, count in slate.proposed.items():
            self._proposed.labels(source).inc(count)
        for source, count in Counting(name for shown in slate.recommendations for name in shown.sources).items():
            self._sources.labels(source).inc(count)
        for item in slate.draw.drawn if slate.draw else ():
            self._drawn.labels("kept" if item is None else "drawn").inc()
        self._seconds.labels("total").observe(slate.generated_in_ms / 1000)
        for stage, ms in slate.stage_ms.items():
            self._seconds.labels(stage).observe(ms / 1000)
        for reason, count in slate.dropped.items():
            if reason.startswith("source "):
                self._missing.labels(*reason.removeprefix("source ").split(": ")).inc(count)
            elif not reason.endswith(" unavailable"):  # that is a part, which `lacking` counts
                self._dropped.labels(reason).inc(count)

    def received(self, stored: int, repeated: int, lag_s: Iterable[float] = ()) -> None:
        """Count events: `stored` were new, `repeated` had been received before; `lag_s` is how long each had been under way."""
        self._events.labels("stored").inc(stored)
        self._events.labels("repeated").inc(repeated)
        for seconds in lag_s:
            self._stored.observe(max(seconds, 0.0))
            if seconds < 0:
                self._future.inc()

    def known(self, seconds: float) -> None:
        """Events that were stored so long ago have just been counted."""
        self._known.observe(seconds)

    def refused(self, status: int) -> None:
        """Count one refused request."""
        self._refused.labels(str(status)).inc()

    def found(self, share: float) -> None:
        """One query was searched exactly too, and the index found this share of it."""
        self._recall.observe(share)

    def part(self, name: str, ready: bool) -> None:
        """Whether a part is in its place."""
        self._parts.labels(name).set(ready)

    def lost(self, what: str, count: int) -> None:
        """Count what could not be kept."""
        self._lost.labels(what).inc(count)

    def mismatch(self, p: float | None) -> None:
        """What the last report of the arms said of their sizes; None where nothing could mismatch."""
        self._mismatch.set(float("nan") if p is None else p)

    def stands(self, now: Vitals) -> None:
        """How things stand now."""
        for one in self._of_arms:
            one.clear()  # a release that is served no more is told of no more
        for arm in now.arms:
            self._info.labels(arm.arm, arm.version).set(1)
            self._in_flight.labels(arm.arm).set(arm.in_flight)
            for gauge, value in (
                (self._created, arm.created_s), (self._items, arm.items), (self._coverage, arm.coverage),
                (self._newest, arm.newest_age_s), (self._median, arm.median_age_s),
            ):  # fmt: skip
                if value is not None:
                    gauge.labels(arm.arm).set(value)
        self._turns.set(now.turns_waiting)
        self._waiting.set(now.slates_waiting)
        self._behind.set(float("nan") if now.live_counts_age_s is None else now.live_counts_age_s)

    def asking(self, told: Callable[[], None]) -> None:
        """Call `told` before every reading, to tell how things stand then."""
        self._asked.append(told)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        with self._reading:
            self._ask()
            return generate_latest(self._registry)

    def read(self) -> Reading:
        """Everything, as numbers."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        with self._reading:
            self._ask()
            for family in self._registry.collect():
                for sample in family.samples:
                    found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
        return found

    def _ask(self) -> None:
        for told in self._asked:
            told()

    def _counter(self, name: str, said: str, *labels: str) -> Counter:
        return Counter(name, said, labels, registry=self._registry)

    def _gauge(self, name: str, said: str, *labels: str) -> Gauge:
        return Gauge(name, said, labels, registry=self._registry)

    def _histogram(self, name: str, said: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, said, labels, buckets=buckets, registry=self._registry)


def lacking(answered_by: str) -> tuple[str, ...]:
    """The parts an answer was made without, as its `answered_by` says in brackets; none of one that is whole."""
    _, _, said = answered_by.removesuffix(")").partition(" (")
    return tuple(part.removesuffix(" unavailable") for part in said.removeprefix("without ").split(", ") if part)
