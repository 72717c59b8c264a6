"""A reward model for the direct method and doubly robust estimates: how likely is a click, by who is asked and what is shown?

A logistic regression of three numbers that belong to none of the models it judges: how often the item was clicked where it was shown, how
often this user clicks, and how well the item's genres match the user's history. It learns from the parts before the test alone, so that
it is independent of the rounds it is used on, and its two rates are those of other requests (cross-fitting; Chernozhukov et al. 2018).

Shapes: G groups · B groups of a block · K items per group, padded · U users · I catalogue · F folds.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from data.features import genre_match, genre_share
from data.judgements import Judgements
from data.log import Log
from towers.ranking_data import history_at

PRIOR = 20.0
"""Impressions of the mean click rate that every item and user is taken to have had before its own."""
HISTORY = 50
LEAST_CLICKS = 20


@dataclass(frozen=True, slots=True)
class ClickModel:
    """P(click) of any user and item, as the log's mean over positions; `item_I` and `user_U` are logits of smoothed click rates."""

    item_I: np.ndarray
    user_U: np.ndarray
    slope_3: np.ndarray
    intercept: float
    genre_IG: np.ndarray

    def predict(self, log: Log, groups: Judgements) -> np.ndarray:
        """Of every item for every group: float64 (G, I)."""
        every_BI = np.broadcast_to(np.arange(len(self.item_I)), (len(groups.now_G), len(self.item_I)))
        match_BI = genre_match(_share(log, groups, self.genre_IG), self.genre_IG, every_BI)
        logit_BI = self.slope_3[0] * self.item_I + self.slope_3[1] * self.user_U[groups.user_row_G, None] + self.slope_3[2] * match_BI
        return _sigmoid(logit_BI + self.intercept)


def fit_click_model(log: Log, groups: Judgements) -> ClickModel | None:
    """Learn from groups (of parts before the test) whose outcomes are known; None where they hold fewer than twenty clicks."""
    click_GK = groups.label_GKY[..., 0]
    known_GK = groups.there_GK & ~np.isnan(click_GK)
    group_P, place_P = np.nonzero(known_GK)
    click_P = click_GK[group_P, place_P].astype(np.float64)
    if click_P.sum() < LEAST_CLICKS or click_P.all():
        return None
    item_P, user_P = groups.item_row_GK[group_P, place_P], groups.user_row_G[group_P]
    items, users = len(log.catalogue.item_ids), len(log.user_ids)
    rates_P = np.empty((len(click_P), 2))
    for fold in range(2):
        other_P, mine_P = group_P % 2 != fold, group_P % 2 == fold
        item_I = _rates(item_P[other_P], click_P[other_P], items, click_P.mean())
        user_U = _rates(user_P[other_P], click_P[other_P], users, click_P.mean())
        rates_P[mine_P] = np.column_stack([item_I[item_P[mine_P]], user_U[user_P[mine_P]]])
    genre_IG = log.catalogue.genre_IG
    match_GK = genre_match(_share(log, groups, genre_IG), genre_IG, groups.item_row_GK)
    learnt = LogisticRegression(C=1.0, max_iter=1_000).fit(np.column_stack([rates_P, match_GK[group_P, place_P]]), click_P)
    return ClickModel(
        _rates(item_P, click_P, items, click_P.mean()), _rates(user_P, click_P, users, click_P.mean()),
        learnt.coef_[0], float(learnt.intercept_[0]), genre_IG,
    )  # fmt: skip


def _share(log: Log, groups: Judgements, genre_IG: np.ndarray) -> np.ndarray:
    return genre_share(genre_IG, history_at(log, groups.start_G, groups.end_G, groups.now_G, HISTORY))


def _rates(row_P: np.ndarray, click_P: np.ndarray, count: int, mean: float) -> np.ndarray:
    """Logits of click rates, (count,), each with `PRIOR` impressions of the mean."""
    rate = (np.bincount(row_P, click_P, count) + PRIOR * mean) / (np.bincount(row_P, minlength=count) + PRIOR)
    return np.log(rate / (1 - rate))


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))
