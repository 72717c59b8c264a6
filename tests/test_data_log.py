"""The log as arrays: what is asked, what may be seen, and that the future reaches nothing."""

import numpy as np
import polars as pl
import pytest

from data.log import queries, read_log
from data.schema import Tables
from data.split import TEST, VALIDATION, as_given, by_time, leave_last_out
from tests.logs import small, tables
from tests.worlds import SMALL_MILD, simulated


def test_questions_by_hand():
    log = read_log(leave_last_out(tables([("u", item, "click", at) for at, item in enumerate("abcd")] + [("v", "a", "click", 9)])))
    asked = queries(log, TEST)
    ids = log.catalogue.item_ids
    assert [log.user_ids[row] for row in asked.user_row_Q] == ["u"]
    assert [ids[row] for row in asked.target_row] == ["d"]
    assert [ids[row] for row in asked.seen_row] == ["a", "b", "c"]  # the validation item belongs to the history of the test
    assert asked.now_Q.tolist() == [3]
    assert [ids[row] for row in queries(log, VALIDATION).seen_row] == ["a", "b"]


def test_what_is_not_liked_is_no_target_but_is_seen():
    rows = [("u", "a", "rate", 1, 2.0), ("u", "b", "rate", 2, 9.0), ("u", "c", "rate", 3, 2.0), ("u", "d", "rate", 4, 9.0)]
    log = read_log(by_time(tables(rows), test_quantile=0.7, validation_quantile=None), liked_from=8)
    assert log.item_count().tolist() == [0, 1, 0, 0]
    asked = queries(log, TEST)
    assert [log.catalogue.item_ids[row] for row in asked.target_row] == ["d"]
    assert [log.catalogue.item_ids[row] for row in asked.seen_row] == ["a", "b"]


def test_histories_of_given_parts_hold_no_held_out_item():
    rows = [("u", f"i{at}", "click", at) for at in range(30)]
    given = tables(rows).events.with_columns(split=pl.Series(["train"] * 25 + ["test"] * 5))
    log = read_log(as_given(Tables(given, *(getattr(tables(rows), name) for name in ("items", "users", "impressions")))))
    asked = queries(log, VALIDATION)
    assert not set(asked.target_row) & set(asked.seen_row) and len(asked.target_row)
    assert set(queries(log, TEST).seen_row) == set(range(25))


def test_a_request_in_another_region_than_home_is_there():
    _, log = small()
    happened = log.split.events["region"].to_list()
    column = log.moment_EC[:, 3]
    for event in range(0, len(column), 97):
        if happened[event] is not None:
            assert log.vocabulary.region.words[column[event] - 1] == happened[event]


def test_nothing_after_the_cut_reaches_training():
    """Shuffle every item, rating, device and region after the cut: training and its clock stay the same to the last bit."""
    world = simulated(SMALL_MILD)[0]
    split = by_time(world)
    cut = split.cut_ms.validation
    late = pl.col("timestamp") >= cut
    rng = np.random.default_rng(0)
    events = world.events.with_columns(
        item_id=pl.when(late).then(pl.Series(rng.permutation(world.events["item_id"].to_numpy()))).otherwise("item_id"),
        rating=pl.when(late).then(5.0).otherwise("rating").cast(pl.Float32),
        device=pl.when(late).then(pl.lit("a device of the future")).otherwise("device"),
        region=pl.when(late).then(pl.lit("a region of the future")).otherwise("region"),
    )
    other = read_log(by_time(Tables(events, world.items, world.users, world.impressions, world.report)))
    one = read_log(split)
    assert one.clock(half_life_days=30).prior_rating == other.clock(half_life_days=30).prior_rating > 0  # of the whole log's clock too
    one, other = one.before(VALIDATION), other.before(VALIDATION)
    assert one.vocabulary == other.vocabulary
    for name in ("offset_U1", "item_row_E", "event_code_E", "timestamp_E", "moment_EC", "propensity_E"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.item_count(), other.item_count())
    for name in ("key", "popularity", "rating_sum", "rating_count", "prior_rating"):
        np.testing.assert_array_equal(getattr(one.clock(half_life_days=30), name), getattr(other.clock(half_life_days=30), name))


def test_a_log_of_one_user_is_a_log():
    log = read_log(leave_last_out(tables([("u", "a", "click", 5), ("u", "b", "click", 6), ("u", "c", "click", 7)])))
    assert log.offset_U1.tolist() == [0, 3] and len(queries(log, TEST).user_row_Q) == 1


@pytest.mark.parametrize("part", [VALIDATION, TEST])
def test_no_question_sees_its_own_time(part):
    _, log = small()
    asked = queries(log, part)
    for start, end, now in zip(asked.start_Q, asked.end_Q, asked.now_Q, strict=True):
        assert (asked.history.timestamp_E[start:end] <= now).all()
