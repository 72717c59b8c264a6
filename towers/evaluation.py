"""The one evaluation door: full ranking over the whole catalogue, seen items removed, ties never in the model's favour.

A scorer is anything that answers `score(user_row_B) -> score_BI`: a two-tower model, a baseline, a test's lambda. Every
number that is compared with another has come through `rank`.

Shape letters: U evaluated users · B users of a block · I catalogue · T targets of all users, one after another · S seen
items likewise · K depth of the lists · D width.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.split import SeenPolicy, seen_targets_miss
from towers import metrics

Scorer = Callable[[Tensor], Tensor]

BEYOND = 2**31 - 1
"""The rank of a target that is not among the first `depth`. Large, so that no k can take it for a hit."""

BLOCK_CELLS = {"cpu": 2**24}
"""Scores of one block, by device; 2^28 where nothing is said. 64 MiB on a CPU: large enough that the small steps of a block vanish beside
matmul and topk."""


class ItemLists(NamedTuple):
    """A list of items for each of U users, in CSR form; user u's items are `item_row[offset[u]:offset[u + 1]]`.

    offset: int64 (U + 1), starts at 0, never falls, ends at the number of items. item_row: int64.
    """

    offset: Tensor
    item_row: Tensor

    def user_index(self) -> Tensor:
        """For every item, which of the U users it belongs to (int64)."""
        length_U = self.offset.diff()
        return torch.repeat_interleave(torch.arange(len(length_U), device=length_U.device), length_U)


def item_lists(rows: Iterable[Sequence[int]]) -> ItemLists:
    """Pack Python lists; for tests and small hands. From SciPy: `ItemLists(from_numpy(indptr).long(), from_numpy(indices).long())`."""
    rows = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    length_U = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
    return ItemLists(length_U.cumsum(0), torch.cat([torch.zeros(0, dtype=torch.int64), *rows]))


@dataclass(frozen=True, slots=True)
class DotProduct:
    """Scores of two embedding tables: query_UD (one row per user_row) times item_ID transposed."""

    query_UD: Tensor
    item_ID: Tensor

    def __call__(self, user_row_B: Tensor) -> Tensor:
        return self.query_UD[user_row_B] @ self.item_ID.T


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a scorer did for U users.

    rank_T: 1 is the top; `BEYOND` where the target is not among the first `depth`. Aligned with `targets`.
    top_item_row_UK, top_score_UK: the list a user would have been shown, K = depth; -1 and -inf where the items ran out.
    seen_target_count: targets that stand in the same user's seen list; what became of them is the decision of `seen_policy`.
    """

    user_row_U: Tensor
    targets: ItemLists
    rank_T: Tensor
    top_item_row_UK: Tensor
    top_score_UK: Tensor
    depth: int
    seen_target_count: int
    seen_policy: SeenPolicy = seen_targets_miss


def removed(seen: ItemLists, targets: ItemLists, seen_policy: SeenPolicy, *, item_count: int) -> tuple[ItemLists, int]:
    """The seen items that a policy takes out of the running, and how many targets stand in their user's seen list."""
    key_S = seen.user_index() * item_count + seen.item_row
    is_target_S = torch.isin(key_S, targets.user_index() * item_count + targets.item_row)
    gone_S = seen_policy(is_target_S)
    gone_before = torch.nn.functional.pad(gone_S.cumsum(0), (1, 0))
    return ItemLists(gone_before[seen.offset], seen.item_row[gone_S]), len(key_S[is_target_S].unique())


