"""Who gets which place: editorial slots, turns of the rows that ask for one, the main order, and caps on what a page may hold too much of.

Places are counted from 0. Every rule looks at the places before it and none at the length of the page, so a longer page begins with the
shorter.

Shapes: K candidates · N places · M labels of one item · J items in one order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

WINDOW = 25
RESERVED, MAIN = "reserved", ""
_FREE, _USED, _NONE = -1, -2, np.empty(0, np.int64)


class Turn(NamedTuple):
    """Every `every`-th place from place `first` on."""

    every: int
    first: int

    def at(self, place: int) -> bool:
        """Whether this place is one of them."""
        return place >= self.first and (place - self.first) % self.every == 0


class Cap(NamedTuple):
    """Of one label, at most `most` items among the first 25 places, 2·`most` among the first 50, and so on.

    `label_KM` int (K,) or (K, M): an item may bear several, −1 is none. Of a multi-hot matrix, `np.where(hot_KG, np.arange(G), -1)`.
    """

    label_KM: np.ndarray
    most: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A page of N places.

    `order_N` int64 positions among the candidates; `kind_N` what gave the place: "reserved", a kind, or "" for the main order. `held`
    says of every item that a cap held back, were it only from one place, which cap was the first to; `skipped` how many each cap did,
    `relaxed` how many places were given against it, because nothing else was left.
    """

    order_N: np.ndarray
    kind_N: tuple[str, ...]
    skipped: Mapping[str, int]
    held: Mapping[int, str]
    relaxed: Mapping[str, int]


