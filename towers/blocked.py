"""Losses over queries × candidates that are never stored: some rows at a time, their gradient taken while they are there.

One path for CPU and GPU: a block's work is three matrix products. Shapes: Q queries · P pairs · B rows · D width · M candidates ·
N negatives; small letters are of one block.
"""

from collections.abc import Callable

import torch
from torch import Tensor

CELLS = 1 << 22
"""Scores held at a time: few enough to stay near the processor, many enough for its matrix products."""


def blocked_softmax(
    query_QD: Tensor, candidate_MD: Tensor, *, row_P: Tensor | None, target_P: Tensor, share_P: Tensor, bias_M: Tensor,
    lift_P: Tensor, temperature: float, cells: int = CELLS, mask_positives: bool = False,
) -> Tensor:  # fmt: skip
    """Σ over pairs of share·CE(q·c/τ + bias), where query `row_P` is asked for candidate `target_P`; None: each pair has its own query.

    Pairs of one query share its row of logits, since their losses sum to n·log Σ exp − Σ own: the cost is a row for each query, as it is a
    column for each candidate. `lift_P` is added to the logit of each pair's own candidate, in the whole row. Held at a time are `cells`
    logits or M × D, whichever is more: memory O((Q + M)·D). `mask_positives`: what else its query is asked for is no negative of a pair.
    """
    pairs = [target_P, share_P, lift_P]
    if row_P is not None:
        row_P, order_P = row_P.sort()
        pairs = [column.index_select(0, order_P) for column in pairs]
    dtype = torch.promote_types(query_QD.dtype, candidate_MD.dtype)
    with torch.autocast(query_QD.device.type, enabled=False):
        loss, _, _ = _Softmax.apply(
            query_QD.to(dtype), candidate_MD.to(dtype), bias_M.to(dtype), temperature, cells, mask_positives, row_P, *pairs
        )
    return loss


