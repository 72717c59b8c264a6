"""Which impressions are alike but for their position: groups in which where a thing stood was chance.

A policy puts at the top what it believes in, and it is partly right: the same item stands higher for whom it suits. So its clicks at the
top are more than attention alone explains, and `by_item` is right only where position does not follow the person's taste. What the
policy believed stands in its propensities: given those of a whole slate, the order is chance of a known law, and `by_belief` compares
impressions that the law expected at the same place.

Shapes: P impressions · R requests · S slots of the longest slate · M kinds of pairs · Q knots.
"""

import logging

import numpy as np
from scipy.special import expit

from data.impressions import Shown

logger = logging.getLogger(__name__)

KNOTS = 32
LEVELS = 128
SLATES = 20_000
RIDGE = 1e-3
TIE = 1e-6
PLACE, SPREAD = 0.1, 0.1
"""Width of a group in expected place, and in the standard deviation of the place."""


def by_item(shown: Shown) -> np.ndarray:
    """The same item at several positions: int64 (P,). Assumes that within an item position does not follow the person's taste, as where
    all see one list in changing orders (intervention harvesting: Agarwal et al., WSDM 2019, arXiv:1812.05161). Needs no propensities."""
    return shown.item_row_P


def by_belief(shown: Shown) -> np.ndarray:
    """Impressions that the policy expected at the same place, within arm and shape of slate: int64 (P,).

    Assumes that given the propensities of a slate its order is chance, the same law in all slates of an arm: a propensity that grows with
    the score by which the policy orders, with noise. The place that a slate's other propensities lead one to expect, with its spread, is
    then a balancing score (Imai & van Dyk 2004, for Rosenbaum & Rubin 1983); impressions of the same such score differ in position by
    chance alone. What was certain to be shown, or stands at a ceiling or floor that several of a slate share, no longer tells what the
    policy thought of it: such impressions are each a group of its own, compared with nothing, and the others are placed among themselves,
    in the positions left. Slates with a missing propensity are grouped by item, with the assumption of `by_item`.
    """
    hidden_P = _hidden(shown)
    group_P = np.arange(len(hidden_P))
    if hidden_P.any():
        logger.info("harvest: %s of %s impressions stand at a ceiling or floor, compared with nothing", hidden_P.sum(), len(hidden_P))
    if not hidden_P.all():
        group_P[~hidden_P] = len(hidden_P) + _alike(shown.where(~hidden_P))
    return group_P


def _alike(shown: Shown) -> np.ndarray:
    place_P, spread_P, known_P = expectation(shown)
    key_P = np.zeros(len(place_P), np.int64)
    spaced = (np.floor(place_P / PLACE + 0.5), np.floor(spread_P / SPREAD + 0.5))
    for column_P in (shown.arm_P, _shape(shown), *(column_P.astype(np.int64) for column_P in spaced)):
        key_P = np.unique(key_P * (int(column_P.max()) + 1) + column_P, return_inverse=True)[1]
    return np.where(known_P, key_P, int(key_P.max()) + 1 + shown.item_row_P)


def _hidden(shown: Shown) -> np.ndarray:
    """Whether an impression was certain to be shown, or has the largest or the smallest propensity of its arm where slates hold several of
    those beside others, (P,)."""
    request_P, hidden_P = _places(shown)[0], shown.logged_P >= 1
    slots_R = np.bincount(request_P)
    for arm in np.unique(shown.arm_P):
        mine_P = shown.arm_P == arm
        if np.isnan(shown.logged_P[mine_P]).all():
            continue
        for end in (np.nanmax(shown.logged_P[mine_P]), np.nanmin(shown.logged_P[mine_P])):
            there_P = mine_P & (np.abs(shown.logged_P - end) <= TIE * end)
            tied_R = np.bincount(request_P, there_P)
            if ((tied_R > 1) & (tied_R < slots_R)).any():
                hidden_P |= there_P & (tied_R < slots_R)[request_P]
    return hidden_P


