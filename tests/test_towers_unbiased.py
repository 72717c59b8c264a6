"""Figures that speak of what is wanted: weighed targets, and order within what was judged."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.log import queries, read_log
from data.split import TEST, as_given
from tests.logs import tables
from towers.evaluation import Ranking, item_lists, per_user
from towers.unbiased import judged, weighted_means


def ranking(ranks: list[list[int]]) -> Ranking:
    """A ranking whose targets stand at these ranks, user by user."""
    nothing = torch.zeros(len(ranks), 100)
    targets = item_lists([list(range(len(of))) for of in ranks])
    return Ranking(torch.arange(len(ranks)), targets, torch.tensor([rank for of in ranks for rank in of]), nothing.long(), nothing, 100, 0)


some_ranks = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8, unique=True), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(some_ranks)
def test_weights_of_one_give_exactly_the_plain_means(ranks):
    plain = {name: value_U.mean().float() for name, value_U in per_user(ranking(ranks), (5, 20)).items()}
    weighted = weighted_means(ranking(ranks), (5, 20), torch.ones(sum(map(len, ranks))))
    assert {name: value.item() for name, value in weighted.items()} == {name: value.item() for name, value in plain.items()}


@settings(max_examples=40, deadline=None)
@given(some_ranks, st.floats(1e-3, 1e3), st.integers(0, 99))
def test_a_constant_factor_changes_nothing_and_the_best_order_has_ndcg_one(ranks, factor, seed):
    weight = torch.as_tensor(np.random.default_rng(seed).uniform(0.1, 9, sum(map(len, ranks))))
    one, other = (weighted_means(ranking(ranks), (5,), of) for of in (weight, factor * weight))
    assert [value.item() for value in one.values()] == pytest.approx([value.item() for value in other.values()], rel=1e-5)
    place = iter(weight.tolist())
    best = [[1 + sorted(mine, reverse=True).index(of) for of in mine] for mine in ([next(place) for _ in of] for of in ranks)]
    assert weighted_means(ranking(best), (5,), weight)["ndcg_at_5"].item() == pytest.approx(1)


def test_weighted_means_by_hand():
    """User 1 finds a rare item (weight 3) at the top and misses a common one; user 2 misses their common one (weight 1)."""
    values = weighted_means(ranking([[1, 50], [70]]), (20,), torch.tensor([3.0, 1.0, 1.0]))
    assert values["recall_at_20"].item() == pytest.approx((2 * 3 / 4 + 1 * 0) / 3)  # users weigh 2 and 1, the means of their targets
    assert values["ndcg_at_20"].item() == pytest.approx(2 * 3 / (3 + 1 / math.log2(3)) / 3)
    assert values["precision_at_20"].item() == pytest.approx(2 * (3 / 2) / 20 / 3)
    assert values["hit_rate_at_20"].item() == values["mrr_at_20"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [[1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_every_target_has_a_weight(bad):
    with pytest.raises(ValueError, match="expected one above 0 for each"):
        weighted_means(ranking([[1, 2]]), (5,), torch.tensor(bad))


def test_recall_is_right_although_popular_items_are_clicked_more():
    """Half of what is wanted is clicked ten times less; the weights see through it (Yang et al. 2018)."""
    rng = np.random.default_rng(0)
    rare = rng.random(60_000) < 0.5
    clicked = rng.random(60_000) < np.where(rare, 0.09, 0.9)
    rank = np.where(rare, np.where(rng.random(60_000) < 0.2, 1, 50), np.where(rng.random(60_000) < 0.8, 1, 50))[clicked]
    found = ranking([[int(one)] for one in rank])
    weight = torch.as_tensor(1 / np.where(rare, 0.09, 0.9)[clicked])
    assert weighted_means(found, (5,), weight)["recall_at_5"].item() == pytest.approx(0.5, abs=0.02)
    assert weighted_means(found, (5,), torch.ones(len(rank)))["recall_at_5"].item() > 0.7


def test_the_order_within_what_was_judged_by_hand():
    rows = [
        ("u", "a", "rate", 1, 5.0), ("v", "a", "rate", 1, 5.0), ("w", "a", "rate", 1, 5.0),
        ("u", "b", "rate", 2, 5.0), ("u", "c", "rate", 2, 1.0), ("u", "d", "rate", 2, 2.0),
        ("v", "b", "rate", 2, 1.0), ("v", "c", "rate", 3, 4.0),
        ("w", "d", "rate", 2, 5.0),
    ]  # fmt: skip
    frame = tables(rows)
    part = ["train" if row[1] == "a" else "test" for row in rows]
    frame = type(frame)(frame.events.with_columns(split=pl.Series(part)), frame.items, frame.users, frame.impressions)
    log = read_log(as_given(frame, validation_fraction=0), liked_from=4)
    asked = queries(log, TEST)
    # items a, b, c, d: u scores b 3, c 4, d 1 (one of two pairs right); v scores b 2, c 2 (a tie: half); w judged one way only
    item = torch.tensor([[0.0, 0.0], [3.0, 2.0], [4.0, 2.0], [1.0, 9.0]])
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = judged(log, TEST, asked, query, item)
    assert found["judged/users"] == 2
    assert found["judged/gauc"] == pytest.approx((3 * 0.5 + 2 * 0.5) / 5)
    assert found["judged/auc"] == pytest.approx((2 + 1.5) / 6)  # u's b at 3 is above d's 1 and v's 2; v's c at 2 above d's 1, ties b
    assert found["judged/ndcg_at_5"] == pytest.approx(1 / math.log2(3))  # both stand second: a tie is never in the model's favour
    assert judged(log, 0, queries(log, 0), query, item) == {}
