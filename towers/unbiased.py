"""Figures that speak of what is wanted, where what was shown is not: targets weighed by their bias, and order within what was judged.

Shapes: U users · T targets of all users, one after another · Q questions · J judged events · D width · I catalogue.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from data.features import is_liked
from data.log import Log, Queries
from towers import metrics
from towers.evaluation import Ranking

logger = logging.getLogger(__name__)
JUDGED_K = 5


def tell_diagnostics(left: Mapping[str, float], lab_books: Sequence[Logger]) -> None:
    """Print and log what a bias leaves of the rows that are weighed, as `bias/…` at step 0."""
    logger.info("bias: %s", ", ".join(f"{name} {value:,.4g}" for name, value in left.items()))
    for lab_book in lab_books:
        lab_book.log_metrics({f"bias/{name}": value for name, value in left.items()}, step=0)


def weighted_means(ranking: Ranking, ks: Sequence[int], weight_T: Tensor) -> dict[str, Tensor]:
    """Means over users of what `per_user` gives, each target weighed by `weight_T`, its inverse chance of having been clicked if wanted
    (self-normalised, Yang et al. 2018, doi:10.1145/3240323.3240355). Weights of one give exactly the plain means.

    Of a user's n targets with weights w and their mean w̄: recall is Σ w·hit / Σ w; NDCG is Σ w·gain over the most that these w could
    have gained; precision is Σ (w/w̄)·hit / k; hit rate and MRR know no parts and stay. The mean over users is weighed by w̄, so that
    it is self-normalised over all of them, and users of one target are weighed too.

    Raises:
        ValueError: weights that are not above 0, or not one for each target.
    """
    if len(weight_T) != len(ranking.rank_T) or not bool((weight_T > 0).all()):
        raise ValueError(f"weighted_means: {len(weight_T)} weights for {len(ranking.rank_T)} targets, expected one above 0 for each.")
    rank_T, offset, weight_T = ranking.rank_T, ranking.targets.offset, weight_T.double()
    user_T, count_U = ranking.targets.user_index(), offset.diff()

    def total(value_T: Tensor) -> Tensor:
        return torch.zeros(len(count_U), dtype=torch.float64, device=value_T.device).index_add_(0, user_T, value_T)

    mean_U = total(weight_T) / count_U
    share_T = weight_T / mean_U[user_T]
    heavy_first_T = share_T.argsort(descending=True, stable=True)
    heavy_first_T = heavy_first_T[user_T[heavy_first_T].argsort(stable=True)]
    place_T = torch.arange(len(user_T), device=user_T.device) - offset[user_T]

    def mean(value_U: Tensor) -> Tensor:
        return ((mean_U * value_U).sum() / mean_U.sum()).float()

    result = {}
    for k in ks:
        hit_T = share_T * (rank_T <= k)
        ideal_U = total(share_T[heavy_first_T] * _discount(place_T + 1, k))
        result |= {
            f"recall_at_{k}": mean(total(hit_T) / count_U),
            f"hit_rate_at_{k}": mean(metrics.hit_rate(rank_T, offset, k)),
            f"ndcg_at_{k}": mean(total(share_T * _discount(rank_T, k)) / ideal_U),
            f"mrr_at_{k}": mean(metrics.mrr(rank_T, offset, k)),
            f"precision_at_{k}": mean(total(hit_T) / k),
        }
    return result


def _discount(rank_T: Tensor, k: int) -> Tensor:
    return torch.where(rank_T <= k, 1 / torch.log2(1 + rank_T.double()), 0.0)


def judged(log: Log, part: int, asked: Queries, query_QD: Tensor, vector_ID: Tensor) -> dict[str, float]:
    """How a part's questions order what their own users judged in it, liked or not: AUC over all pairs, within users (`gauc`), and NDCG@5.

    Where what is judged was drawn at random, as the test parts of Coat and of Yahoo! R3 are, these figures are free of any bias of
    exposure, whatever the training part was (Schnabel et al. 2016). An item judged twice counts as its last judgement. Empty where no user
    has judged both ways.
    """
    event = np.flatnonzero((log.part_E == part) & np.isin(log.user_row_E, asked.user_row_Q))
    pair = log.user_row_E[event] * len(log.catalogue.item_ids) + log.item_row_E[event]
    _, last = np.unique(pair[::-1], return_index=True)
    event = event[::-1][last]  # by user, then by item
    liked_J = torch.as_tensor(is_liked(log.event_code_E[event]))
    question_J = torch.as_tensor(np.searchsorted(asked.user_row_Q, log.user_row_E[event]))
    score_J = (query_QD.cpu()[question_J] * vector_ID.cpu()[torch.as_tensor(log.item_row_E[event])]).sum(1)
    times_Q2 = torch.bincount(2 * question_J + liked_J, minlength=2 * len(asked.user_row_Q)).view(-1, 2)
    both_Q = (times_Q2 > 0).all(1)
    if not bool(both_Q.any()):
        return {}
    keep_J = both_Q[question_J]
    score_J, liked_J, question_J = score_J[keep_J], liked_J[keep_J], question_J[keep_J].unique(return_inverse=True)[1]
    rank_J = _rank_within(score_J, liked_J, question_J)
    offset = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(question_J[liked_J]).cumsum(0)])
    return {
        "judged/auc": metrics.auc(score_J, liked_J),
        "judged/gauc": metrics.grouped_auc(score_J, liked_J, question_J).value,
        f"judged/ndcg_at_{JUDGED_K}": float(metrics.ndcg(rank_J[liked_J], offset, JUDGED_K).mean()),
        "judged/users": float(both_Q.sum()),
    }


def _rank_within(score_J: Tensor, liked_J: Tensor, user_J: Tensor) -> Tensor:
    """The rank of each event among its user's, 1 at the top; a tie is never in the favour of what was liked."""
    order_J = liked_J.to(torch.int8).argsort(stable=True)
    order_J = order_J[score_J[order_J].argsort(descending=True, stable=True)]
    order_J = order_J[user_J[order_J].argsort(stable=True)]
    first = torch.searchsorted(user_J, torch.arange(int(user_J.max()) + 1))
    rank_J = torch.empty_like(user_J)
    rank_J[order_J] = torch.arange(len(user_J)) - first[user_J] + 1
    return rank_J
