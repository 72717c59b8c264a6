"""Laws of the blocked losses: what the written formula says, sampled ones on the way to the full softmax, and memory that stays small."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.frequency import inclusion, log_in_batch
from towers.contrastive import cosine_contrastive
from towers.losses import refined_softmax, sampled_softmax
from towers.negatives import SampledNegatives

shapes = {"seed": st.integers(0, 10_000), "queries": st.integers(1, 9), "pairs": st.integers(1, 40), "candidates": st.integers(2, 30)}


def problem(seed, queries, pairs, candidates, width=5):
    """Queries, candidates, which query a pair asks, for which candidate, log q and weights."""
    generator = torch.Generator().manual_seed(seed)
    query, candidate = (
        torch.randn(count, width, generator=generator, dtype=torch.float64, requires_grad=True) for count in (queries, candidates)
    )
    row, target = (torch.randint(count, (pairs,), generator=generator) for count in (queries, candidates))
    log_q = -torch.rand(candidates, generator=generator, dtype=torch.float64) * 3
    weight = torch.rand(pairs, generator=generator, dtype=torch.float64) + 0.1
    return query, candidate, row, target, log_q, weight


def agree(one, other, inputs):
    """Values and gradients."""
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    agree_in_gradient(one, other, inputs)


def agree_in_gradient(one, other, inputs):
    gradients = [torch.autograd.grad(of, inputs, retain_graph=True) for of in (one, other)]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(**shapes, cells=st.sampled_from([1, 200, 1 << 20]))
def test_pairs_that_share_queries_say_what_pairs_with_queries_of_their_own_say(seed, queries, pairs, candidates, cells):
    query, candidate, row, target, log_q, weight = problem(seed, queries, pairs, candidates)
    plain = (weight * F.cross_entropy(query[row] @ candidate.T / 0.3 - log_q, target, reduction="none")).sum() / weight.sum()
    loss = sampled_softmax(query, candidate, row_B=row, target_B=target, log_q_M=log_q, weight_B=weight, temperature=0.3, cells=cells)
    agree(loss, plain, (query, candidate))


@settings(max_examples=40, deadline=None)
@given(**shapes)
def test_the_refined_correction_is_the_papers_gradient_and_estimates_the_full_softmax(seed, queries, pairs, candidates):
    query, candidate, row, target, log_q, weight = problem(seed, queries, pairs, candidates)
    asked = query[row]
    own = (asked * candidate[target]).sum(1) / 0.3
    negative = (asked @ candidate.T / 0.3 - log_q).scatter(1, target[:, None], float("-inf")).logsumexp(1)
    wrong = 1 - torch.sigmoid(own - negative).detach()  # 1 − P̂
    paper = (weight * wrong * (negative - own)).sum() / weight.sum()
    value = (weight * torch.log1p((negative - own).exp())).sum() / weight.sum()
    loss = refined_softmax(asked, candidate, target_B=target, log_q_M=log_q, weight_B=weight, temperature=0.3, cells=200)
    agree(loss, value, (query, candidate))
    agree_in_gradient(loss, paper, (query, candidate))


def test_all_that_a_query_asks_for_is_there_for_certain():
    """One query, two positives: both uncorrected for both pairs, as each is sure to be in the batch."""
    query, candidate, _, _, log_q, _ = problem(5, 1, 1, 4)
    target, ones = torch.tensor([1, 3]), torch.ones(2, dtype=torch.float64)
    certain = log_q.clone()
    certain[target] = 0.0
    arguments = {"row_B": torch.zeros(2, dtype=torch.int64), "target_B": target, "log_q_M": log_q, "weight_B": ones}
    loss = refined_softmax(query, candidate, temperature=1.0, **arguments)
    agree(loss, F.cross_entropy(query.expand(2, -1) @ candidate.T - certain, target), (query, candidate))


@settings(max_examples=40, deadline=None)
@given(**shapes, drawn=st.integers(0, 12), loss_of=st.sampled_from([sampled_softmax, refined_softmax]))
def test_only_what_was_drawn_is_a_negative(seed, queries, pairs, candidates, drawn, loss_of):
    query, candidate, row, target, log_q, weight = problem(seed, queries, pairs, candidates)
    negative = torch.randperm(candidates, generator=torch.Generator().manual_seed(seed))[:drawn]
    there = torch.zeros(pairs, candidates, dtype=torch.bool)
    there[:, negative] = True
    there[torch.arange(pairs), target] = True
    logit = (query[row] @ candidate.T / 0.3 - log_q).masked_fill(~there, float("-inf"))
    if loss_of is refined_softmax:
        logit = logit + F.one_hot(target, candidates) * log_q
    plain = (weight * F.cross_entropy(logit, target, reduction="none")).sum() / weight.sum()
    arguments = {"row_B": row, "target_B": target, "log_q_M": log_q, "weight_B": weight, "temperature": 0.3}
    agree(loss_of(query, candidate, negative_N=negative, cells=50, **arguments), plain, (query, candidate))


def test_over_all_batches_the_refined_sum_is_that_of_the_catalogue():
    """A row of item 0 beside two rows drawn from the log: over the nine batches e^loss averages to the full softmax's, exactly."""
    query, candidate, _, _, _, _ = problem(1, 1, 1, 3)
    count, own = np.array([5, 3, 2]), torch.tensor([0])
    log_q = torch.as_tensor(log_in_batch(count, batch_size=2)).double()
    total = 0.0
    for pair in product(range(3), repeat=2):
        row_M = torch.tensor(sorted({0, *pair}))
        loss = refined_softmax(
            query, candidate[row_M], target_B=own, log_q_M=log_q[row_M], weight_B=torch.ones(1).double(), temperature=1.0
        )
        total += math.prod(count[list(pair)] / 10) * math.exp(loss.item())
    full = F.cross_entropy(query @ candidate.T, own)
    assert total == pytest.approx(math.exp(full.item()), rel=1e-6)


