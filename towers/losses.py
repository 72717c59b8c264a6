"""Losses: pure functions of tensors, each reading as its formula.

Shapes: B rows · D width · M distinct candidates · H heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from data.bias import by_weight


def mask_accidental_hits(logit_BB: Tensor, item_row_B: Tensor) -> Tensor:
    """Another copy of my own item is no negative: its logit becomes −∞."""
    twin_BB = item_row_B[:, None] == item_row_B[None, :]
    twin_BB.fill_diagonal_(False)
    return logit_BB.masked_fill(twin_BB, float("-inf"))


def in_batch_softmax(
    query_BD: Tensor, item_BD: Tensor, *, item_row_B: Tensor, log_q_B: Tensor, weight_B: Tensor, temperature: float
) -> Tensor:
    """Pick each query's own item out of the batch: Σ w·CE(q·i/τ − log q) / Σ w, one column per row of the batch.

    Yi et al. 2019 (doi:10.1145/3298689.3346996). `sampled_softmax` says the same with one column per distinct
    item, and is what training uses: this is its readable twin, and the judge in its tests.
    """
    logit_BB = mask_accidental_hits(query_BD @ item_BD.T / temperature - log_q_B, item_row_B)
    loss_B = F.cross_entropy(logit_BB, torch.arange(len(logit_BB), device=logit_BB.device), reduction="none")
    return (weight_B * loss_B).sum() / weight_B.sum()


def sampled_softmax(
    query_BD: Tensor,
    candidate_MD: Tensor,
    *,
    target_B: Tensor,
    log_q_M: Tensor,
    weight_B: Tensor,
    temperature: float,
    weight_sum: Tensor | None = None,
    block: int = 1024,
) -> Tensor:
    """Pick each query's own candidate (column `target_B`) out of M distinct ones: Σ w·CE(q·c/τ − log q) / Σ w.

    The candidates decide what it is: the distinct items of the batch (log_q = log P(item in batch): in-batch negatives without
    accidental hits), those and uniform draws (mixed negatives), or the whole catalogue with log_q = 0 (the full softmax).
    B × M is never stored: `block` rows of logits at a time, with the gradients of a block taken while it is there.
    `weight_sum` replaces Σ w: of a larger batch that this one is a part of, or the number of rows, for plain inverse propensity weights.
    """
    total = weight_B.sum() if weight_sum is None else weight_sum
    dtype = torch.promote_types(query_BD.dtype, candidate_MD.dtype)
    with torch.autocast(query_BD.device.type, enabled=False):
        loss, _, _ = _BlockedSoftmax.apply(
            query_BD.to(dtype), candidate_MD.to(dtype), target_B, log_q_M, weight_B / total, temperature, block
        )
    return loss


class _BlockedSoftmax(torch.autograd.Function):
    """Forward computes both gradients: softmax minus one-hot is at hand there, and keeping it for later is what costs memory."""

    @staticmethod
    def forward(ctx, query_BD, candidate_MD, target_B, log_q_M, share_B, temperature, block):
        grad_query_BD = torch.empty_like(query_BD)
        grad_candidate_MD = torch.zeros_like(candidate_MD)
        wide = torch.promote_types(query_BD.dtype, torch.float32)  # sums are taken in float32 at least
        loss = torch.zeros((), dtype=wide, device=query_BD.device)
        scaled_MD = candidate_MD / temperature
        bias_M = -log_q_M.to(scaled_MD.dtype)
        buffer = torch.empty(min(block, len(query_BD)), len(candidate_MD), dtype=query_BD.dtype, device=query_BD.device)
        for start in range(0, len(query_BD), block):
            rows = slice(start, start + block)
            query_bD, target_b, share_b = query_BD[rows], target_B[rows, None], share_B[rows, None]
            logit_bM = torch.addmm(bias_M, query_bD, scaled_MD.T, out=buffer[: len(query_bD)])
            own_b1 = logit_bM.gather(1, target_b).to(wide)
            peak_b1 = logit_bM.amax(1, keepdim=True)
            exp_bM = logit_bM.sub_(peak_b1).exp_()
            sum_b1 = exp_bM.sum(1, keepdim=True, dtype=wide)
            loss += (share_b * (sum_b1.log() + peak_b1.to(wide) - own_b1)).sum()
            gradient_bM = exp_bM.mul_((share_b / sum_b1).to(exp_bM.dtype))
            gradient_bM.scatter_add_(1, target_b, -share_b.to(exp_bM.dtype))
            torch.mm(gradient_bM, scaled_MD, out=grad_query_BD[rows])
            grad_candidate_MD.addmm_(gradient_bM.T, query_bD, alpha=1 / temperature)
        ctx.save_for_backward(grad_query_BD, grad_candidate_MD)
        ctx.mark_non_differentiable(grad_query_BD, grad_candidate_MD)
        return loss, grad_query_BD, grad_candidate_MD

    @staticmethod
    def backward(ctx, grad, *_):
        grad_query_BD, grad_candidate_MD = ctx.saved_tensors
        return grad * grad_query_BD, grad * grad_candidate_MD, None, None, None, None, None


def pseudo_label(
    click_B: Tensor, slope_B: Tensor, offset_B: Tensor, imputed_B: Tensor, *, floor: float, expected_B: Tensor | None = None
) -> Tensor:
    """How wanted a shown item was, as far as its click tells: r̃ = r̂ + (click − offset − slope·r̂) / max(E[slope], floor).

    E[slope] is `expected_B`, how likely the item was to be looked at wherever it stood: the labels of an item then have the relevance as
    their mean over its places, and far less noise than divided each by its own slope (policy-aware, Oosterhuis & de Rijke 2020,
    arXiv 2005.09035); None takes the row's own slope. r̂ = 0 is inverse propensity weighting of affine clicks (Vardasbi et al. 2020,
    arXiv 2008.10242); a guess, even a wrong one, leaves the mean as it is where nothing is below the floor, and a good one makes it
    calmer (doubly robust, Oosterhuis 2023, arXiv 2203.17118). Divided by a row's own slope the guess cancels, but for rows below the
    floor, which it then fills in. A label may lie outside [0, 1]: an unbiased one has to. An unknown click (NaN) gives an unknown label.
    """
    divisor_B = slope_B if expected_B is None else expected_B
    return imputed_B + (click_B - offset_B - slope_B * imputed_B) / divisor_B.clamp_min(floor)


def weighted_bce(logit_B: Tensor, label_B: Tensor, *, weight_B: Tensor, normaliser: Callable[[Tensor], Tensor] = by_weight) -> Tensor:
    """Σ w·BCE / Σ w over the rows whose label is known (not NaN); 0 where none is. `normaliser=by_rows` divides by their number instead.

    BCE(z, y) = log(1 + e^z) − y·z is linear in the label, so that its mean over pseudo labels, which may lie outside [0, 1], is that of
    the labels they estimate.
    """
    known_B = ~label_B.isnan()
    loss_B = F.binary_cross_entropy_with_logits(logit_B, label_B.nan_to_num(), reduction="none")
    return weighted_mean(loss_B, weight_B * known_B, normaliser)


def weighted_squared_error(
    prediction_B: Tensor, label_B: Tensor, *, weight_B: Tensor, normaliser: Callable[[Tensor], Tensor] = by_weight
) -> Tensor:
    """Σ w·(ŷ − y)² / Σ w over the rows whose label is known (not NaN); 0 where none is."""
    return weighted_mean((prediction_B - label_B.nan_to_num()) ** 2, weight_B * ~label_B.isnan(), normaliser)


def weighted_mean(loss_B: Tensor, weight_B: Tensor, normaliser: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ w·l / normaliser(w); 0 where no row weighs anything."""
    return (weight_B * loss_B).sum() / normaliser(weight_B).clamp_min(torch.finfo(weight_B.dtype).tiny)
