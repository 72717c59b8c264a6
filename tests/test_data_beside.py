"""What stood beside a click and was skipped, by hand; and that asking changes nothing where it counts nothing."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from data.beside import beside
from data.bias import Bias
from data.datamodule import RetrievalData, shuffled
from data.examination import certain, given
from data.impressions import observed
from data.log import read_log
from data.propensity import even
from data.schema import check
from data.split import VALIDATION, undivided
from tests.logs import small, tables

CURVE = partial(given, curve=(1.0, 0.5, 0.25))


def log_of_one_slate():
    """u is shown a, b, c, d at once, clicks b and d; v clicks without a slate."""
    events = pl.DataFrame(
        {
            "user_id": ["u", "u", "v"], "item_id": ["b", "d", "a"], "event_type": ["click"] * 3, "timestamp": [10, 20, 30],
            "request_id": ["r", "r", None],
        }
    )  # fmt: skip
    impressions = pl.DataFrame(
        {
            "request_id": ["r"] * 4, "item_id": list("abcd"), "user_id": ["u"] * 4, "position": [1, 2, 3, 4], "timestamp": [5] * 4,
            "clicked": [False, True, False, True],
        }
    )  # fmt: skip
    return read_log(undivided(check(events, None, None, impressions, source="a test")))


def test_what_was_skipped_stands_beside_what_was_clicked():
    log = log_of_one_slate()
    found = beside(log, Bias(even, CURVE, floor=0.1, beside=1.0), observed(log, before=VALIDATION)).on(torch.device("cpu"))
    row, odds, weight = found.of(torch.arange(3), torch.as_tensor(log.item_row_E))
    names = np.array(log.catalogue.item_ids)
    there = odds > -math.inf
    assert [sorted(names[row[event][there[event]]].tolist()) for event in range(3)] == [["a", "c"], ["a", "c"], []]
    # b stood second: a was twice as likely to be looked at, c half as likely; d, below the curve's end, as likely as c
    assert odds[0][there[0]].exp().tolist() == pytest.approx([2.0, 0.5])
    assert odds[1][there[1]].exp().tolist() == pytest.approx([4.0, 1.0])
    assert weight.tolist() == [1.0, 1.0, 0.0]


def test_a_log_without_slates_is_told_so():
    log = read_log(undivided(tables([("u", "a", "click", 1)])))
    with pytest.raises(ValueError, match=r"bias\.beside asks what stood beside each click, but the log has no impressions"):
        beside(log, Bias(even, certain, floor=1.0, beside=1.0), observed(log, before=VALIDATION))


def test_a_choice_is_as_old_as_its_click_and_of_training_alone():
    _, log = small()
    bias = Bias(even, CURVE, floor=0.1, beside=1.0)
    data = RetrievalData(log, batch_size=64, history_length=5, bias=bias, recency_half_life_days=3.0, order=shuffled, seed=0)
    assert len(data.beside.count_E) == len(data.train_log.item_row_E)
    plain = RetrievalData(
        log, batch_size=64, history_length=5, bias=replace(bias, examination=certain), recency_half_life_days=3.0, order=shuffled, seed=0
    )
    np.testing.assert_allclose(data.beside.weight_E[data.train_event], plain.weight_E[data.train_event])