def fill(
    order_J: Sequence[int] | np.ndarray,
    *,
    count: int,
    groups: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    plan: Mapping[str, Turn] | None = None,
    reserved: Mapping[int, int] | None = None,
    caps: Mapping[str, Cap] | None = None,
) -> Filled:
    """Give `count` places: a reserved place to its item; else to the kind whose turn it is, if it has an item left; else to the main order.

    `order_J` are positions among the candidates, best first; it should hold `count` and all special items. When it ends, what is left of
    the groups follows, then the reserved items of later places. `groups` maps a kind to its own order, `plan` a kind to its turns; of two
    kinds whose turn falls on one place, the first in the plan has it and the other the next that is free, as has one whose turn falls on
    a reserved place. A kind that has nothing to give loses its turn. `reserved` maps a place to the position it belongs to, which comes
    nowhere else.

    A capped item is held back from its place, not from the page: it may come in a later window. A reserved item is placed whatever the
    caps say, and counts from the first place of its window. Where caps leave nothing, the best of the main order comes in spite of them.

    Raises:
        ValueError: a negative count or place, a turn that never comes, an item reserved twice, or a cap with labels for too few candidates.
    """
    groups, plan, reserved, caps = groups or {}, plan or {}, reserved or {}, caps or {}
    if count < 0 or min(reserved, default=0) < 0 or len(set(reserved.values())) < len(reserved):
        raise ValueError(f"count is {count}, reserved {dict(reserved)}; expected a count and places from 0 up, and no item twice")
    if wrong := {kind: turn for kind, turn in plan.items() if turn.every < 1 or turn.first < 0}:
        raise ValueError(f"turns {wrong}; expected every 1 or more places, from place 0 or later")
    orders = {kind: np.asarray(order, np.int64) for kind, order in groups.items()}
    everything = (np.asarray(order_J, np.int64), *orders.values())
    page = _Page.of(1 + max(*(order.max(initial=-1) for order in everything), *reserved.values(), -1), caps)
    page.state_K[list(reserved.values())] = _USED
    waiting, later = [], dict(sorted(reserved.items()))
    for place in range(count):
        if place % WINDOW == 0:
            page.open_window(place // WINDOW, [position for at, position in reserved.items() if at // WINDOW == place // WINDOW])
        waiting += [kind for kind, turn in plan.items() if turn.at(place) and kind not in waiting]
        if place in later:
            page.put(later.pop(place), RESERVED)
            continue
        kind, chosen = MAIN, None
        while waiting and chosen is None:
            kind = waiting.pop(0)
            chosen = page.first(orders.get(kind, _NONE))
        if chosen is None:
            kind, chosen = MAIN, next((found for order in everything if (found := page.first(order)) is not None), None)
        if chosen is None:
            chosen = page.first_in_spite_of_caps(np.concatenate(everything))
        if chosen is not None:
            page.put(chosen, kind)
            page.count(chosen)
        elif later:
            page.put(later.pop(next(iter(later))), RESERVED)
        else:
            break
    return page.filled()


@dataclass(slots=True)
class _Page:
    """What is placed so far. `state_K` is the number of the cap that holds a candidate back now, or that it is free or used; `held_K` the
    number of the first cap that ever passed it over."""

    names: list[str]
    caps: list[Cap]
    state_K: np.ndarray
    held_K: np.ndarray
    counts: list[Counter[int]]
    order: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    relaxed: Counter[str] = field(default_factory=Counter)
    window: int = 0

    @classmethod
    def of(cls, candidates: int, caps: Mapping[str, Cap]) -> "_Page":
        for name, cap in caps.items():
            if len(cap.label_KM) < candidates or cap.most < 0:
                raise ValueError(f"cap {name!r}: {len(cap.label_KM)} labels for {candidates} candidates, at most {cap.most} of each")
        labels = [np.asarray(cap.label_KM)[:candidates] for cap in caps.values()]
        whole = [Cap(label if label.ndim == 2 else label[:, None], cap.most) for label, cap in zip(labels, caps.values(), strict=True)]
        free_K = np.full(candidates, _FREE, np.int16)
        return cls(list(caps), whole, free_K, free_K.copy(), [Counter() for _ in caps])

    def open_window(self, window: int, reserved: list[int]) -> None:
        """Raise every cap by its own size, and count what is reserved in this window."""
        self.window = window
        for position in reserved:
            self._add(position)
        self.state_K[self.state_K >= 0] = _FREE
        for number, cap in enumerate(self.caps):
            if cap.most == 0:
                self._hold(number, (cap.label_KM >= 0).any(1))
            elif full := [label for label, seen in self.counts[number].items() if seen >= cap.most * (window + 1)]:
                self._hold(number, np.isin(cap.label_KM, full).any(1))

    def count(self, position: int) -> None:
        """Let an item count for its labels, and hold back what bears a label that is now full."""
        for number, label in self._add(position):
            if self.counts[number][label] == self.caps[number].most * (self.window + 1):
                self._hold(number, (self.caps[number].label_KM == label).any(1))

    def _add(self, position: int) -> list[tuple[int, int]]:
        found = [(number, label) for number, cap in enumerate(self.caps) for label in set(cap.label_KM[position].tolist()) if label >= 0]
        for number, label in found:
            self.counts[number][label] += 1
        return found

    def _hold(self, number: int, bears_K: np.ndarray) -> None:
        self.state_K[bears_K & (self.state_K == _FREE)] = number

    def first(self, order_J: np.ndarray) -> int | None:
        """The first of an order that is neither used nor held back by a cap; those passed over are noted."""
        if not len(order_J):
            return None
        state_J = self.state_K[order_J]
        place = int((state_J == _FREE).argmax())
        found = state_J[place] == _FREE
        passed_J = order_J[: place if found else len(order_J)]
        fresh_J = passed_J[(state_J[: len(passed_J)] >= 0) & (self.held_K[passed_J] == _FREE)]
        self.held_K[fresh_J] = self.state_K[fresh_J]
        return int(order_J[place]) if found else None

    def first_in_spite_of_caps(self, order_J: np.ndarray) -> int | None:
        """The first of an order that is not used."""
        left_J = order_J[self.state_K[order_J] != _USED]
        if not len(left_J):
            return None
        self.relaxed[self.names[self.state_K[left_J[0]]]] += 1
        return int(left_J[0])

    def put(self, position: int, kind: str) -> None:
        """Give the next place away."""
        self.state_K[position] = _USED
        self.order.append(position)
        self.kinds.append(kind)

    def filled(self) -> Filled:
        """The page as it is handed on."""
        held = {int(position): self.names[self.held_K[position]] for position in np.flatnonzero(self.held_K >= 0)}
        return Filled(np.array(self.order, np.int64), tuple(self.kinds), dict(Counter(held.values())), held, dict(self.relaxed))