def rank(
    score: Scorer,
    user_row_U: Tensor,
    targets: ItemLists,
    seen: ItemLists,
    *,
    item_count: int,
    depth: int = 100,
    block_users: int | None = None,
    seen_policy: SeenPolicy = seen_targets_miss,
) -> Ranking:
    """Rank all `item_count` items for each user and find the targets.

    A target's rank is 1 + the other items of at least its score, where another target of the same user goes before only
    by a higher score (equal targets stand in the order given). So a scorer that knows nothing, the same score for all,
    hits nothing as long as `depth` other items are in the running. A score of -inf means "not to be recommended". What becomes of the
    items in `seen`, and of a target that is one of them, is `seen_policy`'s to say (`data.split`: a split names it).

    The scorer is asked for blocks of users on the device of `user_row_U`; it returns floats (B, item_count) without NaN.
    Its tensor is masked in place and restored. `block_users` defaults to 2^24 scores on a CPU and 2^28 elsewhere.
    Among equal items that are no targets, which stand in the list is left to `torch.topk`.

    Raises:
        ValueError: lists that do not fit together, an item_row outside the catalogue, a target listed twice, a scorer
            that returns another shape or NaN.
    """
    for name, lists in (("targets", targets), ("seen", seen)):
        _check_lists(name, lists, user_count=len(user_row_U), item_count=item_count)
    if depth < 1:
        raise ValueError(f"rank: depth is {depth}, expected at least 1.")
    device = user_row_U.device
    targets, seen = (ItemLists(*(t.to(device, torch.int64) for t in lists)) for lists in (targets, seen))
    _refuse_repeats(targets.user_index() * item_count + targets.item_row, item_count)
    gone, seen_target_count = removed(seen, targets, seen_policy, item_count=item_count)

    block_users = block_users or max(1, BLOCK_CELLS.get(device.type, 2**28) // item_count)
    rank_T = torch.empty_like(targets.item_row)
    top_item_row_UK = torch.full((len(user_row_U), depth), -1, dtype=torch.int64, device=device)
    top_score_UK = torch.full((len(user_row_U), depth), -math.inf, dtype=torch.float32, device=device)
    target_bound, seen_bound = targets.offset.tolist(), gone.offset.tolist()
    target_user_T, seen_user_S = targets.user_index(), gone.user_index()
    for start in range(0, len(user_row_U), block_users):
        stop = min(start + block_users, len(user_row_U))
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):  # eight bits of a score would make ties
            block_T = slice(target_bound[start], target_bound[stop])
            block_S = slice(seen_bound[start], seen_bound[stop])
            score_BI = _checked_scores(score(user_row_U[start:stop]), (stop - start, item_count), device)
            rank_T[block_T], top_item_row_UK[start:stop], top_score_UK[start:stop] = _rank_block(
                score_BI,
                (target_user_T[block_T] - start, targets.item_row[block_T]),
                (seen_user_S[block_S] - start, gone.item_row[block_S]),
                depth,
                first_user=start,
            )
    return Ranking(user_row_U, targets, rank_T, top_item_row_UK, top_score_UK, depth, seen_target_count, seen_policy)


def _rank_block(
    score_BI: Tensor, target: tuple[Tensor, Tensor], seen: tuple[Tensor, Tensor], depth: int, *, first_user: int
) -> tuple[Tensor, Tensor, Tensor]:
    user_T, item_T = target
    seen_score_S = score_BI[seen]
    score_BI[seen] = -math.inf
    target_score_T = score_BI[target]  # after the seen mask: a target that the policy removed is at -inf
    score_BI[target] = -math.inf
    other_score_BK, other_item_BK = score_BI.topk(min(depth, score_BI.shape[1]), dim=1)  # NaN would stand first here
    score_BI[target] = target_score_T
    score_BI[seen] = seen_score_S
    _refuse_nan(other_score_BK, target_score_T, user_T, seen_score_S, seen[0], first_user)

    # Targets by user and falling score: the place in that order, within the user, is the targets that go before.
    order_T = target_score_T.argsort(descending=True, stable=True)
    order_T = order_T[user_T[order_T].argsort(stable=True)]
    first_B = torch.searchsorted(user_T, torch.arange(len(score_BI), device=user_T.device))
    before_T = torch.empty_like(user_T)
    before_T[order_T] = torch.arange(len(user_T), device=user_T.device) - first_B[user_T]
    not_below_T = (other_score_BK[user_T] >= target_score_T[:, None]).sum(1)
    found_T = (before_T + not_below_T < depth) & (not_below_T < depth) & (target_score_T > -math.inf)
    rank_T = torch.where(found_T, 1 + before_T + not_below_T, BEYOND)

    # Found targets take the places their ranks name; the other items fill what is free, in order.
    pad = depth - other_score_BK.shape[1]
    other_score_BK = torch.nn.functional.pad(other_score_BK, (0, pad), value=-math.inf)
    other_item_BK = torch.nn.functional.pad(other_item_BK, (0, pad), value=-1).masked_fill(other_score_BK == -math.inf, -1)
    place = (user_T[found_T], rank_T[found_T] - 1)
    free_BK = torch.ones_like(other_item_BK, dtype=torch.bool)
    free_BK[place] = False
    next_BK = (free_BK.cumsum(1) - 1).clamp(min=0)  # -1 only where a target stands, which is written next
    top_item_BK, top_score_BK = other_item_BK.gather(1, next_BK), other_score_BK.gather(1, next_BK)
    top_item_BK[place], top_score_BK[place] = item_T[found_T], target_score_T[found_T]
    return rank_T, top_item_BK, top_score_BK.float()


