"""Hand-worked numbers and laws of the losses that are no softmax."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from towers.contrastive import alignment_uniformity, cosine_contrastive, gbce

ALL = [partial(gbce, t=0.75), partial(cosine_contrastive, margin=0.2, negative_weight=3.0), partial(alignment_uniformity, gamma=0.7)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_gbce_by_hand():
    """One row, its own item and two negatives of ten others, drawn evenly: α = 1/5, so β = 1 − .75 · .8 = .4. Half the scores: τ = 2."""
    query, candidate = torch.tensor([[2.0]]), torch.tensor([[1.0], [0.5], [-1.0]])
    arguments = {"target_B": torch.tensor([0]), "log_q_M": torch.full((3,), math.log(0.2)), "weight_B": torch.ones(1), "temperature": 2.0}
    loss = gbce(query, candidate, t=0.75, **arguments)
    assert loss.item() == pytest.approx(-(0.4 * math.log(sigmoid(1)) + math.log(sigmoid(-0.5)) + math.log(sigmoid(1))) / 3, rel=1e-6)
    plain = gbce(query, candidate, t=0.0, **arguments)
    label = torch.tensor([1.0, 0.0, 0.0])
    assert plain.item() == pytest.approx(F.binary_cross_entropy_with_logits(query[0] * candidate[:, 0] / 2, label).item(), rel=1e-6)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_gbce_is_calibrated_at_t_of_one(t):
    """Their theorem: positives come as p = (.5, .3, .2), each beside one of the two others, α = ½. What is best has σ(s) = p at t = 1, and
    without the correction p / (p + α·(1 − p))."""
    p, alpha = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.5
    log_q, score = torch.full((3,), math.log(alpha), dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([score], max_iter=100, tolerance_grad=1e-12)

    def step():
        optimiser.zero_grad()
        arguments = {"target_B": torch.arange(3), "log_q_M": log_q, "temperature": 1.0, "t": t, "weight_sum": torch.tensor(2.0)}
        asked = torch.ones(3, 1, dtype=torch.float64)
        loss = sum(gbce(asked, score, negative_N=torch.tensor([of]), weight_B=p * (torch.arange(3) != of), **arguments) for of in range(3))
        loss.backward()
        return loss

    optimiser.step(step)
    wanted = p if t else p / (p + alpha * (1 - p))
    torch.testing.assert_close(score.detach()[:, 0].sigmoid(), wanted, atol=1e-5, rtol=0)


def test_cosine_contrastive_by_hand():
    """cos to its own is .6; to the others .8 and 0, of which .8 stands .3 above the margin: 1 − .6 + 4 · .3/2."""
    query, candidate = torch.tensor([[5.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.8, -0.6], [0.0, 9.0]])
    arguments = {"target_B": torch.tensor([0]), "weight_B": torch.ones(1), "temperature": 0.1, "margin": 0.5, "negative_weight": 4.0}
    loss = cosine_contrastive(query, candidate, log_q_M=torch.zeros(3), **arguments)
    assert loss.item() == pytest.approx(1 - 0.6 + 4 * 0.3 / 2, rel=1e-6)
    # the second drawn thrice as often as the third: it counts a third of it, so that the mean is that of even draws
    often = cosine_contrastive(query, candidate, log_q_M=torch.log(torch.tensor([1.0, 0.75, 0.25])), **arguments)
    assert often.item() == pytest.approx(1 - 0.6 + 4 * 0.3 / 4, rel=1e-6)


def test_alignment_and_uniformity_by_hand():
    """Two users at right angles, whose items are one item beside the first user, which both rows have."""
    query, item = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 7.0]])
    arguments = {"log_q_M": torch.zeros(2), "weight_B": torch.ones(2), "temperature": 0.1, "gamma": 0.5}
    loss = alignment_uniformity(query, item, target_B=torch.tensor([0, 0]), **arguments)
    assert loss.item() == pytest.approx((0 + 2) / 2 + 0.5 * (-4 + 0) / 2, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 6), st.integers(1, 6))
def test_spread_is_over_the_pairs_of_rows(seed, rows, users, items):
    generator = torch.Generator().manual_seed(seed)
    query, candidate = (torch.randn(count, 4, generator=generator, dtype=torch.float64, requires_grad=True) for count in (users, items))
    row, target = (torch.randint(count, (rows,), generator=generator) for count in (users, items))
    loss = alignment_uniformity(
        query, candidate, row_B=row, target_B=target, log_q_M=torch.zeros(items), weight_B=torch.ones(rows).double(), temperature=1.0,
        gamma=1.3,
    )  # fmt: skip
    asked, own = (F.normalize(of, dim=1) for of in (query[row], candidate[target]))
    uniformity = sum(torch.pdist(of).square().mul(-2).exp().mean().log() for of in (asked, own))
    plain = (asked - own).square().sum(1).mean() + 1.3 * uniformity / 2
    torch.testing.assert_close(loss, plain)
    if rows == len(row.unique()) == len(target.unique()):  # pdist has no gradient at distance 0
        for got, expected in zip(*(torch.autograd.grad(of, (query, candidate)) for of in (loss, plain)), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("loss_of", ALL, ids=lambda of: of.func.__name__)
def test_weights_of_one_change_nothing_and_rows_may_share_queries(loss_of):
    generator = torch.Generator().manual_seed(0)
    query, candidate = (torch.randn(count, 6, generator=generator, dtype=torch.float64, requires_grad=True) for count in (3, 8))
    row, target = torch.tensor([0, 2, 2, 1, 0]), torch.tensor([3, 4, 4, 0, 7])
    arguments = {"target_B": target, "log_q_M": torch.randn(8, generator=generator, dtype=torch.float64), "temperature": 0.5}
    ones = torch.ones(5, dtype=torch.float64)
    shared = loss_of(query, candidate, row_B=row, weight_B=ones, **arguments)
    apart = loss_of(query[row], candidate, weight_B=2 * ones, **arguments)
    torch.testing.assert_close(shared, apart)
    for one, other in zip(*(torch.autograd.grad(of, (query, candidate)) for of in (shared, apart)), strict=True):
        torch.testing.assert_close(one, other)
    # a row that weighs nothing is as if it were not there
    without = loss_of(query[row[1:]], candidate, weight_B=ones[1:], **(arguments | {"target_B": target[1:]}))
    ones[0] = 0
    torch.testing.assert_close(loss_of(query, candidate, row_B=row, weight_B=ones, **arguments), without)


@pytest.mark.parametrize("loss_of", ALL[:2], ids=lambda of: of.func.__name__)
def test_a_row_has_no_other_rows_positives_among_its_negatives_where_only_drawn_ones_are(loss_of):
    query, candidate = torch.randn(2, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    arguments = {
        "target_B": torch.tensor([0, 1]),
        "log_q_M": torch.rand(6).double().log(),
        "weight_B": torch.ones(2).double(),
        "temperature": 1.0,
    }
    drawn = torch.tensor([1, 3, 4])
    loss = loss_of(query, candidate, negative_N=drawn, **arguments)
    # of the first row: its own, and what was drawn; of the second, its own stands among what was drawn, and is no negative
    each = [
        loss_of(query[:1], candidate[[0, 1, 3, 4]], **_part(arguments, 0, [0, 1, 3, 4], 0)),
        loss_of(query[1:], candidate[[1, 3, 4]], **_part(arguments, 1, [1, 3, 4], 0)),
    ]
    torch.testing.assert_close(loss, sum(each) / 2)


def _part(arguments, row, columns, target):
    rows = {"target_B": torch.tensor([target]), "weight_B": arguments["weight_B"][row : row + 1]}
    return arguments | rows | {"log_q_M": arguments["log_q_M"][columns]}
