"""A reward model for the direct method and doubly robust estimates: how likely is a click, by who is asked and what is shown?

A logistic regression of four numbers that belong to none of the models it judges: how often the item was clicked where it was shown, and
how often this user clicked, both against what their positions let expect; how well the item's genres match the user's history; and the
position, which it forgets when it predicts. It learns from the parts before the test alone, so that it is independent of the rounds it is
used on, and the rates it learns by are those of other requests (cross-fitting; Chernozhukov et al. 2018).

Shapes: G groups · B groups of a block · K items per group, padded · U users · I catalogue · P impressions.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from data.features import label_match, liked_count
from data.judgements import Judgements
from data.log import Log
from towers.ranking_data import history_at

PRIOR = 3.0
"""Clicks, as many as expected, that every item and user is taken to have had before its own."""
HISTORY = 50
LEAST_CLICKS = 20


@dataclass(frozen=True, slots=True)
class ClickModel:
    """P(click) of any user and item at a position of the mean click rate; `item_I` and `user_U` are log(clicks / expected clicks)."""

    item_I: np.ndarray
    user_U: np.ndarray
    slope_3: np.ndarray
    intercept: float
    genre_IG: np.ndarray

    def predict(self, log: Log, groups: Judgements) -> np.ndarray:
        """Of every item for every group: float64 (G, I)."""
        every_BI = np.broadcast_to(np.arange(len(self.item_I)), (len(groups.now_G), len(self.item_I)))
        match_BI = label_match(_liked(log, groups, self.genre_IG), self.genre_IG, every_BI)
        logit_BI = self.slope_3[0] * self.item_I + self.slope_3[1] * self.user_U[groups.user_row_G, None] + self.slope_3[2] * match_BI
        return 1 / (1 + np.exp(-(logit_BI + self.intercept)))


def fit_click_model(log: Log, groups: Judgements) -> ClickModel | None:
    """Learn from groups (of parts before the test) whose outcomes are known; None where they hold fewer than twenty clicks."""
    click_GK = groups.label_GKY[..., 0]
    group_P, place_P = np.nonzero(groups.there_GK & ~np.isnan(click_GK))
    click_P = click_GK[group_P, place_P].astype(np.float64)
    if click_P.sum() < LEAST_CLICKS or click_P.all():
        return None
    item_P, at_P, user_P = groups.item_row_GK[group_P, place_P], groups.position_GK[group_P, place_P], groups.user_row_G[group_P]
    items, users = len(log.catalogue.item_ids), len(log.user_ids)
    clicks_S, shown_S = np.bincount(at_P, click_P), np.bincount(at_P)
    rate_P = ((clicks_S + click_P.mean()) / (shown_S + 1))[at_P]  # of the position, never quite 0
    lift_P2 = np.empty((len(click_P), 2))
    for fold in range(2):
        other_P, mine_P = group_P % 2 != fold, group_P % 2 == fold
        item_I = _lift(item_P[other_P], click_P[other_P], rate_P[other_P], items)
        user_U = _lift(user_P[other_P], click_P[other_P], rate_P[other_P], users)
        lift_P2[mine_P] = np.column_stack([item_I[item_P[mine_P]], user_U[user_P[mine_P]]])
    genre_IG = log.catalogue.genre_IG
    match_P = label_match(_liked(log, groups, genre_IG), genre_IG, groups.item_row_GK)[group_P, place_P]
    learnt = LogisticRegression(C=1.0, max_iter=1_000).fit(np.column_stack([lift_P2, match_P, _logit(rate_P)]), click_P)
    *slope_3, of_position = learnt.coef_[0]
    intercept = float(learnt.intercept_[0] + of_position * _logit(click_P.mean()))
    of_all = (click_P, rate_P)
    return ClickModel(_lift(item_P, *of_all, items), _lift(user_P, *of_all, users), np.array(slope_3), intercept, genre_IG)


def _liked(log: Log, groups: Judgements, genre_IG: np.ndarray) -> np.ndarray:
    return liked_count(genre_IG, history_at(log, groups.start_G, groups.end_G, groups.now_G, HISTORY))


def _lift(row_P: np.ndarray, click_P: np.ndarray, rate_P: np.ndarray, count: int) -> np.ndarray:
    """log((clicks + prior) / (expected clicks + prior)), (count,)."""
    return np.log((np.bincount(row_P, click_P, count) + PRIOR) / (np.bincount(row_P, rate_P, count) + PRIOR))


def _logit(rate):
    return np.log(rate / (1 - rate))
