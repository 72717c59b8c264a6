"""Groups as tensors: what the ranker is told of each candidate, and what it learns.

Shapes: B, G groups · K items per group · N items of groups that are there · D width · C moment columns · U profile columns · X numbers ·
Y labels · T tasks · F features.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.bias import Bias, Chances
from data.features import MOMENT, NUMBERS, PROFILE
from data.judgements import LABELS, Judgements
from towers.losses import pseudo_label
from towers.ranker import TASKS, Answers
from towers.watch_time import WatchTime

logger = logging.getLogger(__name__)
DURATION = NUMBERS.index("log_duration_seconds")


class RankingBatch(NamedTuple):
    """B groups: user (B, a row of the log), query (B, D), moment (B, C), profile (B, U), item rows (B, K), numbers (B, K, X), which of the
    K are there, labels (B, K, Y) as `data.judgements.LABELS` and in its units, and of each task what is learned and how much it weighs
    (B, K, T).

    Labels and targets are NaN where unknown. Where nothing is there, nothing weighs.
    """

    user_row_B: Tensor
    query_BD: Tensor
    moment_BC: Tensor
    profile_BU: Tensor
    item_row_BK: Tensor
    number_BKX: Tensor
    there_BK: Tensor
    label_BKY: Tensor
    target_BKT: Tensor
    weight_BKT: Tensor


def feature_matrix(batch: RankingBatch, row_IW: Tensor, width: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Everything the ranker is told, one row for each candidate that is there, float32 (N, F), with the columns' names: the very same
    features for a model that reads tables. Rows stand group by group in the order of `batch`; of `row_IW` the input half is taken, its
    first `width` columns."""
    group_N, place_N = batch.there_BK.nonzero(as_tuple=True)
    parts = {
        "query": batch.query_BD[group_N],
        "moment": batch.moment_BC[group_N],
        "profile": batch.profile_BU[group_N],
        "candidate": row_IW[batch.item_row_BK[group_N, place_N], :width],
        "number": batch.number_BKX[group_N, place_N],
    }
    genres = batch.profile_BU.shape[1] - len(PROFILE)
    named = {"moment": MOMENT, "number": NUMBERS, "profile": (*(f"genre_share_{genre}" for genre in range(genres)), *PROFILE)}
    columns = [name for part, table in parts.items() for name in named.get(part, [f"{part}_{place}" for place in range(table.shape[1])])]
    return torch.cat([table.float() for table in parts.values()], dim=1).cpu().numpy(), tuple(columns)


class Features(NamedTuple):
    """What the ranker is told of G groups: queries (G, D), profiles (G, U), numbers (G, K, X)."""

    query_GD: Tensor
    profile_GU: Tensor
    number_GKX: Tensor


def answers_of(groups: Judgements, number_GKX: np.ndarray, watch_time: Callable[[np.ndarray, np.ndarray], WatchTime]) -> Answers:
    """What the groups to learn from say of the tasks. A task is known where its label takes more than one value; the others are said in
    the log, and count nothing in value."""
    label_NY, log_duration_N = groups.label_GKY[groups.there_GK], number_GKX[groups.there_GK, DURATION]
    value_Y = [column[~np.isnan(column)] for column in label_NY.T]
    known = tuple(bool(len(value) and value.min() < value.max()) for value in value_Y)
    if lacking := [task for task, there in zip(TASKS, known, strict=True) if not there]:
        logger.info("ranker: no labels, or always the same, of %s: left out of value", ", ".join(lacking))
    watched_N = ~np.isnan(label_NY[:, LABELS.index("watch_seconds")])
    rating = value_Y[LABELS.index("rating")]
    return Answers(
        watch_time(label_NY[watched_N, LABELS.index("watch_seconds")], log_duration_N[watched_N]),
        (float(rating.min()), float(rating.max())) if known[TASKS.index("rating")] else (0.0, 1.0),
        known,
    )


def targets(label: Tensor, log_duration: Tensor, answers: Answers) -> Tensor:
    """Labels (…, Y) as places in [0, 1] (…, T), NaN where unknown: watch times by their place among those of their duration (…), ratings by
    theirs between the least and the greatest."""
    click, complete, seconds, skip, rating = label.unbind(-1)
    low, high = answers.rating_range
    watch = answers.watch_time.quantile(seconds, log_duration)
    return torch.stack([click, complete, watch, skip, ((rating - low) / (high - low)).clamp(0, 1)], dim=-1)


class Corrected(NamedTuple):
    """What is learned of shown items, (N, T), and how much it weighs, (N, T): exposure, examination and false clicks undone."""

    target_NT: Tensor
    weight_NT: Tensor


def corrected(place_NT: Tensor, nothing_NT: Tensor, chances: Chances, imputed_N: Tensor, bias: Bias) -> Corrected:
    """What `targets` says of shown items, as if everybody had been shown them and looked.

    A click becomes a pseudo label (`towers.losses.pseudo_label`). What is known of an item whether or not it was clicked (`nothing_NT` is
    what it is where nobody looked: not completed, not skipped, the place of 0 seconds) departs from that only where somebody looked: the
    departure is divided by the slope. Both weigh 1 / exposure (`Bias.weigh`). What is known only after a click (a rating; anything, in a
    log that says nothing else of what was passed over) is learned as it is, and weighs 1 / (exposure · slope).
    """
    _, slope_N, offset_N, expected_N = (torch.as_tensor(column, dtype=torch.float32) for column in chances)
    looked = {"floor": bias.floor, "expected_B": expected_N}
    shown_N, clicked_N = (torch.as_tensor(bias.weigh(chances.exposure_N * then_N)) for then_N in (1.0, chances.expected_N))
    passed_over_N = place_NT[:, 0] == 0
    target_NT, weight_NT = place_NT.clone(), shown_N[:, None].repeat(1, len(TASKS))
    target_NT[:, 0] = pseudo_label(place_NT[:, 0], slope_N, offset_N, imputed_N, **looked)
    for task in range(1, len(TASKS)):
        if (passed_over_N & ~place_NT[:, task].isnan()).any():
            departure_N = place_NT[:, task] - nothing_NT[:, task]
            never_N = torch.zeros_like(departure_N)
            target_NT[:, task] = nothing_NT[:, task] + pseudo_label(departure_N, slope_N, never_N, never_N, **looked)
        else:
            weight_NT[:, task] = clicked_N
    return Corrected(target_NT, weight_NT)