def _checked_scores(score_BI: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
    if tuple(score_BI.shape) != shape or not score_BI.is_floating_point():
        raise ValueError(
            f"The scorer returned {score_BI.dtype} {tuple(score_BI.shape)}, expected floats {shape}: one row per user, one column per item."
        )
    return score_BI.to(device).contiguous()  # an expanded row (popularity) cannot be masked per user


def _refuse_nan(other_BK: Tensor, target_T: Tensor, user_T: Tensor, seen_S: Tensor, seen_user_S: Tensor, first_user: int) -> None:
    nan_user = torch.cat([other_BK.isnan().any(1).nonzero()[:, 0], user_T[target_T.isnan()], seen_user_S[seen_S.isnan()]])
    if len(nan_user):
        raise ValueError(
            f"The scorer returned NaN for {len(nan_user.unique()):,} users of this block, the first at place"
            f" {first_user + int(nan_user.min())} of user_row_U; a diverged model cannot be"
            " ranked. Look at its loss, or use -inf for items not to be recommended."
        )


def _check_lists(name: str, lists: ItemLists, *, user_count: int, item_count: int) -> None:
    if len(lists.offset) != user_count + 1:
        raise ValueError(f"{name}.offset has {len(lists.offset)} entries, expected one more than the {user_count} users.")
    if int(lists.offset[0]) != 0 or int(lists.offset[-1]) != len(lists.item_row) or bool((lists.offset.diff() < 0).any()):
        raise ValueError(f"{name}.offset must start at 0, never fall and end at the {len(lists.item_row)} entries of item_row.")
    wrong = (lists.item_row < 0) | (lists.item_row >= item_count)
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0, 0])
        raise ValueError(f"{name}.item_row[{place}] is {int(lists.item_row[place])}, outside the catalogue of {item_count} items.")


def _refuse_repeats(target_key_T: Tensor, item_count: int) -> None:
    key, count = target_key_T.unique(return_counts=True)
    if bool((count > 1).any()):
        twice = int(key[count > 1][0])
        raise ValueError(
            f"targets lists item_row {twice % item_count} twice for the user at place {twice // item_count}; keep each target once."
        )


def per_user(ranking: Ranking, ks: Sequence[int], keep_T: Tensor | None = None) -> dict[str, Tensor]:
    """Recall, hit rate, NDCG, MRR and precision at each k, named `recall_at_20`; each of shape (users with a target).

    With `keep_T` (bool) only those targets are asked for, at the ranks they have in the full list, and users left
    without one leave the mean (their number is the length of the values): the way to look at cold items or a decile.

    Raises:
        ValueError: a k deeper than the ranking, or no user has a target.
    """
    if max(ks) > ranking.depth or min(ks) < 1:
        raise ValueError(
            f"per_user: ks are {list(ks)}, expected from 1 to the ranking's depth of {ranking.depth}; rank with a greater depth."
        )
    keep_T = torch.ones_like(ranking.rank_T, dtype=torch.bool) if keep_T is None else keep_T
    rank_T, offset, _ = metrics.restrict(ranking.rank_T, ranking.targets.offset, keep_T)
    if len(offset) == 1:
        raise ValueError("per_user: no user has a target, so there is nothing to average; look at the split.")
    of = (metrics.recall, metrics.hit_rate, metrics.ndcg, metrics.mrr, metrics.precision)
    return {f"{metric.__name__}_at_{k}": metric(rank_T, offset, k) for k in ks for metric in of}


