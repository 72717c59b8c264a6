"""Examination by regression-EM: relevance is learned from what is known of an impression, attention from what is left.

Wang et al. (WSDM 2018) alternate between who was probably looked at and wanted, a regression of the wanted on features, and the mean of
the looked at by position. Here each round is one step up the same likelihood of the clicks, P(click) = a_k·γ(x) + b_k: one tree for γ (by
Fisher's identity the slope of the expected complete likelihood is that of the clicks'), then the best a_k, and b_k where trust bias is
asked for, at each position given γ (Liu & Rubin 1994): none of EM's slowness where clicks are rare.

Shapes: P impressions · M cells of alike impressions · F features · K positions.
"""

from collections.abc import Callable
from typing import NamedTuple

import lightgbm
import numpy as np
from scipy.special import expit, logit

from data.curve import Estimate
from data.impressions import Shown
from data.overlap import OverlapError
from data.strata import expectation

ROUNDS = 150
LEAST, TINY = 1e-6, 1e-300
UNWANTED = 0.01
"""The share of impressions, the least relevant ones, taken to be wanted by nobody, when an offset is estimated."""
TREES = {
    "learning_rate": 0.1, "num_leaves": 15, "min_data_in_leaf": 5, "lambda_l2": 1.0, "max_bin": 127, "verbosity": -1, "num_threads": 2,
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


Positions = Callable[[Cells, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From cells, their relevance (M,) and (a, b) as they are, to better ones: `slopes`, `lines`."""


def slopes(cells: Cells, relevance_M: np.ndarray, a_K: np.ndarray, b_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """No click without relevance: b = 0. One step of reweighted least squares of the clicks on relevance, at each position."""
    precision_M = _precision(cells.place_M, relevance_M, a_K, b_K)
    up_K = np.bincount(cells.place_M, precision_M * relevance_M * cells.click_M)
    down_K = np.bincount(cells.place_M, precision_M * relevance_M**2 * cells.shown_M)
    return np.maximum(up_K / np.maximum(down_K, TINY), LEAST), np.zeros(len(a_K))


def lines(cells: Cells, relevance_M: np.ndarray, a_K: np.ndarray, b_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clicks of trust too (Agarwal et al., WWW 2019): a line of its own at each position."""
    precision_M = _precision(cells.place_M, relevance_M, a_K, b_K)
    shown_M, click_M = precision_M * cells.shown_M, precision_M * cells.click_M
    sums = (shown_M, shown_M * relevance_M, click_M, shown_M * relevance_M**2, relevance_M * click_M)
    one_K, x_K, y_K, xx_K, xy_K = (np.bincount(cells.place_M, value_M) for value_M in sums)
    slope_K = np.maximum((one_K * xy_K - x_K * y_K) / np.maximum(one_K * xx_K - x_K**2, TINY), LEAST)
    return slope_K, (y_K - slope_K * x_K) / np.maximum(one_K, TINY)


def _precision(place_P: np.ndarray, relevance_P: np.ndarray, a_K: np.ndarray, b_K: np.ndarray) -> np.ndarray:
    probability_P = np.clip(a_K[place_P] * relevance_P + b_K[place_P], LEAST, 1 - LEAST)
    return 1 / (probability_P * (1 - probability_P))


def fit(shown: Shown, positions: Positions) -> Estimate:
    """Slope and offset by position, relative to the top, where they add up to 1 for what is surely clicked there.

    The errors take γ as known, and so are too small; those of `data.harvest` do not.

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
    place_P, click_P = np.searchsorted(kept, shown.position_P - 1), shown.clicked_P.astype(np.float64)
    alike, cell_P = cells(features(shown), place_P, click_P)
    relevance_M, a_K, b_K = _ascend(alike, positions, len(kept))
    error_K = _errors(place_P, click_P, relevance_M[cell_P], a_K, b_K, shown.user_row_P)
    if np.any(b_K):
        least = _quantile(relevance_M, alike.shown_M, UNWANTED)
        a_K, b_K = a_K * (1 - least), b_K + a_K * least
    columns = [np.full(len(clicks_K), np.nan) for _ in range(3)]
    for column, value in zip(columns, (a_K, b_K, error_K), strict=True):
        column[kept] = value
    return Estimate(*columns, clicks_K > 0)


def _at_top(a_K: np.ndarray, b_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relevance is the chance of a click at the top."""
    return np.concatenate([[1.0], a_K[1:]]), np.concatenate([[0.0], b_K[1:]])


def _quantile(value_M: np.ndarray, count_M: np.ndarray, share: float) -> float:
    order = np.argsort(value_M)
    return float(value_M[order][np.searchsorted(np.cumsum(count_M[order]), share * count_M.sum())])


def _ascend(cells: Cells, positions: Positions, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relevance (M,), and (a, b) by position."""
    place_M = cells.place_M
    rate_K = np.bincount(place_M, cells.click_M, K) / np.bincount(place_M, cells.shown_M, K)
    start = float(logit(np.clip(rate_K[0], LEAST, 1 - LEAST)))
    a_K, b_K = _at_top(np.maximum(rate_K / rate_K[0], LEAST), np.zeros(K))

    def downhill(score_M: np.ndarray, _: lightgbm.Dataset) -> tuple[np.ndarray, np.ndarray]:
        nonlocal a_K, b_K
        relevance_M = expit(start + score_M)
        a_K, b_K = _at_top(*positions(cells, relevance_M, a_K, b_K))
        slope_M = a_K[place_M] * relevance_M * (1 - relevance_M)
        precision_M = _precision(place_M, relevance_M, a_K, b_K)
        away_M = cells.shown_M * (a_K[place_M] * relevance_M + b_K[place_M]) - cells.click_M
        return away_M * precision_M * slope_M, np.maximum(cells.shown_M * slope_M**2 * precision_M, LEAST)

    table = lightgbm.Dataset(cells.feature_MF.astype(np.float32), label=cells.click_M)
    booster = lightgbm.train({**TREES, "objective": downhill}, table, num_boost_round=ROUNDS)
    relevance_M = expit(start + booster.predict(cells.feature_MF, raw_score=True))
    for _ in range(20):
        a_K, b_K = _at_top(*positions(cells, relevance_M, a_K, b_K))
    return relevance_M, a_K, b_K


def _errors(
    place_P: np.ndarray, click_P: np.ndarray, relevance_P: np.ndarray, a_K: np.ndarray, b_K: np.ndarray, user_P: np.ndarray
) -> np.ndarray:
    """Standard errors of log a (K,) given relevance, each user's impressions being one draw."""
    user_P = np.unique(user_P, return_inverse=True)[1]
    weight_P = _precision(place_P, relevance_P, a_K, b_K)
    K, U = len(a_K), int(user_P.max()) + 1
    count_K = np.maximum(np.bincount(place_P, weight_P, K), TINY)
    centre_K = np.bincount(place_P, weight_P * relevance_P, K) / count_K if np.any(b_K) else np.zeros(K)
    away_P = weight_P * (relevance_P - centre_K[place_P])
    curvature_K = np.bincount(place_P, away_P * (relevance_P - centre_K[place_P]), K)
    score_P = away_P * (click_P - a_K[place_P] * relevance_P - b_K[place_P])
    score_UK = np.bincount(user_P * K + place_P, score_P, U * K).reshape(U, K)
    return np.concatenate([[0.0], (np.sqrt((score_UK**2).sum(0)) / np.maximum(curvature_K, TINY) / a_K)[1:]])
