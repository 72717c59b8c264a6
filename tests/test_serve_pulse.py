"""The console's half hour: what grew between two readings, percentiles as PromQL has them, and a memory that does not grow."""

import math
import threading
import time

import pytest

from serve.pulse import Beat, Percentiles, Pulse, point, quantile
from serve.vitals import ArmVitals, Vitals

INF = math.inf
BUCKETS = {0.1: 0.0, 0.2: 4.0, 0.5: 8.0, INF: 10.0}
STANDS = Vitals((ArmVitals("champion", "v1", 2, 1e9, 60, 0.5, None, 3.0),), 1, 4, 0.5)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.4, 0.2),  # the fourth of ten is the last of its bucket
        (0.2, 0.15),  # the second of the four between 0.1 and 0.2
        (0.5, 0.275),  # the fifth: a quarter of the way from 0.2 to 0.5
        (0.8, 0.5),
        (0.99, 0.5),  # beyond the last edge nothing is known
    ],
)
def test_a_quantile_lies_where_promql_puts_it(q, expected):
    assert quantile(q, BUCKETS) == pytest.approx(expected)


def test_a_quantile_in_the_first_bucket_goes_up_from_nothing_and_of_nothing_there_is_none():
    assert quantile(0.5, {0.1: 10.0, INF: 10.0}) == pytest.approx(0.05)
    assert math.isnan(quantile(0.5, {0.1: 0.0, INF: 0.0}))
    assert math.isnan(quantile(0.5, {}))


def reading(answers, fast, slow, recall=(0.0, 0.0)):
    """So many answers, `fast` of them within 0.1 s and `slow` between 0.1 and 0.2."""
    buckets = {("total", "0.1"): fast, ("total", "0.2"): fast + slow, ("total", "+Inf"): fast + slow}
    return {
        "towers_answers_total": {("personalised",): answers, ("popular",): 3.0},
        "towers_fallbacks_total": {(): 0.0},
        "towers_source_missing_total": {("content", "late"): answers / 10},
        "towers_request_seconds_bucket": buckets,
        "towers_request_seconds_count": {("total",): fast + slow},
        "towers_index_recall_count": {(): recall[0]},
        "towers_index_recall_sum": {(): recall[1]},
    }


def at(seconds, *told, **more):
    return Beat(100.0 + seconds, 1_000_000 + round(1000 * seconds), reading(*told, **more))


def test_a_point_is_what_grew_since_the_last_beat_and_its_percentiles_are_of_the_minute():
    before = [at(0, 0.0, 0.0, 0.0), at(5, 10.0, 10.0, 0.0), at(60, 20.0, 20.0, 0.0)]
    judged = [at(-600, 0.0, 0.0, 0.0, recall=(7.0, 7.0)), at(0, 0.0, 0.0, 0.0, recall=(8.0, 7.5))]
    found = point(before, judged, at(65, 40.0, 20.0, 20.0, recall=(10.0, 9.0)), STANDS)
    assert (found.at, found.seconds) == (1_065_000, 5.0)
    assert (found.answers, found.fallbacks, found.missing) == ({"personalised": 20}, 0, {"content: late": 2})
    # since 5 s, a minute ago: 10 within 0.1 s, 20 up to 0.2; the 15th lies a quarter into those
    assert found.latency == {"total": Percentiles(count=30, p50=0.125, p95=0.1925, p99=0.1985)}
    assert (found.recall.queries, found.recall.mean) == (3, 0.6667)  # the last ten minutes: (9 - 7) / (10 - 7)
    assert found.stored_lag == Percentiles(count=0, p50=None, p95=None, p99=None)
    assert [arm.model_dump() for arm in found.standing] == [
        {
            "arm": "champion", "version": "v1", "in_flight": 2, "created_s": 1e9, "items": 60, "coverage": 0.5, "newest_age_s": None,
            "median_age_s": 3.0,
        }
    ]  # fmt: skip
    assert (found.turns_waiting, found.slates_waiting, found.live_counts_age_s) == (1, 4, 0.5)


class Counted:
    """What a pulse asks of an engine, each time one answer further."""

    def __init__(self) -> None:
        self.gauges, self.answers = self, 0.0

    def readiness(self):
        return True, {"model_version": "v1", "parts": {"store": "ready"}}

    def read(self):
        self.answers += 1
        return reading(self.answers, self.answers, 0.0)

    def vitals(self):
        return STANDS


def test_a_pulse_remembers_so_long_and_no_longer():
    pulse = Pulse(Counted(), every_s=5.0, keep_s=50.0)
    pulse.beat()
    assert (pulse.points(), pulse.ready, pulse.parts) == ([], True, {"store": "ready"})
    for _ in range(30):
        pulse.beat()
    assert len(pulse.points()) == 10
    assert all(point.answers == {"personalised": 1} for point in pulse.points())
    assert len(pulse._minute) == 13 and set(pulse._judged[0].read) == {"towers_index_recall_count", "towers_index_recall_sum"}
    newest = pulse.points()[-1].at
    assert pulse.points(newest) == []
    assert all(point.at > newest - 1 for point in pulse.points(newest - 1))


def test_a_pulse_beats_while_its_block_lasts_and_not_after():
    pulse, before = Pulse(Counted(), every_s=0.01), set(threading.enumerate())
    deadline = time.monotonic() + 30
    with pulse.beating():
        while len(pulse.points()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (beating,) = set(threading.enumerate()) - before
    assert not beating.is_alive()
