"""Examination by regression-EM: relevance is learned from what is known of an impression, attention from what is left.

Wang et al. (WSDM 2018) alternate between who was probably looked at and wanted, a regression of the wanted on features, and the mean of
the looked at by position. Here each round is one step up the same likelihood of the clicks, P(click) = θ_k·γ(x): one tree for γ (by
Fisher's identity the slope of the expected complete likelihood is that of the clicks'), then the best θ given γ (Liu & Rubin 1994):
none of EM's slowness where clicks are rare. γ is learned from half of the people and used for the other: what fits one's own clicks
hides attention.

Shapes: P impressions · M cells of alike impressions · F features · K positions.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from data.curve import Estimate
from data.impressions import Shown
from data.overlap import OverlapError
from data.strata import expectation

ROUNDS = 150
LEAST = 1e-6
TREES = {
    "learning_rate": 0.1, "num_leaves": 15, "min_data_in_leaf": 5, "lambda_l2": 1.0, "max_bin": 127, "verbosity": -1, "num_threads": 1,
    "seed": 0, "deterministic": True, "force_col_wise": True,
}  # fmt: skip


def features(shown: Shown) -> np.ndarray:
    """What is known of an impression besides its position, int64 (P, F), each in some levels by its quantiles: its log propensity, the
    place that the propensities of its slate lead one to expect, with its spread (`data.strata.expectation`; 0 where unknown), arm, how
    often others clicked its item, and how often it was shown. What position does not follow, such as the hour, need not be known."""
    place_P, spread_P, known_P = expectation(shown)
    log_P = np.where(known_P, np.log(np.where(known_P, shown.logged_P, 1.0)), 1.0)  # an unknown one is a level of its own
    # what other people did with the item: a rate that knew one's own click would tell it
    items, half_P = int(shown.item_row_P.max()) + 1, shown.user_row_P % 2
    key_P = half_P * items + shown.item_row_P
    click_2I, shown_2I = np.bincount(key_P, shown.clicked_P, 2 * items), np.bincount(key_P, minlength=2 * items)
    other_P = (1 - half_P) * items + shown.item_row_P
    rate_P = (click_2I[other_P] + 20 * shown.clicked_P.mean()) / (shown_2I[other_P] + 20)
    levels = ((log_P, 24), (place_P, 48), (spread_P, 8), (rate_P, 8), (shown_2I[other_P], 4))
    return np.stack([shown.arm_P, *(_level(value_P, many) for value_P, many in levels)], 1)


def _level(value_P: np.ndarray, many: int) -> np.ndarray:
    return np.searchsorted(np.unique(np.quantile(value_P, np.linspace(0, 1, many + 1)))[1:-1], value_P, side="right")


class Cells(NamedTuple):
    """Impressions alike in position and features, once each: how many there were, and how many were clicked."""

    feature_MF: np.ndarray
    place_M: np.ndarray
    shown_M: np.ndarray
    click_M: np.ndarray


def cells(feature_PF: np.ndarray, place_P: np.ndarray, click_P: np.ndarray) -> tuple[Cells, np.ndarray]:
    """The cells, and the one that each impression is in."""
    key_P = np.zeros(len(place_P), np.int64)
    for column_P in (*feature_PF.T, place_P):
        key_P = np.unique(key_P * (int(column_P.max()) + 1) + column_P, return_inverse=True)[1]
    first_M = np.unique(key_P, return_index=True)[1]
    shown_M, click_M = np.bincount(key_P), np.bincount(key_P, click_P)
    return Cells(feature_PF[first_M], place_P[first_M], shown_M.astype(np.float64), click_M), key_P


def relevance(shown: Shown) -> np.ndarray:
    """γ(x) as other people's clicks taught it, (P,): the chance of a click at the top. Every position up to the last needs a click."""
    place_P, half_P = shown.position_P - 1, shown.user_row_P % 2
    alike, cell_P = cells(np.column_stack([features(shown), half_P]), place_P, shown.clicked_P.astype(np.float64))
    half_M = alike.feature_MF[:, -1]
    alike = alike._replace(feature_MF=alike.feature_MF[:, :-1])
    relevance_M = np.zeros(len(half_M))
    for half in (0, 1):
        learned = _ascend(Cells(*(column[half_M != half] for column in alike)), int(place_P.max()) + 1)
        relevance_M[half_M == half] = learned(alike.feature_MF[half_M == half])
    return relevance_M[cell_P]


def fit(shown: Shown) -> Estimate:
    """θ relative to the topmost position with clicks. The errors take γ as known, and so are too small; those of `data.harvest` do not.

    Raises:
        OverlapError: fewer than two positions with clicks.
    """
    clicks_K = np.bincount(shown.position_P - 1, shown.clicked_P)
    kept = np.flatnonzero(clicks_K)
    if len(kept) < 2:
        raise OverlapError(
            f"no overlap: position {kept[0] + 1 if len(kept) else '(none)'} alone has clicks among {len(shown.clicked_P):,} impressions,"
            " so that there is nothing to compare; choose an `examination` of data.examination.given, or certain"
        )
    shown = shown.where(clicks_K[shown.position_P - 1] > 0)
    shown = shown._replace(position_P=np.searchsorted(kept, shown.position_P - 1) + 1)
    relevance_P, place_P = relevance(shown), shown.position_P - 1
    theta_K = clicks_K[kept] / np.bincount(place_P, relevance_P)
    residual_P = (shown.clicked_P - theta_K[place_P] * relevance_P) / clicks_K[kept][place_P]
    user_P = np.unique(shown.user_row_P, return_inverse=True)[1]
    away_UK = np.bincount(user_P * len(kept) + place_P, residual_P, (int(user_P.max()) + 1) * len(kept)).reshape(-1, len(kept))
    error_K = np.sqrt(np.square(away_UK - away_UK[:, :1]).sum(0))
    slope, error = np.full(len(clicks_K), np.nan), np.full(len(clicks_K), np.nan)
    slope[kept], error[kept] = theta_K / theta_K[0], error_K
    return Estimate(slope, np.zeros(len(clicks_K)), error, clicks_K > 0)


def _ascend(cells: Cells, K: int) -> Callable[[np.ndarray], np.ndarray]:
    """From features to relevance."""
    import lightgbm  # here: it takes a second, and every training imports this file

    place_M = cells.place_M
    click_K = np.bincount(place_M, cells.click_M, K)
    rate_K = np.clip(click_K / np.maximum(np.bincount(place_M, cells.shown_M, K), 1), LEAST, 1 - LEAST)
    start = float(logit(rate_K[0]))

    def downhill(score_M: np.ndarray, _: object) -> tuple[np.ndarray, np.ndarray]:
        relevance_M = expit(start + score_M)
        theta_K = np.maximum(click_K, LEAST) / np.maximum(np.bincount(place_M, cells.shown_M * relevance_M, K), LEAST)
        theta_M = np.minimum(theta_K / theta_K[0], 1 / rate_K[0])[place_M]
        probability_M = np.clip(theta_M * relevance_M, LEAST, 1 - LEAST)
        slope_M, variance_M = theta_M * relevance_M * (1 - relevance_M), probability_M * (1 - probability_M)
        away_M = cells.shown_M * probability_M - cells.click_M
        return away_M * slope_M / variance_M, np.maximum(cells.shown_M * slope_M**2 / variance_M, LEAST)

    table = lightgbm.Dataset(cells.feature_MF.astype(np.float32), label=cells.click_M)
    booster = lightgbm.train({**TREES, "objective": downhill}, table, num_boost_round=ROUNDS)
    return lambda feature_MF: expit(start + booster.predict(feature_MF, raw_score=True))
