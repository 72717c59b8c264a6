"""Pure functions from ranks, lists and predictions to numbers, on whatever device the tensors are.

Ranks come in CSR form: rank_T holds the ranks (1 is the top) of all users' targets one after another, and user u owns
rank_T[offset[u]:offset[u + 1]], at least one. Lists hold item rows, best first, with -1 behind the last where items ran out.

Shape letters: U users · T targets of all users · K list length · I catalogue · D width · N predictions · G groups.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Interval(NamedTuple):
    """A mean over users and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


class GroupedAuc(NamedTuple):
    """`value` over the groups with both labels; `groups_left_out` had one label only, and no order to judge."""

    value: float
    groups: int
    groups_left_out: int


# --- From ranks --------------------------------------------------------------------------------------------------------


def _user_sum(value_T: Tensor, offset: Tensor) -> Tensor:
    length_U = offset.diff()
    if bool((length_U < 1).any()):
        raise ValueError(
            f"User {int((length_U < 1).nonzero()[0, 0])} has no target, so no rank metric is defined; leave such users out by `restrict`."
        )
    user_T = torch.repeat_interleave(torch.arange(len(length_U), device=offset.device), length_U)
    return torch.zeros(len(length_U), dtype=torch.float64, device=value_T.device).index_add_(0, user_T, value_T.double())


def recall(rank_T: Tensor, offset: Tensor, k: int) -> Tensor:
    """Share of a user's targets among the first k: hits / |targets|, (U)."""
    return _user_sum(rank_T <= k, offset) / offset.diff()


def hit_rate(rank_T: Tensor, offset: Tensor, k: int) -> Tensor:
    """1 where any target is among the first k, else 0, (U)."""
    return (_user_sum(rank_T <= k, offset) > 0).double()


def precision(rank_T: Tensor, offset: Tensor, k: int) -> Tensor:
    """Share of the first k places that hold a target: hits / k, (U)."""
    return _user_sum(rank_T <= k, offset) / k


def mrr(rank_T: Tensor, offset: Tensor, k: int) -> Tensor:
    """1 / rank of the best target, 0 if it is not among the first k, (U). Voorhees, TREC-8 1999."""
    user_T = torch.repeat_interleave(torch.arange(len(offset) - 1, device=offset.device), offset.diff())
    best_U = torch.zeros_like(_user_sum(rank_T, offset))
    return best_U.scatter_reduce_(0, user_T, (rank_T <= k) / rank_T.double(), "amax")


def ndcg(rank_T: Tensor, offset: Tensor, k: int) -> Tensor:
    """Σ over hits 1/log2(1 + rank), over the same sum for min(k, |targets|) hits at the top, (U).

    Binary gains; Järvelin & Kekäläinen, TOIS 2002.
    """
    gain_T = torch.where(rank_T <= k, 1 / torch.log2(1 + rank_T.double()), 0.0)
    ideal_k = (1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=offset.device))).cumsum(0)
    return _user_sum(gain_T, offset) / ideal_k[offset.diff().clamp(max=k) - 1]