def error(negatives, loss_of, query, candidate, target, draws):
    """Root mean square distance of the loss's gradient to the full softmax's, over draws."""
    weight, items = torch.ones(len(target), dtype=torch.float64), torch.zeros(len(candidate), 0)
    full = torch.autograd.grad(F.cross_entropy(query @ candidate.T, target), candidate)[0]
    square = 0.0
    for _ in range(draws):
        row_M, target_B, negative_N = negatives(target)
        log_q = negatives.log_q(row_M, items)
        loss = loss_of(query, candidate[row_M], target_B=target_B, log_q_M=log_q, weight_B=weight, temperature=1.0, negative_N=negative_N)
        square += (torch.autograd.grad(loss, candidate)[0] - full).square().sum().item() / draws
    return math.sqrt(square)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_sampled_gradients_reach_the_full_softmax_as_negatives_grow(power):
    """One drawn with probability π and counted 1/π has the variance (1 − π)/π: the error falls as the root of its mean, to 0 at n = I."""
    torch.manual_seed(0)
    items, counts = 2_000, np.random.default_rng(0).integers(1, 50, 2_000)
    query = torch.randn(32, 8, dtype=torch.float64) * 0.15
    candidate = torch.randn(items, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(items, (32,))
    at = lambda count, loss_of: error(  # noqa: E731
        SampledNegatives(count_I=counts, batch_size=32, count=count, power=power), loss_of, query, candidate, target, draws=20
    )
    errors = {count: at(count, refined_softmax) for count in (125, 500, 1_000)}
    chances = {count: inclusion(counts.astype(float) ** power, count) for count in errors}
    law = [errors[count] / math.sqrt(((1 - chance) / chance).mean()) for count, chance in chances.items()]
    assert max(law) < 1.25 * min(law)
    assert at(items, refined_softmax) < 1e-12 and at(items, sampled_softmax) < 1e-12


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor made has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), known=None):
        made = function(*arguments, **(known or {}))
        self.numbers = max([self.numbers, *(of.numel() for of in tree_leaves(made) if isinstance(of, torch.Tensor))])
        return made


def largest_of(loss_of, rows, candidates, **known):
    """The largest tensor that a loss and its gradient make of so many rows and candidates, 8 wide."""
    query, candidate = torch.randn(rows, 8, requires_grad=True), torch.randn(candidates, 8, requires_grad=True)
    arguments = {"target_B": torch.arange(rows), "log_q_M": torch.zeros(candidates), "weight_B": torch.ones(rows), "temperature": 1.0}
    with Largest() as largest:
        loss_of(query, candidate, **arguments, **known).backward()
    return largest.numbers


@pytest.mark.parametrize("loss_of", [sampled_softmax, refined_softmax])
def test_no_batch_by_candidates_is_ever_stored(loss_of):
    """512 × 20,000 logits are ten million; at most as many are held as the candidates themselves have numbers, or `cells`."""
    assert largest_of(loss_of, 512, 20_000, cells=1) == 20_000 * 8
    assert largest_of(loss_of, 512, 20_000, cells=640_000) == 640_000


@pytest.mark.parametrize("loss_of", [refined_softmax, partial(cosine_contrastive, margin=0.1, negative_weight=2.0)])
def test_nor_is_batch_by_what_was_drawn(loss_of):
    assert largest_of(loss_of, 512, 5_000, negative_N=torch.arange(3_000), cells=30_000) <= 5_000 * 8
