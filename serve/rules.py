"""What the business wants, from config: boosts that fade, caps, how often one thing may be shown, where on the page what kind stands.

Models say what is likely; rules say what is done about it. Every rule says when it acted.

Shapes: K candidates · I catalogue.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from serve.catalogue import Catalogue

DAY_MS = 86_400_000
KINDS = ("trending", "new", "popular", "different")
CAPPED = ("genre", "creator", "franchise")


@dataclass(frozen=True, slots=True)
class Boost:
    """An item's worth times (1 + `factor` · 2^(−age / half_life_days)) while it ages; times (1 + `factor`) where there is no half-life.

    It concerns the items of this `genre`, `creator` or `franchise`; of every one, where none is named.
    """

    factor: float
    half_life_days: float | None = None
    genre: str | None = None
    creator: str | None = None
    franchise: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """Every how many places of a slate something of a kind stands, and at which place (from 1) it begins."""

    every: int
    first: int


@dataclass(frozen=True, slots=True)
class Explore:
    """Places (from 1) of a slate that with probability `epsilon` show a draw from the explore pool instead."""

    places: tuple[int, ...] = ()
    epsilon: float = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a page. `caps` is the most of one genre, creator or franchise in the first 25 places of a slate, twice as many in the
    first 50 and so on (`serve.slots.Cap`); `shown_most` how often an item is shown to a user within the store's `shown_days` before it
    rests; `new_days` until when an item is new."""

    boosts: Mapping[str, Boost] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    shown_most: int = 10
    shown_days: float = 7.0
    new_days: float = 30.0
    turns: Mapping[str, Turn] = field(default_factory=dict)
    explore: Explore = Explore()

    def __post_init__(self) -> None:
        for name, boost in self.boosts.items():
            if not -1 < boost.factor < math.inf or (boost.half_life_days is not None and not 0 < boost.half_life_days < math.inf):
                raise ValueError(f"rules.boosts.{name}: factor must be above -1 and half_life_days above 0, both finite")
        for what, known, given in (("caps", CAPPED, self.caps), ("turns", KINDS, self.turns)):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"rules.{what}: there is no {unknown[0]!r}; expected {', '.join(known)}")
        least = {f"turns.{kind}.{name}": getattr(turn, name) for kind, turn in self.turns.items() for name in ("every", "first")}
        least |= {f"caps.{name}": cap for name, cap in self.caps.items()} | {"shown_most": self.shown_most}
        if wrong := [name for name, number in least.items() if number < 1]:
            raise ValueError(f"rules.{wrong[0]} is {least[wrong[0]]}; expected at least 1")
        if not 0 < self.shown_days < math.inf:
            raise ValueError(f"rules.shown_days is {self.shown_days}; expected a finite number of days above 0")
        if not 0 <= self.new_days < math.inf:
            raise ValueError(f"rules.new_days is {self.new_days}; expected a finite number of days, 0 for nothing is new")
        places = self.explore.places
        if not 0 <= self.explore.epsilon <= 1 or len(set(places)) < len(places) or any(place < 1 for place in places):
            raise ValueError("rules.explore: epsilon must lie in [0, 1], places are counted from 1 and none stands twice")


def age_days(catalogue: Catalogue, item_row_K: np.ndarray, *, now: int) -> np.ndarray:
    """How long each item has been here, in days, never below 0: since it was posted or else released; NaN where nobody knows. `now` is
    ms UTC."""
    posted_K = catalogue.posted_at_I[item_row_K]
    day_K = np.where(posted_K >= 0, posted_K / DAY_MS, catalogue.release_day_I[item_row_K])
    return np.maximum(now / DAY_MS - day_K, 0.0)


def is_new(catalogue: Catalogue, item_row_K: np.ndarray, *, now: int, new_days: float) -> np.ndarray:
    """bool (K): here for at most `new_days`."""
    return np.nan_to_num(age_days(catalogue, item_row_K, now=now), nan=np.inf) <= new_days


def boosted(boosts: Mapping[str, Boost], catalogue: Catalogue, item_row_K: np.ndarray, *, now: int) -> dict[str, np.ndarray]:
    """What each boost multiplies each candidate's probability by: its name → float (K), 1 where it does not act."""
    age_K = age_days(catalogue, item_row_K, now=now)
    factors = {}
    for name, boost in boosts.items():
        strength_K = np.ones(len(age_K)) if boost.half_life_days is None else np.nan_to_num(2.0 ** (-age_K / boost.half_life_days))
        factors[name] = 1 + boost.factor * strength_K * _concerned(boost, catalogue, item_row_K)
    return factors


def labels(caps: Mapping[str, int], catalogue: Catalogue, item_row_K: np.ndarray) -> dict[str, np.ndarray]:
    """What each cap counts, numbers with −1 for none: int64 (K, G) for genres, of which an item may bear several, (K,) otherwise."""
    of = {
        "genre": lambda: np.where(catalogue.genre_IG[item_row_K] > 0, np.arange(catalogue.genre_IG.shape[1]), -1),
        "creator": lambda: catalogue.creator_I[item_row_K],
        "franchise": lambda: catalogue.franchise_I[item_row_K],
    }
    return {name: of[name]() for name in caps}


def _concerned(boost: Boost, catalogue: Catalogue, item_row_K: np.ndarray) -> np.ndarray:
    concerned_K = np.ones(len(item_row_K), bool)
    if boost.genre is not None:
        concerned_K &= catalogue.bears(boost.genre, item_row_K)
    for word, words, code_I in (
        (boost.creator, catalogue.creators, catalogue.creator_I),
        (boost.franchise, catalogue.franchises, catalogue.franchise_I),
    ):
        if word is not None:
            concerned_K &= np.array([code >= 0 and words.words[code] == word for code in code_I[item_row_K].tolist()], bool)
    return concerned_K
