"""The wall's clock, or one that stood at the end of the log when serving began."""

import pytest

from data.features import DAY_MS, HOUR_MS
from serve import clock
from serve.clock import STALE_DAYS, Clock

WALL = 1_700_000_123_456


@pytest.fixture
def wall(monkeypatch):
    """What the wall's clock shows: a list of one."""
    shown = [WALL]
    monkeypatch.setattr(clock, "_wall_ms", lambda: shown[0])
    return shown


def test_at_the_logs_end_time_begins_anew_and_runs_on(wall):
    told = Clock("log-end")
    assert told.now_ms() == WALL  # nobody told it of a log
    told.log_ended(400_000)
    assert told.now_ms() == 400_000 * HOUR_MS
    wall[0] += 90_000
    assert told.now_ms() == 400_000 * HOUR_MS + 90_000


def test_only_the_first_log_sets_it(wall):
    """A release opened later, with a longer log, makes no leap in the time of those who are served."""
    told = Clock("log-end")
    told.log_ended(400_000)
    told.log_ended(500_000)
    assert told.now_ms() == 400_000 * HOUR_MS


def test_the_walls_clock_stays_what_it_is_and_says_once_that_the_log_is_old(wall, caplog):
    told = Clock("now")
    told.log_ended((WALL - (STALE_DAYS + 2) * DAY_MS) // HOUR_MS)
    told.log_ended(0)
    assert told.now_ms() == WALL
    assert [record.getMessage().split(" and ")[0] for record in caplog.records] == [f"the log ended {STALE_DAYS + 2} days ago"]


@pytest.mark.parametrize("days", [0, STALE_DAYS])
def test_a_log_that_ended_lately_is_nothing_to_speak_of(wall, caplog, days):
    Clock("now").log_ended(-(-(WALL - days * DAY_MS) // HOUR_MS))
    assert not caplog.records


def test_the_wall_is_the_systems(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_234_567_899_999)
    assert Clock("now").now_ms() == 1_234_567
