"""The clock of items: against a brute force, and never of the hour it is asked about."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.aggregates import day_part, day_part_counts, item_clock, region_counts
from data.features import HOUR_MS

EVENT = st.tuples(st.integers(0, 3), st.integers(0, 200), st.one_of(st.none(), st.floats(1, 5, width=32)), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, max_size=40), st.integers(0, 3), st.integers(0, 250), st.sampled_from([0.5, 3.0]))
def test_popularity_and_rating_are_those_of_the_events_before_the_hour(events, item, hour, half_life_days):
    frame = pl.DataFrame(
        {
            "item_row": [e[0] for e in events],
            "timestamp": [e[1] * HOUR_MS + 17 for e in events],
            "rating": [e[2] for e in events],
            "liked": [e[3] for e in events],
        },
        schema={"item_row": pl.Int64, "timestamp": pl.Int64, "rating": pl.Float32, "liked": pl.Boolean},
    )
    clock = item_clock(frame, half_life_days=half_life_days, prior_rating=2.5)
    popularity, rating = clock.before(np.array([item]), np.array([hour]))
    mine = [e for e in events if e[0] == item and e[1] < hour]
    assert popularity[0] == pytest.approx(sum(0.5 ** ((hour - e[1]) / (24 * half_life_days)) for e in mine if e[3]), rel=1e-5)
    rated = [e[2] for e in mine if e[2] is not None]
    assert rating[0] == pytest.approx((sum(rated) + 5 * 2.5) / (len(rated) + 5), rel=1e-5)


def test_events_of_the_same_hour_are_not_seen():
    frame = pl.DataFrame(
        {"item_row": [0, 0], "timestamp": [5 * HOUR_MS, 5 * HOUR_MS + HOUR_MS - 1], "rating": [1.0, 5.0], "liked": [True, True]}
    )
    popularity, _ = item_clock(frame, half_life_days=1, prior_rating=3.0).before(np.array([0, 0]), np.array([5, 6]))
    assert popularity[0] == 0 and popularity[1] == pytest.approx(2 * 0.5 ** (1 / 24))


def test_a_half_life_too_short_for_the_log_is_refused():
    frame = pl.DataFrame({"item_row": [0, 0], "timestamp": [0, 3000 * 24 * HOUR_MS], "rating": [1.0, 5.0], "liked": [True, True]})
    with pytest.raises(ValueError, match="3,000 half-lives, 1,000 is the most"):
        item_clock(frame, half_life_days=1, prior_rating=3.0)


TAKEN = st.tuples(st.integers(0, 3), st.integers(0, 60 * 24), st.sampled_from([None, "DE", "FR"]), st.booleans())


def taken(events):
    """Events of (item_row, hour, region, liked)."""
    return pl.DataFrame(
        {
            "item_row": [e[0] for e in events],
            "timestamp": [e[1] * HOUR_MS + 17 for e in events],
            "region": [e[2] for e in events],
            "liked": [e[3] for e in events],
        },
        schema={"item_row": pl.Int64, "timestamp": pl.Int64, "region": pl.String, "liked": pl.Boolean},
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(TAKEN, max_size=40))
def test_regions_and_parts_of_the_day_hold_the_liked_events_each_at_its_weight(events):
    as_of = 60 * 24 * HOUR_MS
    liked = [e for e in events if e[3]]
    table = region_counts(taken(events).lazy(), as_of=as_of, short_half_life_days=2, long_half_life_days=28).collect()
    assert table.columns == ["region", "item_row", "short", "long"]
    assert set(table.select("region", "item_row").iter_rows()) == {(None, e[0]) for e in liked} | {(e[2], e[0]) for e in liked}
    assert len(table.unique(["region", "item_row"])) == len(table)

    def weight(event, half_life_days):
        return 2 ** ((event[1] * HOUR_MS + 17 - as_of) / (half_life_days * 24 * HOUR_MS))

    for region, row, short, long in table.iter_rows():
        mine = [e for e in liked if e[0] == row and region in (None, e[2])]
        assert (short, long) == pytest.approx((sum(weight(e, 2) for e in mine), sum(weight(e, 28) for e in mine)), rel=1e-9)
    parts = day_part_counts(taken(events).lazy(), as_of=as_of, half_life_days=7).collect()
    assert set(parts.select("part", "item_row").iter_rows()) == {(e[1] % 24 // 4, e[0]) for e in liked}
    for part, row, count in parts.iter_rows():
        mine = [e for e in liked if e[0] == row and e[1] % 24 // 4 == part]
        assert count == pytest.approx(sum(weight(e, 7) for e in mine), rel=1e-9)


def test_a_count_halves_in_its_half_life_and_a_part_of_the_day_is_four_hours():
    two_days_ago, now = (0, 4, "DE", True), (0, 52, None, True)
    as_of = 52 * HOUR_MS + 17
    table = region_counts(taken([two_days_ago, now]), as_of=as_of, short_half_life_days=2, long_half_life_days=1)
    assert table.rows() == [(None, 0, pytest.approx(1.5), pytest.approx(1.25)), ("DE", 0, pytest.approx(0.5), pytest.approx(0.25))]
    parts = day_part_counts(taken([two_days_ago, now]), as_of=as_of, half_life_days=2)
    assert parts.rows() == [(1, 0, pytest.approx(1.5))]  # 4 o'clock, both
    assert [day_part(hour * HOUR_MS - 1) for hour in (4, 5, 24, 25)] == [0, 1, 5, 0]