class _Softmax(torch.autograd.Function):
    """Forward computes both gradients: softmax minus one-hot is at hand there, and keeping it for later is what costs memory."""

    @staticmethod
    def forward(ctx, query_QD, candidate_MD, bias_M, temperature, cells, mask_positives, row_P, target_P, share_P, lift_P):
        M, D = candidate_MD.shape
        grad_query_QD, grad_candidate_MD = torch.empty_like(query_QD), torch.zeros_like(candidate_MD)
        wide = torch.promote_types(query_QD.dtype, torch.float32)  # sums are taken in float32 at least
        share_P = share_P.to(wide)
        loss = torch.zeros((), dtype=wide, device=query_QD.device)
        block = min(max(cells // M, D), len(query_QD))
        starts = [*range(0, len(query_QD), block), len(query_QD)]
        if row_P is None:
            row_P, bounds = torch.arange(len(query_QD), device=query_QD.device), starts
        else:
            bounds = torch.searchsorted(row_P, torch.tensor(starts, device=row_P.device)).tolist()
        buffer = torch.empty(block, M, dtype=query_QD.dtype, device=query_QD.device)
        for start, first, end in zip(starts[:-1], bounds[:-1], bounds[1:], strict=True):
            query_qD = query_QD[start : start + block]
            row_p, share_p = row_P[first:end] - start, share_P[first:end]
            place_p = row_p * M + target_P[first:end]
            logit_qM = torch.addmm(bias_M, query_qD, candidate_MD.T, alpha=1 / temperature, out=buffer[: len(query_qD)])
            flat = logit_qM.view(-1)
            own_p = flat.index_select(0, place_p).to(wide) + lift_P[first:end]
            flat.index_copy_(0, place_p, own_p.to(flat.dtype))
            peak_q1 = logit_qM.amax(1, keepdim=True)
            exp_qM = logit_qM.sub_(peak_q1).exp_()
            peak_p = peak_q1[:, 0].index_select(0, row_p)
            if mask_positives:
                flat.index_fill_(0, place_p, 0.0)
                exp_p = (own_p - peak_p).exp()
            sum_p = exp_qM.sum(1, dtype=wide).index_select(0, row_p)
            if mask_positives:
                rest_p, sum_p = sum_p, (sum_p + exp_p).clamp_min(torch.finfo(wide).tiny)
            loss += (share_p * (sum_p.log() + peak_p - own_p)).sum()
            slope_q1 = share_p.new_zeros(len(query_qD)).index_add_(0, row_p, share_p / sum_p)[:, None]
            gradient_qM = exp_qM.mul_(slope_q1.to(exp_qM.dtype))
            pull_p = share_p * rest_p / sum_p if mask_positives else share_p
            flat.index_add_(0, place_p, -pull_p.to(flat.dtype))
            torch.mm(gradient_qM, candidate_MD, out=grad_query_QD[start : start + block])
            grad_candidate_MD.addmm_(gradient_qM.T, query_qD, alpha=1 / temperature)
        ctx.save_for_backward(grad_query_QD.div_(temperature), grad_candidate_MD)
        ctx.mark_non_differentiable(grad_query_QD, grad_candidate_MD)
        return loss, grad_query_QD, grad_candidate_MD

    @staticmethod
    def backward(ctx, grad, *_):
        grad_query_QD, grad_candidate_MD = ctx.saved_tensors
        return grad * grad_query_QD, grad * grad_candidate_MD, *[None] * 8


def of_rows(vector_QD: Tensor, row_B: Tensor | None) -> Tensor:
    """The vector of each row, (B, D); None: they are it already."""
    return vector_QD if row_B is None else vector_QD.index_select(0, row_B)


def against_negatives(
    formula: Callable[[Tensor, Tensor, Tensor, slice], Tensor], query_QD: Tensor, candidate_MD: Tensor, *, row_B: Tensor | None,
    target_B: Tensor, negative_N: Tensor | None, share_B: Tensor, cells: int = CELLS,
) -> Tensor:  # fmt: skip
    """Σ share·formula(own_b, score_bN, other_bN, rows): each row's score of its own candidate beside those of the negatives.

    `formula` gives the loss of each of a block's `rows`, (b,), which autograd reads; `other_bN` is False where a negative is the row's own
    candidate, which is none. `negative_N` are columns of the candidates, None all of them; `row_B` as in `blocked_softmax`.
    """
    query_BD = of_rows(query_QD, row_B)
    dtype = torch.promote_types(query_BD.dtype, candidate_MD.dtype)
    query_BD, candidate_MD = query_BD.to(dtype), candidate_MD.to(dtype)
    negative_ND = of_rows(candidate_MD, negative_N)
    if negative_N is None:
        negative_N = torch.arange(len(candidate_MD), device=candidate_MD.device)

    def summed(rows: slice, query_bD: Tensor, own_bD: Tensor, negative_ND: Tensor) -> Tensor:
        other_bN = target_B[rows, None] != negative_N
        return (share_B[rows] * formula((query_bD * own_bD).sum(1), query_bD @ negative_ND.T, other_bN, rows)).sum()

    block = max(cells // max(len(negative_N), 1), 1)
    with torch.autocast(query_BD.device.type, enabled=False):
        return _Rows.apply(summed, block, query_BD, candidate_MD.index_select(0, target_B), negative_ND)


class _Rows(torch.autograd.Function):
    """A sum over rows, block by block, each block's graph gone before the next one's is there."""

    @staticmethod
    def forward(ctx, summed, block, query_BD, own_BD, negative_ND):
        gradients = [torch.zeros_like(of) for of in (query_BD, own_BD, negative_ND)]
        loss = torch.zeros((), dtype=torch.promote_types(query_BD.dtype, torch.float32), device=query_BD.device)
        for start in range(0, len(query_BD), block):
            rows = slice(start, start + block)
            with torch.enable_grad():
                leaves = [of.detach().requires_grad_() for of in (query_BD[rows], own_BD[rows], negative_ND)]
                value = summed(rows, *leaves)
                query_bD, own_bD, all_ND = torch.autograd.grad(value, leaves)
            loss += value.detach()
            gradients[0][rows], gradients[1][rows] = query_bD, own_bD
            gradients[2] += all_ND
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx, grad):
        return None, None, *(grad * of for of in ctx.saved_tensors)
