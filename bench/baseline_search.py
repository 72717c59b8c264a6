"""The settings that the baselines of bench/quality.py are searched over, and the search.

Shapes: E events.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy import sparse

from data.features import DAY_MS, is_liked
from data.log import Log
from towers.baselines import Baseline, Bm25, Cosine, Ease, ImplicitALS, ItemNeighbours, Popularity, PopularityFallback
from towers.evaluation import Scorer


def liked_events(log: Log) -> np.ndarray:
    """bool (E,): the positives."""
    return is_liked(log.event_code_E)


def all_events(log: Log) -> np.ndarray:
    """bool (E,): whatever a user did with an item, bad ratings too."""
    return np.ones(len(log.item_row_E), bool)


MATRIX: Mapping[str, Mapping[str, tuple]] = {
    "movietweetings": {"events": (liked_events, all_events), "half_life_days": (math.inf, 90.0, 30.0, 10.0, 5.0, 3.0, 2.0, 1.0)},
    "movielens": {"events": (liked_events,), "half_life_days": (math.inf, 3650.0, 1095.0, 365.0)},
}
"""What a baseline is fitted on: which events, and in how many days one loses half of its weight. One log spans months, one decades."""

BASELINES: Mapping[str, tuple[Callable[..., Baseline], Mapping[str, tuple]]] = {
    "popularity": (Popularity, {"half_life_days": (math.inf,)}),
    "recent popularity": (Popularity, {}),
    "item neighbours": (
        ItemNeighbours,
        {
            "weight": (Cosine(), Bm25(), Bm25(b=0.25), Bm25(b=1.0), Bm25(k1=100.0)),
            "neighbours": (100, 20, 50, 200, 500, 2000),
            "shrinkage": (0.0, 1.0, 3.0, 10.0, 30.0, 100.0),
        },
    ),
    "iALS": (
        ImplicitALS,
        {
            "factors": (64, 8, 16, 32, 128),
            "regularization": (1.0, 0.01, 0.1, 3.0, 10.0, 30.0),
            "alpha": (10.0, 1.0, 3.0, 30.0),
            "iterations": (15, 5, 30),
        },
    ),
    "EASE": (Ease, {"regularization": (100.0, 1.0, 3.0, 10.0, 30.0, 300.0, 1000.0, 3000.0, 10_000.0)}),
}
"""Name, class and the values searched, beside those of `MATRIX`; the first of each axis is where the search starts."""


def interactions(log: Log, *, events: Callable[[Log], np.ndarray], half_life_days: float) -> sparse.csr_matrix:
    """Users × items: the events that count, each 2^(-half lives between it and the end of `log`).

    Events of 60 half lives and more are left out: a float32 cannot hold their squares.
    """
    half_lives_E = (log.timestamp_E.max() - log.timestamp_E) / DAY_MS / half_life_days
    keep_E = events(log) & (half_lives_E < 60)
    shape = (len(log.user_ids), len(log.catalogue.item_ids))
    return sparse.csr_matrix((np.exp2(-half_lives_E[keep_E]), (log.user_row_E[keep_E], log.item_row_E[keep_E])), shape=shape)


def search(axes: Mapping[str, tuple], score: Callable[[dict], dict[str, float]]) -> list[tuple[dict, dict[str, float]]]:
    """Coordinate search: along each axis in turn with the others at their best, until a round changes nothing.

    Returns every setting tried with its scores; the search climbs the first of them.
    """
    tried: dict[tuple, dict[str, float]] = {}
    best = tuple(axis[0] for axis in axes.values())
    before = None
    while best != before:
        before = best
        for place, axis in enumerate(axes.values()):
            line = [(*best[:place], value, *best[place + 1 :]) for value in axis]
            for setting in line:
                if setting not in tried:
                    tried[setting] = score(dict(zip(axes, setting, strict=True)))
            best = max(line, key=lambda setting: next(iter(tried[setting].values())))
    return [(dict(zip(axes, setting, strict=True)), scores) for setting, scores in tried.items()]


def fit_baseline(make: Callable[..., Baseline], setting: dict, log: Log) -> Scorer:
    """A baseline on all of `log`; strangers to it are shown what is popular."""
    own = dict(setting)
    matrix = interactions(log, events=own.pop("events"), half_life_days=own.pop("half_life_days"))
    return PopularityFallback(make(**own)).fit(matrix)


def told(setting: dict) -> dict[str, str]:
    """A setting in words."""
    return {name: getattr(value, "__name__", str(value)) for name, value in setting.items()}
