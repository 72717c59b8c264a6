"""Laws and hand-worked numbers of the losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data.bias import by_rows, by_weight
from towers.losses import (
    choice_among_shown,
    in_batch_softmax,
    mask_accidental_hits,
    pseudo_label,
    refined_softmax,
    sampled_softmax,
    weighted_bce,
    weighted_squared_error,
)


def problem(seed: int, rows: int, candidates: int, width: int = 5):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, width, generator=generator, dtype=torch.float64, requires_grad=True)
    candidate = torch.randn(candidates, width, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(candidates, (rows,), generator=generator)
    log_q = torch.randn(candidates, generator=generator, dtype=torch.float64)
    weight = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.1
    return query, candidate, target, log_q, weight


def test_two_queries_by_hand():
    # logits of query 1: 1·1/0.5 − log ½ and 1·0/0.5 − log ½; of query 2: 0 and 2·0.5/0.5 on the diagonal's other side.
    query = torch.tensor([[1.0], [2.0]])
    item = torch.tensor([[1.0], [0.5]])
    loss = in_batch_softmax(
        query,
        item,
        item_row_B=torch.tensor([0, 1]),
        log_q_B=torch.log(torch.tensor([0.5, 0.25])),
        weight_B=torch.tensor([1.0, 3.0]),
        temperature=0.5,
    )
    first = -math.log(math.exp(2.0) * 2 / (math.exp(2.0) * 2 + math.exp(1.0) * 4))
    second = -math.log(math.exp(2.0) * 4 / (math.exp(4.0) * 2 + math.exp(2.0) * 4))
    assert loss.item() == pytest.approx((first + 3 * second) / 4, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 30), st.integers(1, 64))
def test_blocks_give_the_loss_and_gradients_of_the_written_formula(seed, rows, candidates, block):
    query, candidate, target, log_q, weight = problem(seed, rows, candidates)
    plain = (weight * F.cross_entropy(query @ candidate.T / 0.3 - log_q, target, reduction="none")).sum() / weight.sum()
    expected = torch.autograd.grad(plain, (query, candidate))
    loss = sampled_softmax(query, candidate, target_B=target, log_q_M=log_q, weight_B=weight, temperature=0.3, cells=block * candidates)
    got = torch.autograd.grad(loss, (query, candidate))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 30), st.integers(1, 64), st.booleans())
def test_what_else_its_query_is_asked_for_is_no_negative(seed, rows, candidates, block, refined):
    """log(1 + Σ e^(s_d − s)) over the candidates d that no row of the same query has; the correction of its own is the row's alone."""
    query, candidate, target, log_q, weight = problem(seed, rows, candidates)
    row = torch.randint(max(rows // 3, 1), (rows,), generator=torch.Generator().manual_seed(seed))
    logit = query @ candidate.T / 0.3
    liked = torch.zeros_like(logit, dtype=torch.bool).index_put((row, target), torch.tensor(True))
    rest = (logit - log_q).masked_fill(liked, float("-inf")).logsumexp(1)[row]
    own = logit[row, target] - (0.0 if refined else log_q[target])
    plain = (weight * F.softplus(rest - own)).sum() / weight.sum()
    expected = torch.autograd.grad(plain, (query, candidate))
    loss = (refined_softmax if refined else sampled_softmax)(
        query, candidate, target_B=target, log_q_M=log_q, weight_B=weight, temperature=0.3, row_B=row, mask_positives=True,
        cells=block * candidates,
    )  # fmt: skip
    got = torch.autograd.grad(loss, (query, candidate))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6, abs=1e-12)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other.nan_to_num(), rtol=1e-6, atol=1e-9)


def test_draws_are_nobodys_and_so_cannot_be_masked():
    query, candidate, target, log_q, weight = problem(0, 3, 4)
    with pytest.raises(ValueError, match="mask_positives"):
        sampled_softmax(
            query, candidate, target_B=target, log_q_M=log_q, weight_B=weight, temperature=1.0, negative_N=torch.tensor([0]),
            mask_positives=True,
        )  # fmt: skip


