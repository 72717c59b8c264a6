"""Whether what a model calls likely comes true as often as it says: the bins of a reliability diagram (DeGroot & Fienberg 1983).

Bins hold equally many *expected* events, so that each is as sure as the next: bins of equal width would put all of a rare event into the
first, and bins of equal count would see in most of them nothing happen.

Shapes: N predictions · Q questions · B of them · I catalogue · D width · T targets · S seen items · b bins.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from towers.evaluation import ItemLists


class Reliability(NamedTuple):
    """By bin, rising: mean predicted probability, the share that came true with its 95 % interval, and how many came true; float64 (b,).

    The interval is Wilson's (1927), as if every prediction were independent of the others."""

    predicted_b: Tensor
    observed_b: Tensor
    low_b: Tensor
    high_b: Tensor
    events_b: Tensor


def reliability(probability_N: Tensor, events_N: Tensor, trials_N: Tensor | None = None, *, bins: int = 10) -> Reliability:
    """Predictions in (up to) `bins` of equally many expected events. `events_N` of `trials_N` (1, where not told) came true.

    Raises:
        ValueError: nothing is expected to happen, so there is nothing to part.
    """
    order_N = probability_N.argsort()
    probability_N, events_N = probability_N[order_N].double(), events_N[order_N].double()
    trials_N = torch.ones_like(probability_N) if trials_N is None else trials_N[order_N].double()
    expected_N = probability_N * trials_N
    so_far_N = expected_N.cumsum(0)
    if not len(so_far_N) or not so_far_N[-1] > 0:
        raise ValueError(f"reliability: {len(so_far_N)} predictions expect no event at all, so there is nothing to hold against them.")
    bin_N = ((so_far_N - expected_N / 2) / so_far_N[-1] * bins).long().clamp(max=bins - 1)
    sums = torch.stack([torch.bincount(bin_N, column_N, minlength=bins) for column_N in (expected_N, trials_N, events_N)])
    expected_b, trials_b, events_b = sums[:, sums[1] > 0]
    share_b = events_b / trials_b
    z = 1.959964
    middle_b = (share_b + z**2 / (2 * trials_b)) / (1 + z**2 / trials_b)
    half_b = z * (share_b * (1 - share_b) / trials_b + z**2 / (4 * trials_b**2)).sqrt() / (1 + z**2 / trials_b)
    return Reliability(expected_b / trials_b, share_b, (middle_b - half_b).clamp(min=0), middle_b + half_b, events_b)


@torch.no_grad()
def softmax_reliability(
    query_QD: Tensor, vector_ID: Tensor, targets: ItemLists, seen: ItemLists, *, temperature: float, cells: int = 2**23, seed: int = 0
) -> Reliability:
    """A retrieval model's softmax over the catalogue, seen items left out, against what was wanted next.

    Each target is one draw from its question's softmax, so an item of a question with three targets has three trials. Questions are drawn
    until some `cells` scores are made: the bins of a few hundred thousand are as telling.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn_B = torch.randperm(len(query_QD), generator=generator)[: max(1, cells // len(vector_ID))].to(query_QD.device)
    place_Q = torch.full((len(query_QD),), -1, device=query_QD.device)
    place_Q[drawn_B] = torch.arange(len(drawn_B), device=query_QD.device)
    logit_BI = (query_QD[drawn_B] @ vector_ID.T).float() / temperature
    wanted, left_out = (_cells(lists, place_Q) for lists in (targets, seen))
    wanted_logit = logit_BI[wanted]
    logit_BI[left_out] = -torch.inf
    logit_BI[wanted] = wanted_logit  # a target that was seen may come again
    events_BI = torch.zeros_like(logit_BI)
    events_BI[wanted] = 1.0
    trials_BI = targets.offset.diff()[drawn_B][:, None].expand_as(logit_BI)
    may_BI = logit_BI > -torch.inf
    return reliability(*(table_BI[may_BI].cpu() for table_BI in (logit_BI.softmax(1), events_BI, trials_BI)))


def _cells(lists: ItemLists, place_Q: Tensor) -> tuple[Tensor, Tensor]:
    place = place_Q[lists.user_index()]
    return place[place >= 0], lists.item_row[place >= 0]