def restrict(rank_T: Tensor, offset: Tensor, keep_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Only the targets in `keep_T` (bool), at the ranks they have; users left without a target are left out.

    Returns ranks, offset, and which of the U users remain (int64).
    """
    user_T = torch.repeat_interleave(torch.arange(len(offset) - 1, device=offset.device), offset.diff())[keep_T]
    user, count = user_T.unique_consecutive(return_counts=True)
    return rank_T[keep_T], F.pad(count.cumsum(0), (1, 0)), user


# --- Slices ------------------------------------------------------------------------------------------------------------


def history_slices(history_length_U: Tensor) -> dict[str, Tensor]:
    """Four masks (U) by the number of items in the user's training history: none, 1 to 3, 4 to 10, 11 and more."""
    n = history_length_U
    return {"history_0": n == 0, "history_1_3": (n >= 1) & (n <= 3), "history_4_10": (n >= 4) & (n <= 10), "history_11_up": n >= 11}


def popularity_decile(train_count_I: Tensor) -> Tensor:
    """0 for an item unseen in training (cold); else 1 to 10 by the share of seen items that are strictly rarer, (I).

    Items of equal count share a decile, so a long tail of once-seen items makes the first wide and its next empty.
    """
    warm = train_count_I[train_count_I > 0].sort().values
    rarer_I = torch.searchsorted(warm, train_count_I.contiguous())
    decile_I = 1 + 10 * rarer_I // max(1, len(warm))
    return torch.where(train_count_I > 0, decile_I, 0)


# --- From lists --------------------------------------------------------------------------------------------------------


def _list_mean(value_UK: Tensor, top_item_row_UK: Tensor) -> Tensor:
    shown_UK = top_item_row_UK >= 0
    length_U = shown_UK.sum(1)
    if bool((length_U == 0).any()):
        raise ValueError(
            f"The list of user {int((length_U == 0).nonzero()[0, 0])} is empty; no item was left to recommend. Leave the user out."
        )
    return value_UK.where(shown_UK, 0).sum(1) / length_U


def catalogue_coverage(top_item_row_UK: Tensor, item_count: int) -> float:
    """Share of the catalogue that stands in at least one list. Ge et al., RecSys 2010."""
    return len(top_item_row_UK[top_item_row_UK >= 0].unique()) / item_count


def intra_list_diversity(top_item_row_UK: Tensor, item_vector_ID: Tensor) -> Tensor:
    """1 - mean cosine of all pairs in a list, (U); 0 for a list of one. Ziegler et al., WWW 2005.

    A zero vector has cosine 0 with all. Uses Σ_{i≠j} cos = |Σ v|² - Σ |v|² of unit vectors, so no K × K is held.
    """
    unit_ID = F.normalize(item_vector_ID.double(), dim=1)
    shown_UK = (top_item_row_UK >= 0).double()
    row_UK = top_item_row_UK.clamp(min=0)
    sum_UD = F.embedding_bag(row_UK, unit_ID, mode="sum", per_sample_weights=shown_UK)
    square_U = (unit_ID.square().sum(1)[row_UK] * shown_UK).sum(1)
    length_U = shown_UK.sum(1)
    pairs_U = length_U * (length_U - 1)
    return torch.where(pairs_U > 0, 1 - (sum_UD.square().sum(1) - square_U) / pairs_U.clamp(min=1), 0.0)


def novelty(top_item_row_UK: Tensor, train_count_I: Tensor) -> Tensor:
    """Mean of -log2 p(item) over a list, bits, (U). Zhou et al., PNAS 2010.

    p = (count + 1) / (Σ count + I), Laplace's estimate, so that an item unseen in training has finite surprise.
    """
    count_I = train_count_I.double()
    bits_I = -torch.log2((count_I + 1) / (count_I.sum() + len(count_I)))
    return _list_mean(bits_I[top_item_row_UK.clamp(min=0)], top_item_row_UK)


def serendipity(
    top_item_row_UK: Tensor, expected_item_row_UK: Tensor, target_offset: Tensor, target_item_row_T: Tensor, item_count: int
) -> Tensor:
    """|(list - expected) ∩ relevant| / |list|, (U): hits that the popularity list would not have brought.

    Ge, Delgado-Battenfeld & Jannach, RecSys 2010, with the popularity baseline as the primitive recommender; relevant
    are the user's targets. `expected_item_row_UK` holds that baseline's lists for the same users.
    """
    user_U1 = torch.arange(len(top_item_row_UK), device=top_item_row_UK.device)[:, None]
    key_UK = user_U1 * item_count + top_item_row_UK
    expected = (user_U1 * item_count + expected_item_row_UK)[expected_item_row_UK >= 0]
    target_user_T = torch.repeat_interleave(user_U1[:, 0], target_offset.diff())
    relevant_UK = torch.isin(key_UK, target_user_T * item_count + target_item_row_T)
    return _list_mean((relevant_UK & ~torch.isin(key_UK, expected)).double(), top_item_row_UK)


def average_popularity(top_item_row_UK: Tensor, train_count_I: Tensor) -> Tensor:
    """Mean training count of the items in a list (ARP), (U). Abdollahpouri et al., FLAIRS 2019."""
    return _list_mean(train_count_I.double()[top_item_row_UK.clamp(min=0)], top_item_row_UK)


def exposure_gini(top_item_row_UK: Tensor, item_count: int) -> float:
    """Gini index of how often each item of the catalogue is listed: 0 all alike, near 1 a few take all.

    Σ (2i - I - 1) x_i / (I Σ x), x ascending, i from 1. Fleder & Hosanagar, Management Science 2009.
    """
    listed_I = torch.bincount(top_item_row_UK[top_item_row_UK >= 0], minlength=item_count).double().sort().values
    place_I = torch.arange(1, item_count + 1, dtype=torch.float64, device=listed_I.device)
    return float(((2 * place_I - item_count - 1) * listed_I).sum() / (item_count * listed_I.sum()))


# --- Intervals ---------------------------------------------------------------------------------------------------------


def bootstrap_mean(value_U: Tensor, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean over users with its percentile bootstrap interval. Efron & Tibshirani 1993, chapter 13.

    Users are drawn with replacement by a CPU generator of this seed, so the interval is the same on every device.
    """
    return bootstrap_means(value_U[:, None], confidence=confidence, resamples=resamples, seed=seed)[0]


def bootstrap_means(value_UM: Tensor, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> list[Interval]:
    """`bootstrap_mean` of M values of the same users, in the same draws of them: as many as one costs little more than one."""
    users = len(value_UM)
    if not users or not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"bootstrap_mean: {users} users, confidence {confidence}, resamples {resamples}; expected users, (0, 1), ≥ 1.")
    value_UM = value_UM.detach().double().cpu()
    generator = torch.Generator().manual_seed(seed)
    per_chunk = max(1, 2**21 // users)  # bounds the drawn indices at 16 MiB
    mean_RM = torch.cat([_drawn_means(value_UM, min(per_chunk, resamples - done), generator) for done in range(0, resamples, per_chunk)])
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64, device="cpu")
    low_M, high_M = torch.quantile(mean_RM, ends, dim=0)
    return [Interval(*of) for of in zip(value_UM.mean(0).tolist(), low_M.tolist(), high_M.tolist(), strict=True)]


def _drawn_means(value_UM: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    users = len(value_UM)
    drawn_RU = torch.randint(users, (draws, users), generator=generator, device="cpu")
    drawn_RU += users * torch.arange(draws, device="cpu")[:, None]
    return torch.bincount(drawn_RU.flatten(), minlength=draws * users).view(draws, users).double() @ value_UM / users


def bootstrap_difference(value_U: Tensor, other_U: Tensor, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean of `value_U - other_U` for the same users, with its paired bootstrap interval; what both share cancels."""
    if value_U.shape != other_U.shape:
        raise ValueError(
            f"bootstrap_difference: shapes {tuple(value_U.shape)} and {tuple(other_U.shape)}; pairs need the same users in one order."
        )
    return bootstrap_mean(value_U.double() - other_U.double(), confidence=confidence, resamples=resamples, seed=seed)


# --- From predictions --------------------------------------------------------------------------------------------------


def auc(score_N: Tensor, label_N: Tensor) -> float:
    """Probability that a positive scores above a negative, ties half. Hanley & McNeil, Radiology 1982.

    Raises:
        ValueError: only one label is there.
    """
    result = grouped_auc(score_N, label_N, torch.zeros_like(label_N, dtype=torch.int64))
    return result.value


def grouped_auc(score_N: Tensor, label_N: Tensor, group_N: Tensor) -> GroupedAuc:
    """AUC within each group (a user, a request), averaged with the group's size as weight. Zhou et al., KDD 2018.

    label_N is 0/1 or bool; group_N any whole numbers.

    Raises:
        ValueError: NaN scores, or no group has both labels.
    """
    if bool(score_N.isnan().any()):
        raise ValueError(f"grouped_auc: {int(score_N.isnan().sum())} of {len(score_N)} scores are NaN; a diverged model has no order.")
    group_N, size_G = group_N.unique(return_inverse=True, return_counts=True)[1:]
    order_N = score_N.argsort(stable=True)
    order_N = order_N[group_N[order_N].argsort(stable=True)]
    score_N, group_N, positive_N = score_N[order_N], group_N[order_N], label_N[order_N].double()
    new_N = torch.ones_like(group_N, dtype=torch.bool)
    new_N[1:] = (score_N[1:] != score_N[:-1]) | (group_N[1:] != group_N[:-1])
    tie_N = new_N.cumsum(0) - 1
    tie_size = torch.bincount(tie_N)
    last = tie_size.cumsum(0).double()  # a tie's members share the mean of their places
    place_N = ((2 * last - tie_size + 1) / 2)[tie_N] - (size_G.cumsum(0) - size_G)[group_N]
    zero_G = torch.zeros(len(size_G), dtype=torch.float64, device=score_N.device)
    positive_G = zero_G.index_add(0, group_N, positive_N)
    pairs_G = positive_G * (size_G - positive_G)
    above_G = zero_G.index_add(0, group_N, positive_N * place_N) - positive_G * (positive_G + 1) / 2
    both_G = pairs_G > 0
    if not bool(both_G.any()):
        raise ValueError(f"grouped_auc: none of {len(size_G)} groups has both a positive and a negative, so there is no pair to order.")
    value = ((above_G / pairs_G)[both_G] * size_G[both_G]).sum() / size_G[both_G].sum()
    return GroupedAuc(float(value), int(both_G.sum()), int((~both_G).sum()))


def log_loss(logit_N: Tensor, label_N: Tensor) -> float:
    """Mean of -log of the probability given to what happened, nats; from logits, so a sure mistake is not clamped."""
    return float(F.binary_cross_entropy_with_logits(logit_N.double(), label_N.double()))


def calibration_error(probability_N: Tensor, label_N: Tensor, *, bins: int = 20) -> float:
    """Σ over bins (n_b / N) |mean probability - mean label|: ECE with bins of equal count. Nixon et al., CVPRW 2019.

    Click probabilities crowd near 0, where bins of equal width would see one. Equal predictions share a bin.
    """
    probability_N, label_N = probability_N.double(), label_N.double()
    place = (torch.arange(1, bins, device=probability_N.device) * len(probability_N)) // bins
    bin_N = torch.bucketize(probability_N, probability_N.sort().values[place], right=True)
    gap_b = torch.zeros(bins, dtype=torch.float64, device=probability_N.device).index_add(0, bin_N, probability_N - label_N)
    return float(gap_b.abs().sum() / len(probability_N))


def mean_absolute_error(prediction_N: Tensor, value_N: Tensor) -> float:
    """Mean |prediction - value|, in the unit of both."""
    return float((prediction_N.double() - value_N.double()).abs().mean())
