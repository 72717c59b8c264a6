"""Batches: every epoch a shuffle of all rows, the same for the same seed, parted among ranks; weights that are even on the mean."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.bias import Bias
from data.datamodule import Batches, RetrievalData, shuffled
from data.examination import certain
from data.log import read_log
from data.propensity import even, logged, popularity
from data.split import by_time
from tests.logs import small, tables


class One(NamedTuple):
    row_B: torch.Tensor


def rows(**change):
    known = {"batch_size": 4, "seed": 1, "epoch": 0, "order": lambda size, generator: torch.randperm(20, generator=generator)}
    return [row for batch in Batches(torch.arange(100, 120), One, **known | change) for row in batch.row_B.tolist()]


def test_an_epoch_is_every_row_once():
    assert sorted(rows()) == list(range(100, 120))
    assert len(rows(batch_size=6)) == 18  # two rows wait for another epoch's shuffle
    assert sorted(rows(batch_size=64)) == list(range(100, 120))


@given(st.integers(0, 1000), st.integers(0, 50))
def test_seed_and_epoch_alone_decide_the_order(seed, epoch):
    assert rows(seed=seed, epoch=epoch) == rows(seed=seed, epoch=epoch)
    assert rows(seed=seed, epoch=epoch) != rows(seed=seed, epoch=epoch + 1)


def test_ranks_share_the_rows_among_them():
    parts = [rows(rank=rank, ranks=2) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == 8 and not set(parts[0]) & set(parts[1])


def made(log, **change):
    known = {
        "batch_size": 64,
        "history_length": 5,
        "bias": Bias(even, certain, floor=1.0),
        "recency_half_life_days": None,
        "order": shuffled,
        "seed": 0,
    }
    return RetrievalData(log, **known | change)


def test_only_liked_training_events_are_rows():
    _, log = small()
    data = made(log)
    assert len(data.train_event) == log.item_count().sum()
    assert (data.weight_E[data.train_event] == 1).all()


def test_popular_items_weigh_less():
    _, log = small()
    data = made(log, bias=Bias(partial(popularity, power=1.0), certain, floor=0.2))
    count, weight = log.item_count()[data.train_log.item_row_E[data.train_event]], data.weight_E[data.train_event]
    np.testing.assert_allclose(weight, 1 / np.maximum(count / count.max(), 0.2), rtol=1e-5)


def test_logged_propensities_weigh_by_their_inverse():
    _, log = small()
    rows = made(log).train_event
    if np.isnan(log.before(1).propensity_E[rows]).any():
        with pytest.raises(ValueError, match="has no logged propensity"):
            made(log, bias=Bias(logged, certain, floor=0.001))
    else:
        weight = made(log, bias=Bias(logged, certain, floor=0.001)).weight_E[rows]
        product = weight * log.before(1).propensity_E[rows]
        np.testing.assert_allclose(product, product[0], rtol=1e-4)


def test_a_half_life_halves():
    log = read_log(
        by_time(tables([("u", "a", "click", day * 86_400_000) for day in range(11)]), test_quantile=0.9, validation_quantile=None)
    )
    weight = made(log, recency_half_life_days=2.0).weight_E
    np.testing.assert_allclose(weight[:-2] / weight[2:], 0.5, rtol=1e-6)


def test_nothing_liked_is_said():
    rows = [("u", "a", "rate", 1, 1.0), ("u", "b", "rate", 2, 1.0), ("u", "c", "rate", 3, 1.0)]
    log = read_log(by_time(tables(rows), test_quantile=0.6, validation_quantile=None), liked_from=5)
    with pytest.raises(ValueError, match=r"no liked event among 1; is liked_from=5 too high"):
        made(log)
