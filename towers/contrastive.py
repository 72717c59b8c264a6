"""Losses that are no softmax, called as `towers.losses.sampled_softmax` is: a positive against negatives, or against nothing but its like.

Negatives drawn other than evenly count by 1 / q: as often as even draws would have brought them. Shapes: B rows · Q queries · D width ·
M candidates · N negatives; small letters are of one block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from towers.blocked import CELLS, against_negatives, of_rows
from towers.losses import shares


def gbce(
    query_QD: Tensor,
    candidate_MD: Tensor,
    *,
    target_B: Tensor,
    log_q_M: Tensor,
    weight_B: Tensor,
    temperature: float,
    t: float,
    weight_sum: Tensor | None = None,
    row_B: Tensor | None = None,
    negative_N: Tensor | None = None,
    cells: int = CELLS,
) -> Tensor:
    """Binary cross-entropy that negative sampling makes no more confident: Σ w·−(β·log σ(s) + Σ_k log σ(−s_k)) / (k + 1) / Σ w.

    gBCE (Petrov & Macdonald 2023, arXiv 2308.07192): β = α·(t·(1 − 1/α) + 1/α) = 1 − t·(1 − α), α the share of the catalogue that was
    drawn. t = 0 is plain binary cross-entropy, whose probabilities are too high by what was not drawn; at t = 1 they are calibrated, and
    gSASRec uses .75. s = q·c/τ.
    """

    def entropy(own_b: Tensor, score_bN: Tensor, other_bN: Tensor, rows: slice) -> Tensor:
        count_b = other_bN.sum(1)
        drawn_of_b = other_bN.to(inverse_N.dtype) @ inverse_N  # Σ 1 / q estimates how many there are to draw from
        beta_b = 1 - t * (1 - (count_b / drawn_of_b.clamp_min(1)).clamp_max(1))
        against_b = count_b * mean_of_others(F.logsigmoid(-score_bN / temperature), other_bN, inverse_N)
        return -(beta_b * F.logsigmoid(own_b / temperature) + against_b) / (count_b + 1)

    inverse_N = (-of_rows(log_q_M, negative_N)).exp()
    return against_negatives(
        entropy, query_QD, candidate_MD, row_B=row_B, target_B=target_B, negative_N=negative_N, share_B=shares(weight_B, weight_sum),
        cells=cells,
    )  # fmt: skip


def cosine_contrastive(
    query_QD: Tensor,
    candidate_MD: Tensor,
    *,
    target_B: Tensor,
    log_q_M: Tensor,
    weight_B: Tensor,
    temperature: float,
    margin: float,
    negative_weight: float,
    weight_sum: Tensor | None = None,
    row_B: Tensor | None = None,
    negative_N: Tensor | None = None,
    cells: int = CELLS,
) -> Tensor:
    """A positive's cosine to 1, a negative's below a margin: Σ w·[1 − cos + negative_weight · mean_k max(0, cos_k − margin)] / Σ w.

    CCL, of SimpleX (Mao et al. 2021, arXiv 2109.12613). The margin leaves easy negatives alone, `negative_weight` stands for how many there
    are. The temperature has no part in it.
    """

    def contrast(own_b: Tensor, score_bN: Tensor, other_bN: Tensor, rows: slice) -> Tensor:
        return 1 - own_b + negative_weight * mean_of_others((score_bN - margin).relu(), other_bN, inverse_N)

    inverse_N = (-of_rows(log_q_M, negative_N)).exp()
    return against_negatives(
        contrast, F.normalize(query_QD, dim=1), F.normalize(candidate_MD, dim=1), row_B=row_B, target_B=target_B, negative_N=negative_N,
        share_B=shares(weight_B, weight_sum), cells=cells,
    )  # fmt: skip


def mean_of_others(value_bN: Tensor, other_bN: Tensor, inverse_N: Tensor) -> Tensor:
    """Mean over each row's negatives, each as often as even draws would have brought it (1 / q); 0 for a row that has none."""
    weight_bN = other_bN * inverse_N
    return (weight_bN * value_bN).sum(1) / weight_bN.sum(1).clamp_min(torch.finfo(inverse_N.dtype).tiny)


def alignment_uniformity(
    query_QD: Tensor,
    candidate_MD: Tensor,
    *,
    target_B: Tensor,
    log_q_M: Tensor,
    weight_B: Tensor,
    temperature: float,
    gamma: float,
    weight_sum: Tensor | None = None,
    row_B: Tensor | None = None,
    negative_N: Tensor | None = None,
) -> Tensor:
    """Users beside their items, and both spread over the sphere: Σ w·‖q − c‖² / Σ w + γ·(uniformity of users + that of items) / 2.

    DirectAU (Wang et al. 2022, arXiv 2206.12811), of vectors of length 1; `spread` is the uniformity, over the rows of the batch. There are
    no negatives: candidates that are no row's own, log q and the temperature have no part in it.
    """
    query_QD, candidate_MD = F.normalize(query_QD, dim=1), F.normalize(candidate_MD, dim=1)
    distance_B = (of_rows(query_QD, row_B) - candidate_MD[target_B]).square().sum(1)
    place_B = torch.arange(len(query_QD), device=target_B.device) if row_B is None else row_B
    own_R, own_place_B = target_B.unique(return_inverse=True)
    both = spread(query_QD, place_B, weight_B) + spread(candidate_MD[own_R], own_place_B, weight_B)
    return (shares(weight_B, weight_sum) * distance_B).sum() + gamma * both / 2


def spread(vector_RD: Tensor, place_B: Tensor, weight_B: Tensor) -> Tensor:
    """log of the mean of e^(−2‖x − y‖²) over pairs of rows, by the product of their weights (Wang & Isola 2020, arXiv 2005.10242).

    Row b has vector `place_B[b]`, of length 1; there are two rows at least. Rows of one vector are pairs at distance 0, so that each
    distinct vector is looked at once.
    """
    weight_R = torch.zeros(len(vector_RD), dtype=vector_RD.dtype, device=vector_RD.device).index_add_(0, place_B, weight_B)
    square_R = torch.zeros_like(weight_R).index_add_(0, place_B, weight_B.square())
    pair_RR = weight_R[:, None] * weight_R
    pair_RR.diagonal().sub_(square_R)  # a row is no pair with itself
    near_RR = (4 * (vector_RD @ vector_RD.T).clamp_max(1) - 4).exp()
    return ((pair_RR * near_RR).sum() / pair_RR.sum()).log()
