"""How requests are answered, and how one went: what the recommender is told to do, and what `serve.why` looks back on.

Shapes: D width · K candidates · H heads.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data.features import PackedHistory
from serve import precompute
from serve.contract import Candidates
from serve.page import Page, Scored
from serve.rules import Rules
from serve.scoring import Person

SOURCES_OF = {
    "homepage": ("collaborative", "content", "trending", "popular", "editorial", "explore", "because"),
    "item": ("similar",),
    "continue": ("begun", "collaborative", "because", "popular"),
    "search-empty": ("trending", "popular", "editorial"),
}
NEED_QUERY = ("collaborative",)  # and sources of one's own: the others may look while the user tower is asked
NOBODY = ("trending", "popular", "editorial", "explore")  # asks for no history


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests are answered, besides the models: the rules of the page, when a precomputed slate will do, how long models are waited
    for."""

    rules: Rules = field(default_factory=Rules)
    ahead: precompute.Rule = precompute.Rule()
    deadline_ms: float = 500.0
    at_once: int = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Course:
    """How a request went, up to its page: what was proposed, what each filter said of it (bool by reason), what came through with the
    ranker's values (K, H) and the boosts' factors, and the page made of it."""

    who: Person
    history: PackedHistory
    query_BD: np.ndarray
    proposed: Candidates
    missing: Mapping[str, str]
    stays: Mapping[str, np.ndarray]
    candidates: Candidates
    value_KH: np.ndarray
    factors: Mapping[str, np.ndarray]
    scored: Scored
    page: Page
