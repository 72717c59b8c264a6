"""What operations watches, for Prometheus: how long answers take and where, how they were made, what was left out, what came back."""

from collections import Counter as Counting

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from serve.contract import Slate

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Gauges:
    """Counters of one process. Each instance has a registry of its own, so that two in one program do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "towers_request_seconds",
            "Time to make an answer; stage 'total' is the whole.",
            ["stage"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._answers = Counter("towers_answers", "Answers by how they were made.", ["answered_by"], registry=self._registry)
        self._arms = Counter("towers_arm_answers", "Answers by the arm that made them.", ["arm"], registry=self._registry)
        self._sources = Counter("towers_shown", "Items shown, by each source that proposed them.", ["source"], registry=self._registry)
        self._drawn = Counter("towers_explored", "Explore slots shown, by whether chance drew.", ["drawn"], registry=self._registry)
        self._recall = Summary("towers_index_recall", "Of the exact nearest, what the index found, a query.", registry=self._registry)
        self._parts = Gauge("towers_part_ready", "1 where a part is in its place.", ["part"], registry=self._registry)
        self._lost = Counter("towers_lost", "What could not be kept, by what it was.", ["what"], registry=self._registry)
        self._dropped = Counter(
            "towers_dropped", "Candidates, sources and events left out, by reason.", ["reason"], registry=self._registry
        )
        self._events = Counter("towers_events", "Events received, by what became of them.", ["outcome"], registry=self._registry)
        self._refused = Counter("towers_refused", "Requests refused, by HTTP status.", ["status"], registry=self._registry)

    def answered(self, slate: Slate, arm: str) -> None:
        """Count one answer."""
        self._answers.labels(slate.answered_by).inc()
        self._arms.labels(arm).inc()
        for source, count in Counting(name for shown in slate.recommendations for name in shown.sources).items():
            self._sources.labels(source).inc(count)
        for item in slate.draw.drawn if slate.draw else ():
            self._drawn.labels("kept" if item is None else "drawn").inc()
        self._seconds.labels("total").observe(slate.generated_in_ms / 1000)
        for stage, ms in slate.stage_ms.items():
            self._seconds.labels(stage).observe(ms / 1000)
        for reason, count in slate.dropped.items():
            self._dropped.labels(reason).inc(count)

    def received(self, stored: int, repeated: int) -> None:
        """Count events: `stored` were new, `repeated` had been received before."""
        self._events.labels("stored").inc(stored)
        self._events.labels("repeated").inc(repeated)

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

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