def test_distinct_candidates_say_what_in_batch_says():
    query, candidate, _, log_q, weight = problem(3, 12, 12)
    own = torch.arange(12)
    one = sampled_softmax(query, candidate, target_B=own, log_q_M=log_q, weight_B=weight, temperature=0.2)
    other = in_batch_softmax(query, candidate, item_row_B=own, log_q_B=log_q, weight_B=weight, temperature=0.2)
    assert one.item() == pytest.approx(other.item(), rel=1e-6)


def test_another_copy_of_my_item_is_no_negative():
    logit = torch.zeros(3, 3)
    masked = mask_accidental_hits(logit, torch.tensor([7, 8, 7]))
    assert masked.isinf().tolist() == [[False, False, True], [False, False, False], [True, False, False]]


def test_weights_of_one_change_no_bit_and_a_constant_factor_changes_nothing():
    query, candidate, target, log_q, weight = problem(4, 20, 9)
    arguments = {"target_B": target, "log_q_M": log_q, "temperature": 0.1}
    ones = torch.ones(20, dtype=torch.float64)
    plain = F.cross_entropy(query @ candidate.T / 0.1 - log_q, target)
    assert sampled_softmax(query, candidate, weight_B=ones, **arguments).item() == pytest.approx(plain.item(), rel=1e-6)
    one = sampled_softmax(query, candidate, weight_B=weight, **arguments)
    assert sampled_softmax(query, candidate, weight_B=weight * 4, **arguments).item() == one.item()  # a power of two: to the last bit


def test_uniform_sampling_needs_no_correction():
    query, candidate, target, _, weight = problem(5, 20, 9)
    even, none = torch.full((9,), math.log(1 / 9), dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    one, other = (
        sampled_softmax(query, candidate, target_B=target, log_q_M=log_q, weight_B=weight, temperature=0.1) for log_q in (even, none)
    )
    assert one.item() == pytest.approx(other.item(), rel=1e-6)


def test_the_gradient_scales_with_what_is_done_to_the_loss():
    query, candidate, target, log_q, weight = problem(6, 7, 5)
    loss = sampled_softmax(query, candidate, target_B=target, log_q_M=log_q, weight_B=weight, temperature=1.0)
    once = torch.autograd.grad(loss, query, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * loss, query)[0], 3 * once)


def test_unknown_labels_carry_no_weight():
    logit, weight = torch.tensor([0.0, 5.0, 2.0]), torch.tensor([2.0, 7.0, 1.0])
    label = torch.tensor([1.0, float("nan"), 0.0])
    assert weighted_bce(logit, label, weight_B=weight).item() == pytest.approx((2 * math.log(2) + math.log(1 + math.exp(2))) / 3)
    assert weighted_squared_error(logit, label, weight_B=weight).item() == pytest.approx((2 * 1 + 4) / 3)
    nothing = torch.full((3,), float("nan"))
    assert weighted_bce(logit, nothing, weight_B=weight).item() == 0
    assert weighted_squared_error(logit, nothing, weight_B=weight).item() == 0


def test_half_precision_queries_meet_full_precision_candidates():
    query, candidate, target, log_q, weight = (tensor.float() if tensor.is_floating_point() else tensor for tensor in problem(7, 30, 11))
    arguments = {"target_B": target, "log_q_M": log_q, "weight_B": weight, "temperature": 0.5}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = sampled_softmax(query.bfloat16(), candidate, **arguments)
        narrow = sampled_softmax(query.bfloat16(), candidate.bfloat16(), **arguments)
    full = sampled_softmax(query, candidate, **arguments).item()
    assert mixed.dtype == narrow.dtype == torch.float32 and [mixed.item(), narrow.item()] == pytest.approx([full, full], rel=2e-2)


