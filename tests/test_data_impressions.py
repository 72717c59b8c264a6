"""What came of what was shown: told by its own row, else by the events of its request."""

import numpy as np
import polars as pl
import pytest

from data import impressions
from data.impressions import OUTCOMES, with_outcomes
from data.judgements import shown
from data.log import read_log
from data.schema import EVENTS, IMPRESSIONS, Tables, check, check_table
from data.split import TEST, by_time, undivided
from tests.worlds import TINY, simulated

ITEMS = "abcdefgh"


def slate(request_id: str = "r", **outcomes) -> pl.DataFrame:
    """One request of u that showed a to h; outcomes are columns of eight."""
    columns = {"request_id": [request_id] * 8, "item_id": list(ITEMS), "user_id": ["u"] * 8, "position": range(1, 9), "timestamp": [1] * 8}
    return check_table(pl.DataFrame(columns | outcomes), IMPRESSIONS, table="impressions", source="a test")


def events(*rows: tuple) -> pl.DataFrame:
    """(item, event_type[, seconds[, rating[, request[, user]]]]) of u in request r."""
    filled = [(*row, *(None, None, "r", "u")[len(row) - 2 :]) for row in rows]
    names = ("item_id", "event_type", "watch_duration_seconds", "rating", "request_id", "user_id")
    schema = {name: EVENTS[name].dtype for name in names}
    frame = pl.DataFrame(filled, schema=schema, orient="row").with_columns(timestamp=pl.lit(2))
    return check_table(frame, EVENTS, table="events", source="a test")


TOLD = events(
    ("a", "click"), ("a", "watch", 30.0), ("a", "complete", 90.0), ("b", "skip", 4.0), ("c", "rate", None, 4.0), ("d", "rate", None, 3.9),
    ("e", "view"), ("e", "not_interested"), ("f", "click"), ("g", "click", None, None, "r", "v"), ("h", "click", None, None, None),
)  # fmt: skip


def test_what_came_of_a_slate_by_hand():
    """a was watched to the end; b left at once, which had been opened; c liked from its card; d rated low, e turned down, both unopened; f
    opened, nobody says for how long; g was clicked by somebody else, h from nowhere."""
    told = with_outcomes(slate(), TOLD, liked_from=4.0).select(OUTCOMES)
    assert told.rows() == [
        (True, True, False, 90.0), (True, False, True, 4.0), (True, False, False, None), (False, False, False, 0.0),
        (False, False, False, 0.0), (True, False, False, None), (False, False, False, 0.0), (False, False, False, 0.0),
    ]  # fmt: skip


def test_what_a_row_says_itself_stands():
    own = slate(
        clicked=[False, True, *[None] * 6], watch_duration_seconds=[None, 7.0, *[None] * 6], completed=[None, None, True, *[None] * 5]
    )
    told = with_outcomes(own, TOLD, liked_from=4.0).select(OUTCOMES)
    assert told.rows()[:3] == [(False, True, False, 0.0), (True, False, True, 7.0), (True, True, False, None)]


def test_a_log_whose_events_bear_no_request_of_its_slates_tells_nothing():
    for silent in (events(("a", "click", None, None, None)), events(("a", "click", None, None, "another")), TOLD.clear()):
        assert with_outcomes(slate(), silent, liked_from=4.0).equals(slate())


def test_what_no_event_of_the_log_is_ever_of_is_not_known():
    told = with_outcomes(slate(), events(("a", "click"), ("b", "watch", 3.0)), liked_from=4.0)
    assert told["clicked"].to_list() == [True, True] + [False] * 6
    assert told["completed"].null_count() == told["skipped"].null_count() == 8


def stripped(tables: Tables) -> Tables:
    """The same log as serving would have written it: impressions that only say what was shown."""
    return check(tables.events, tables.items, tables.users, tables.impressions.drop(OUTCOMES), source="a test")


def test_the_simulated_worlds_own_columns_come_back_from_its_events():
    world = simulated(TINY)[0]
    assert world.impressions["skipped"].sum() > 5 and world.impressions["completed"].sum() > 5
    assert with_outcomes(stripped(world).impressions, world.events, liked_from=4.0).equals(world.impressions)


def test_rankers_estimators_and_the_log_read_both_kinds_alike():
    world = simulated(TINY)[0]
    ours, theirs = (read_log(by_time(tables)) for tables in (world, stripped(world)))
    for name in shown(ours).__slots__:
        np.testing.assert_array_equal(getattr(shown(ours), name), getattr(shown(theirs), name), err_msg=name)
    for mine, other in zip(impressions.observed(ours, before=TEST).shown, impressions.observed(theirs, before=TEST).shown, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("liked_from", [3.0, 5.0])
def test_a_rating_is_as_good_as_a_click_from_the_logs_own_liked_from_on(liked_from):
    tables = check(events(("c", "rate", None, 4.0), ("a", "click")), impressions=slate(), source="a test")
    log = read_log(undivided(tables), liked_from=liked_from)
    assert impressions.frame(log)["clicked"].to_list()[:3] == [True, False, liked_from <= 4.0]
