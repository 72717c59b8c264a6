"""The benchmark's own steps: its search, its refit, and whom it counts."""

import numpy as np
import torch

from bench.baseline_search import all_events, interactions, liked_events, search
from bench.quality import members
from data.log import queries, read_log
from data.split import TEST, TRAIN, VALIDATION, by_time, check_no_leak, leave_last_out, rejoined
from tests.logs import small, tables


def test_a_search_ends_where_no_single_axis_improves_and_tries_nothing_twice():
    asked = []

    def score(setting):
        asked.append((setting["a"], setting["b"]))
        return {"first": -3 * (setting["a"] - 3) ** 2 - (setting["b"] - setting["a"]) ** 2, "other": setting["b"]}

    tried = search({"a": (0, 1, 2, 3), "b": (0, 1, 2, 3)}, score)
    assert max(tried, key=lambda pair: pair[1]["first"])[0] == {"a": 3, "b": 3}
    assert len(asked) == len(set(asked)) == len(tried)


def test_a_refit_learns_from_validation_and_leaves_the_test_as_it_was():
    split = small()[0]
    again = rejoined(split)
    check_no_leak(again)
    np.testing.assert_array_equal(again.part == TEST, split.part == TEST)
    np.testing.assert_array_equal(again.part == TRAIN, split.part < TEST)
    same = by_time(split.tables, validation_quantile=None)
    assert again.events.equals(same.events) and again.cut_ms == same.cut_ms


def test_a_refit_asks_the_same_questions():
    rows = [(user, item, "click", 1000 * place) for user in "ab" for place, item in enumerate("wxyz")]
    split = leave_last_out(tables(rows))
    before, after = (queries(read_log(each), TEST) for each in (split, rejoined(split)))
    for name in ("user_row_Q", "now_Q", "target_row", "seen_offset", "seen_row"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_an_interaction_halves_with_every_half_life_and_is_left_out_after_sixty():
    day = 86_400_000
    rows = [("a", "x", "click", 0), ("a", "y", "click", 60 * day), ("b", "x", "skip", 60 * day), ("b", "y", "click", 61 * day)]
    rows += [("a", "x", "click", 90 * day), ("a", "x", "click", 99 * day), ("a", "x", "click", 100 * day)]
    log = read_log(by_time(tables(rows), test_quantile=0.9, validation_quantile=0.7)).before(VALIDATION)
    items = log.catalogue.item_ids
    liked = interactions(log, events=liked_events, half_life_days=1.0).toarray()
    assert dict(zip(items, liked[0], strict=True)) == {"x": 0.0, "y": 0.5}  # the log ends on day 61; day 0 is more than 60 before
    assert dict(zip(items, liked[1], strict=True)) == {"x": 0.0, "y": 1.0}
    assert dict(zip(items, interactions(log, events=all_events, half_life_days=1.0).toarray()[1], strict=True)) == {"x": 0.5, "y": 1.0}


def test_seen_before_is_a_user_with_a_past_and_a_target_with_one():
    rows = [("known", "old", "click", 1), ("other", "old", "click", 2), ("other", "older", "click", 3), ("known", "new", "click", 10)]
    rows += [("other", "new", "click", 11), ("other", "old", "click", 12), ("stranger", "old", "click", 13)]
    asked = queries(read_log(by_time(tables(rows), test_quantile=0.5, validation_quantile=None)), TEST)
    known = members(asked)["seen before"]
    user_ids = np.array(["known", "other", "stranger"])[asked.user_row_Q]
    assert dict(zip(user_ids, known.tolist(), strict=True)) == {"known": False, "other": True, "stranger": False}
    assert torch.equal(members(asked)["all"], torch.ones(3, dtype=torch.bool))