def heads(logit, label, weight, normaliser):
    """Every loss of a head, and the softmax of the logits beside zeros, by one normaliser."""
    known = ~label.isnan()
    softmax = sampled_softmax(
        logit[known, None], torch.tensor([[0.0], [1.0]], dtype=logit.dtype), target_B=(label[known] > 0).long(),
        log_q_M=torch.zeros(2, dtype=logit.dtype), weight_B=weight[known], temperature=1.0, weight_sum=normaliser(weight[known]),
    )  # fmt: skip
    return torch.stack(
        [
            weighted_bce(logit, label, weight_B=weight, normaliser=normaliser),
            weighted_squared_error(logit, label, weight_B=weight, normaliser=normaliser),
            softmax,
        ]
    )


labelled = st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0.0, 1.0, float("nan")]), st.floats(0.1, 50)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(labelled, st.floats(1e-3, 1e3))
def test_a_constant_factor_changes_no_self_normalised_loss_and_is_a_factor_of_the_plain_one(rows, factor):
    logit, label, weight = torch.tensor([*rows, (0.0, 1.0, 1.0)], dtype=torch.float64).T
    torch.testing.assert_close(
        heads(logit, label, factor * weight, by_weight), heads(logit, label, weight, by_weight), rtol=1e-12, atol=1e-14
    )
    torch.testing.assert_close(
        heads(logit, label, factor * weight, by_rows), factor * heads(logit, label, weight, by_rows), rtol=1e-12, atol=1e-14
    )


@settings(max_examples=40, deadline=None)
@given(labelled)
def test_weights_of_one_change_no_loss_by_a_bit(rows):
    logit, label, _ = torch.tensor([*rows, (0.0, 1.0, 1.0)], dtype=torch.float32).T
    known, ones = ~label.isnan(), torch.ones(len(logit))
    plain = (ones[known] * 1).sum()
    for normaliser in (by_weight, by_rows):
        bce, squared, _ = heads(logit, label, ones, normaliser)
        unweighted = F.binary_cross_entropy_with_logits(logit, label.nan_to_num(), reduction="none").masked_fill(~known, 0.0)
        assert bce.item() == (unweighted.sum() / plain).item()
        assert squared.item() == (((logit - label.nan_to_num()) ** 2).masked_fill(~known, 0.0).sum() / plain).item()
    assert heads(logit, label, ones, by_weight).tolist() == heads(logit, label, ones, by_rows).tolist()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 1), st.floats(0, 0.4), st.floats(0, 1), st.floats(0, 1))
def test_a_pseudo_label_is_right_on_the_mean_whatever_was_guessed(slope, offset, relevance, guess):
    slope = slope * (1 - offset)
    chance = slope * relevance + offset
    label = pseudo_label(
        *(torch.tensor(pair, dtype=torch.float64) for pair in ([1, 0], [slope] * 2, [offset] * 2, [guess] * 2)), floor=0.02
    )
    assert (label @ torch.tensor([chance, 1 - chance], dtype=torch.float64)).item() == pytest.approx(relevance, abs=1e-9)
    # and the loss, being linear in the label, is that of the relevance
    logit = torch.full((2,), 0.7, dtype=torch.float64)
    mixed = weighted_bce(logit, label, weight_B=torch.tensor([chance, 1 - chance], dtype=torch.float64))
    assert mixed.item() == pytest.approx(math.log1p(math.exp(0.7)) - 0.7 * relevance, abs=1e-9)


def test_pseudo_labels_by_hand():
    click, slope, offset = (
        torch.tensor([1.0, 0.0, 1.0, float("nan")]),
        torch.tensor([0.5, 0.5, 0.01, 0.5]),
        torch.tensor([0.1, 0.1, 0.0, 0.0]),
    )
    plain = pseudo_label(click, slope, offset, torch.zeros(4), floor=0.1)
    assert plain[:3].tolist() == pytest.approx([1.8, -0.2, 10.0]) and plain[3].isnan()  # (1 − 0.1)/0.5, −0.1/0.5, 1/floor
    robust = pseudo_label(click, slope, offset, torch.full((4,), 0.6), floor=0.1)
    assert robust[:3].tolist() == pytest.approx([0.6 + (0.9 - 0.3) / 0.5, 0.6 + (-0.1 - 0.3) / 0.5, 0.6 + (1 - 0.006) / 0.1])