def summary(value_by_name: dict[str, Tensor], *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Mean of each metric over users, and its bootstrap interval as `<name>_low` and `<name>_high`: ready for MLflow."""
    value_UM = torch.stack(list(value_by_name.values()), dim=1)
    intervals = metrics.bootstrap_means(value_UM, confidence=confidence, resamples=resamples, seed=seed)
    ends = {name: zip(("", "_low", "_high"), interval, strict=True) for name, interval in zip(value_by_name, intervals, strict=True)}
    return {f"{name}{end}": value for name, of in ends.items() for end, value in of}


def target_slices(ranking: Ranking, *, history_length_U: Tensor, train_count_I: Tensor) -> dict[str, Tensor]:
    """Masks (T) for `per_user`, of those slices that have a target: `history_0`, `history_1_3`, `history_4_10`,
    `history_11_up` by the user's training history, `cold_items`, and `popularity_decile_1` (rare) to `…_10` (popular)."""
    target_user_T = ranking.targets.user_index()
    decile_T = metrics.popularity_decile(train_count_I)[ranking.targets.item_row]
    keep_by_name = {name: mask_U[target_user_T] for name, mask_U in metrics.history_slices(history_length_U).items()}
    keep_by_name["cold_items"] = decile_T == 0
    keep_by_name |= {f"popularity_decile_{decile}": decile_T == decile for decile in range(1, 11)}
    return {name: keep_T for name, keep_T in keep_by_name.items() if bool(keep_T.any())}


def slices(ranking: Ranking, ks: Sequence[int], *, history_length_U: Tensor, train_count_I: Tensor) -> dict[str, float]:
    """Means within each of `target_slices`, named `cold_items/recall_at_20`, and the users they are over, `cold_items/users`."""
    result: dict[str, float] = {}
    for name, keep_T in target_slices(ranking, history_length_U=history_length_U, train_count_I=train_count_I).items():
        values = per_user(ranking, ks, keep_T)
        result |= {f"{name}/{metric}": float(value_U.mean()) for metric, value_U in values.items()}
        result[f"{name}/users"] = float(len(next(iter(values.values()))))
    return result


def beyond_accuracy(
    ranking: Ranking, k: int, *, train_count_I: Tensor, item_vector_ID: Tensor, expected_item_row_UK: Tensor
) -> dict[str, float]:
    """What the first k of the lists are like, whatever was hit; see each metric in `metrics`.

    `expected_item_row_UK` are the popularity baseline's lists for the same users (its `Ranking.top_item_row_UK`).
    `item_vector_ID` should be the same for all models that are compared, content vectors say: a model's own flatter it.
    """
    top_Uk = ranking.top_item_row_UK[:, :k]
    return {
        f"catalogue_coverage_at_{k}": metrics.catalogue_coverage(top_Uk, len(train_count_I)),
        f"intra_list_diversity_at_{k}": float(metrics.intra_list_diversity(top_Uk, item_vector_ID).mean()),
        f"novelty_at_{k}": float(metrics.novelty(top_Uk, train_count_I).mean()),
        f"serendipity_at_{k}": float(metrics.serendipity(top_Uk, expected_item_row_UK[:, :k], *ranking.targets, len(train_count_I)).mean()),
        f"average_popularity_at_{k}": float(metrics.average_popularity(top_Uk, train_count_I).mean()),
        f"exposure_gini_at_{k}": metrics.exposure_gini(top_Uk, len(train_count_I)),
    }


def beside_popularity(ranking: Ranking, seen: ItemLists, k: int, *, train_count_I: Tensor, item_vector_ID: Tensor) -> dict[str, float]:
    """`beyond_accuracy` of a ranking, what everybody expects being the popularity baseline's lists for the same users and policy."""
    popularity_I = train_count_I.float()
    popular = rank(
        lambda user_row_B: popularity_I.expand(len(user_row_B), -1), ranking.user_row_U, ranking.targets, seen,
        item_count=len(train_count_I), depth=k, seen_policy=ranking.seen_policy,
    )  # fmt: skip
    return beyond_accuracy(
        ranking, k, train_count_I=train_count_I, item_vector_ID=item_vector_ID, expected_item_row_UK=popular.top_item_row_UK
    )
