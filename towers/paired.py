"""Two rankers' answers for the same rows, judged by the same figures, and what separates them with an interval over users.

A user's rows stand or fall together, so users are what is drawn with replacement; both answers are looked at in the same draw, and what
they share cancels (paired percentile bootstrap, Efron & Tibshirani 1993, chapter 13).

Shapes: N rows · U users · T different answers · P pairs of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from towers.metrics import Interval, auc, grouped_auc, mean_absolute_error
from towers.ranking_figures import xauc

Figure = Callable[[np.ndarray], float]
"""A figure as a function of how often each user counts, (U,)."""


class Rows(NamedTuple):
    """Whose each row is, and what came of it: user (N,), click and completion (0, 1), seconds watched; NaN unknown."""

    user_N: np.ndarray
    click_N: np.ndarray
    complete_N: np.ndarray
    watch_seconds_N: np.ndarray


class Said(NamedTuple):
    """What a ranker said of the rows: scores that rise with the probability of a click and of completion, and seconds, (N,) each. Two
    answers of seconds, for a model that has one for the least error and one for the best order; others give the same twice."""

    click_N: np.ndarray
    complete_N: np.ndarray
    seconds_N: np.ndarray
    seconds_order_N: np.ndarray


class Difference(NamedTuple):
    """A figure of one and of the other; `drawn_R` is the first less the second in R draws of users. Whoever asks with the same users and
    seed gets the same draws, so that means over several trainings may be taken draw by draw."""

    one: float
    other: float
    drawn_R: np.ndarray

    def interval(self, confidence: float = 0.95) -> Interval:
        """The difference with its percentile interval."""
        low, high = np.nanquantile(self.drawn_R, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(self.one - self.other, float(low), float(high))


def mean(several: Sequence[Difference]) -> Difference:
    """The mean of the same figure over several trainings that were asked about the same rows."""
    return Difference(*(np.mean(column, axis=0) for column in zip(*several, strict=True)))


def figures(said: Said, rows: Rows) -> dict[str, float]:
    """`click_auc`, `complete_auc` and both within users (`_gauc`), `watch_mae_seconds` and `watch_xauc`, each over the rows whose outcome
    is known. A figure that needs two kinds of rows is left out where there is one."""
    found = {}
    for name in ("click", "complete"):
        label_N = getattr(rows, f"{name}_N")
        known_N = ~np.isnan(label_N)
        score, label, user = (torch.as_tensor(column[known_N]) for column in (getattr(said, f"{name}_N"), label_N, rows.user_N))
        if len(label) and label.min() < label.max():
            found[f"{name}_auc"] = auc(score, label)
            if _mixed(label.numpy(), user.numpy()):
                found[f"{name}_gauc"] = grouped_auc(score, label, user).value
    known_N = ~np.isnan(rows.watch_seconds_N)
    seconds = torch.as_tensor(rows.watch_seconds_N[known_N])
    if len(seconds):
        found["watch_mae_seconds"] = mean_absolute_error(torch.as_tensor(said.seconds_N[known_N]), seconds)
        if seconds.min() < seconds.max():
            found["watch_xauc"] = xauc(torch.as_tensor(said.seconds_order_N[known_N]), seconds)
    return found


def _mixed(label_N: np.ndarray, user_N: np.ndarray) -> bool:
    _, user_N, count_U = np.unique(user_N, return_inverse=True, return_counts=True)
    return bool(((np.bincount(user_N, label_N) % count_U) > 0).any())


def compare(one: Said, other: Said, rows: Rows, *, resamples: int = 1000, pairs: int = 1_000_000, seed: int = 0) -> dict[str, Difference]:
    """Each of `figures` for both, and their difference in draws of users.

    The draws of XAUC look at so many `pairs` of rows, themselves drawn once, and lie about the difference over all pairs.
    """
    users, user_N = np.unique(rows.user_N, return_inverse=True)
    rng = np.random.default_rng(seed)
    exact = [figures(said, rows) for said in (one, other)]
    pair_P = _pairs(rows.watch_seconds_N, pairs, rng) if "watch_xauc" in exact[0] else None
    asked = [_weighed(said, rows._replace(user_N=user_N), pair_P, exact[0]) for said in (one, other)]
    drawn_RF = np.empty((resamples, len(exact[0])))
    for resample in range(resamples):
        count_U = np.bincount(rng.integers(0, len(users), len(users)), minlength=len(users)).astype(np.float64)
        drawn_RF[resample] = [asked[0][name](count_U) - asked[1][name](count_U) for name in exact[0]]
    everyone = np.ones(len(users))
    told = {}
    for place, (name, figure) in enumerate(exact[0].items()):
        shift = figure - exact[1][name] - (asked[0][name](everyone) - asked[1][name](everyone))
        told[name] = Difference(figure, exact[1][name], drawn_RF[:, place] + shift)
    return told


def _pairs(seconds_N: np.ndarray, pairs: int, rng: np.random.Generator) -> np.ndarray:
    known = np.flatnonzero(~np.isnan(seconds_N))
    pair_P2 = known[rng.integers(0, len(known), (pairs, 2))]
    return pair_P2[seconds_N[pair_P2[:, 0]] != seconds_N[pair_P2[:, 1]]]


def _weighed(said: Said, rows: Rows, pair_P: np.ndarray | None, wanted: Mapping[str, float]) -> dict[str, Figure]:
    makers = {
        "click_auc": lambda: weighed_auc(said.click_N, rows.click_N, rows.user_N),
        "complete_auc": lambda: weighed_auc(said.complete_N, rows.complete_N, rows.user_N),
        "click_gauc": lambda: weighed_gauc(said.click_N, rows.click_N, rows.user_N),
        "complete_gauc": lambda: weighed_gauc(said.complete_N, rows.complete_N, rows.user_N),
        "watch_mae_seconds": lambda: weighed_mae(said.seconds_N, rows.watch_seconds_N, rows.user_N),
        "watch_xauc": lambda: weighed_xauc(said.seconds_order_N, rows.watch_seconds_N, rows.user_N, pair_P),
    }
    return {name: makers[name]() for name in wanted}


def weighed_auc(score_N: np.ndarray, label_N: np.ndarray, user_N: np.ndarray) -> Figure:
    """`metrics.auc` with each row counted as often as its user."""
    known_N = ~np.isnan(label_N)
    order = np.argsort(score_N[known_N], kind="stable")
    score, positive, user = (column[known_N][order] for column in (score_N, label_N > 0, user_N))
    first_T = np.flatnonzero(np.diff(score, prepend=-np.inf) != 0)

    def figure(count_U: np.ndarray) -> float:
        weight = count_U[user]
        positive_T = np.add.reduceat(weight * positive, first_T)
        negative_T = np.add.reduceat(weight * ~positive, first_T)
        above_T = negative_T.cumsum() - negative_T / 2
        return float(positive_T @ above_T / (positive_T.sum() * negative_T.sum()))

    return figure


def weighed_gauc(score_N: np.ndarray, label_N: np.ndarray, user_N: np.ndarray) -> Figure:
    """`metrics.grouped_auc` by user, with each user counted so often."""
    known_N = ~np.isnan(label_N)
    score, label, user = (column[known_N] for column in (score_N, label_N, user_N))
    order = np.lexsort((score, user))
    score, positive, user = score[order], label[order] > 0, user[order]
    new_T = (np.diff(score, prepend=-np.inf) != 0) | (np.diff(user, prepend=-1) != 0)
    first_T = np.flatnonzero(new_T)
    size_T = np.diff(np.append(first_T, len(score)))
    place = np.repeat(first_T + (size_T - 1) / 2, size_T)  # ties share the mean of their places
    count, ups = np.bincount(user), np.bincount(user, positive)
    first_U = np.cumsum(count) - count
    above_U = np.bincount(user, positive * (place - first_U[user])) - ups * (ups - 1) / 2
    both_U = np.flatnonzero((ups > 0) & (ups < count))
    auc_U, size_U = above_U[both_U] / (ups * (count - ups))[both_U], count[both_U]

    def figure(count_U: np.ndarray) -> float:
        weight_U = count_U[both_U] * size_U
        return float(weight_U @ auc_U / weight_U.sum())

    return figure


def weighed_mae(seconds_N: np.ndarray, watched_N: np.ndarray, user_N: np.ndarray) -> Figure:
    """`metrics.mean_absolute_error` with each row counted as often as its user."""
    known_N = ~np.isnan(watched_N)
    error_U = np.bincount(user_N[known_N], np.abs(seconds_N - watched_N)[known_N], user_N.max() + 1)
    rows_U = np.bincount(user_N[known_N], minlength=user_N.max() + 1)
    return lambda count_U: float(count_U @ error_U / (count_U @ rows_U))


def weighed_xauc(score_N: np.ndarray, amount_N: np.ndarray, user_N: np.ndarray, pair_P2: np.ndarray) -> Figure:
    """`ranking_figures.xauc` over these pairs of rows, each counted as often as both its users."""
    above, below = pair_P2.T
    agree_P = np.sign(score_N[above] - score_N[below]) * np.sign(amount_N[above] - amount_N[below]) / 2 + 0.5
    agree_P, user_above, user_below = agree_P.astype(np.float32), user_N[above], user_N[below]

    def figure(count_U: np.ndarray) -> float:
        count_U = count_U.astype(np.float32)
        weight_P = count_U[user_above] * count_U[user_below]
        return float(weight_P @ agree_P / weight_P.sum(dtype=np.float64))

    return figure