def test_the_expected_slope_divides_where_one_is_given():
    """An item shown at slopes 0.2 and 0.8 alike: divided by their mean, a click counts the same wherever it fell, and the mean is right."""
    slope, expected, relevance = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64), 0.4
    for guess in (0.0, 0.4, 0.9):
        clicked, skipped = (
            pseudo_label(torch.full_like(slope, click), slope, 0 * slope, torch.full_like(slope, guess), floor=0.01, expected_B=expected)
            for click in (1.0, 0.0)
        )
        mean_2 = slope * relevance * clicked + (1 - slope * relevance) * skipped
        assert mean_2.mean().item() == pytest.approx(relevance)


def test_a_good_guess_makes_labels_calm():
    generator = torch.Generator().manual_seed(0)
    draw, relevance = torch.rand(2, 20_000, generator=generator, dtype=torch.float64)
    slope = torch.tensor([0.05, 0.55], dtype=torch.float64).repeat(10_000)
    click = (draw < slope * relevance).double()
    noise = {
        name: pseudo_label(click, slope, torch.zeros_like(slope), guess, floor=0.01, expected_B=expected) - relevance
        for name, guess, expected in (
            ("inverse", torch.zeros_like(slope), None),
            ("expected", torch.zeros_like(slope), torch.full_like(slope, 0.3)),
            ("robust", relevance, torch.full_like(slope, 0.3)),
        )
    }
    assert all(abs(of.mean().item()) < 0.05 for of in noise.values())
    assert noise["robust"].var() < noise["expected"].var() < noise["inverse"].var() / 3


NOBODY = float("-inf")


def test_a_choice_by_hand():
    """The first of two was chosen over one twice as likely to be looked at; the second stood alone."""
    own, skipped = torch.tensor([1.0, 5.0], requires_grad=True), torch.tensor([[0.5, 9.0], [9.0, 9.0]], requires_grad=True)
    odds = torch.tensor([[math.log(2), NOBODY], [NOBODY, NOBODY]])
    loss = choice_among_shown(own, skipped, log_odds_BS=odds, weight_B=torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-0.5)))
    for gradient in torch.autograd.grad(loss, (own, skipped)):
        assert bool(gradient.isfinite().all()) and gradient[1].abs().sum() == 0
    alone = choice_among_shown(own[1:], skipped[1:], log_odds_BS=odds[1:], weight_B=torch.zeros(1))
    assert alone.item() == 0
    without = choice_among_shown(own, torch.zeros(2, 0), log_odds_BS=torch.zeros(2, 0), weight_B=torch.ones(2))
    assert without.item() == 0


def test_a_choice_sees_what_is_wanted_whatever_was_shown_and_wherever_it_stood():
    """Three items of rising worth; the best is shown seldom, and at the bottom, where one in ten is looked at."""
    generator = torch.Generator().manual_seed(0)
    true, slope = torch.tensor([-4.0, -3.0, -2.0]), torch.tensor([1.0, 0.1])
    first = torch.randint(2, (600_000,), generator=generator)
    second = torch.where(torch.rand(600_000, generator=generator) < 0.3, 2, 1 - first)
    pair = torch.stack([first, second], dim=1)
    clicked = torch.rand(600_000, 2, generator=generator) < slope * true.exp()[pair]
    chosen = clicked.sum(1) == 1
    own = clicked[chosen].long().argmax(1, keepdim=True)
    odds = slope.log()[1 - own] - slope.log()[own]
    logit = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([logit], max_iter=50)

    def step():
        optimiser.zero_grad()
        own_B, skipped_BS = logit[pair[chosen].gather(1, own)[:, 0]], logit[pair[chosen].gather(1, 1 - own)]
        loss = choice_among_shown(own_B, skipped_BS, log_odds_BS=odds, weight_B=torch.ones(len(own)))
        loss.backward()
        return loss

    optimiser.step(step)
    torch.testing.assert_close((logit - logit[0]).detach()[1:], torch.tensor([1.0, 2.0]), atol=0.15, rtol=0)