def expectation(shown: Shown) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each impression the mean and the standard deviation of how many of its slate the policy's law would put above it, and whether
    that is known: float64, float64 and bool (P,). Unknown, and 0, in a slate with a missing propensity."""
    request_P, slot_P = _places(shown)
    log_RS = np.full((int(request_P.max()) + 1, int(slot_P.max()) + 1), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_P = np.log(shown.logged_P)
    log_RS[request_P, slot_P] = log_P
    known_R = np.bincount(request_P, ~np.isfinite(log_P)) == 0
    place_RS, spread_RS = np.zeros(log_RS.shape), np.zeros(log_RS.shape)
    arm_R = np.zeros(len(known_R), np.int64)
    arm_R[request_P] = shown.arm_P
    for arm in np.unique(arm_R[known_R]):
        here = np.flatnonzero(known_R & (arm_R == arm))
        knot_Q, strength_Q = order_law(log_RS[here])
        place_RS[here], spread_RS[here] = expected_place(np.interp(log_RS[here], knot_Q, strength_Q))
    return place_RS[request_P, slot_P], spread_RS[request_P, slot_P], known_R[request_P]


def _places(shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    """Requests counted from 0 without gaps, and slots of each from 0, (P,)."""
    first_P = np.concatenate([[True], shown.request_P[1:] != shown.request_P[:-1]])
    request_P = np.cumsum(first_P) - 1
    return request_P, np.arange(len(request_P)) - np.flatnonzero(first_P)[request_P]


def _shape(shown: Shown) -> np.ndarray:
    """A number for each set of positions that a slate fills, (P,): in a shorter slate the same place is another position."""
    request_P = _places(shown)[0]
    token_K = np.random.default_rng(0).integers(1, 2**40, int(shown.position_P.max()) + 1)
    return np.unique(np.bincount(request_P, token_K[shown.position_P]), return_inverse=True)[1][request_P]


def order_law(log_RS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How strongly each log propensity pulls to the top: knots and the strength at each, (Q,), learned from which of two stood higher.

    P(a above b) = σ(strength(a) − strength(b)) (Bradley & Terry 1952; with Gumbel noise on a score exactly so: Plackett–Luce), the
    strength being piecewise linear. A little ridge keeps a law without chance finite. Slots from the top down, NaN where none.
    """
    value_P = log_RS[~np.isnan(log_RS)]
    knot_Q = np.unique(np.quantile(value_P, np.linspace(0, 1, KNOTS)))
    if len(knot_Q) < 2:
        return knot_Q, np.zeros(len(knot_Q))
    sample_RS = log_RS[:: -(-len(log_RS) // SLATES)]
    edge = np.unique(np.quantile(value_P, np.linspace(0, 1, LEVELS + 1)))
    level_RS = np.where(np.isnan(sample_RS), -1, np.searchsorted(edge[1:-1], sample_RS, side="right"))
    above_LL = np.zeros(len(edge) ** 2)
    for upper in range(sample_RS.shape[1]):
        for lower in range(upper + 1, sample_RS.shape[1]):
            both = level_RS[:, lower] >= 0
            above_LL += np.bincount(level_RS[both, upper] * len(edge) + level_RS[both, lower], minlength=len(above_LL))
    pair_M = np.flatnonzero(above_LL)
    basis_LQ = np.stack([np.interp((edge[:-1] + edge[1:]) / 2, knot_Q, one_Q) for one_Q in np.eye(len(knot_Q))], 1)
    contrast_MQ = basis_LQ[pair_M // len(edge)] - basis_LQ[pair_M % len(edge)]
    return knot_Q, _logistic(contrast_MQ, above_LL[pair_M])


def _logistic(contrast_MQ: np.ndarray, count_M: np.ndarray) -> np.ndarray:
    strength_Q = np.zeros(contrast_MQ.shape[1])
    for _ in range(100):
        probability_M = expit(contrast_MQ @ strength_Q)
        score_Q = contrast_MQ.T @ (count_M * (1 - probability_M)) - RIDGE * strength_Q
        information_QQ = (contrast_MQ * (count_M * probability_M * (1 - probability_M))[:, None]).T @ contrast_MQ
        step_Q = np.linalg.solve(information_QQ + RIDGE * np.eye(len(strength_Q)), score_Q)
        strength_Q += step_Q * min(1.0, 5.0 / max(np.abs(step_Q).max(), 1e-12))
        if np.abs(step_Q).max() < 1e-4:
            break
    return strength_Q


def expected_place(strength_RS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of how many of its slate stand above each item, (R, S); NaN strengths are empty slots.

    The comparisons with each other item are taken as independent for the deviation, which only has to tell alike from unlike.
    """
    mean_RS, variance_RS = np.zeros(strength_RS.shape), np.zeros(strength_RS.shape)
    for slot in range(strength_RS.shape[1]):
        above_RS = np.nan_to_num(expit(strength_RS[:, [slot]] - strength_RS))
        above_RS[:, slot] = 0
        mean_RS += above_RS
        variance_RS += above_RS * (1 - above_RS)
    return mean_RS, np.sqrt(variance_RS)
