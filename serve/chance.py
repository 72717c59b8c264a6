"""Where chance enters a page: last, so that its probability can be written down.

The page is fixed first. Then each explore slot keeps its item with probability 1 − ε, or shows an item drawn uniformly, without
replacement, from the pool: the eligible items that the page does not hold. What was decided without chance has no propensity.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from serve.contract import Draw

if TYPE_CHECKING:
    from serve.page import Page
    from serve.rules import Explore


def draw(request_id: str, *, slots: Sequence[int], pool: Sequence[str], epsilon: float) -> Draw | None:
    """The draw of one request: None where nothing was left to chance (no slot, no pool, or ε = 0).

    Slots beyond the size of the pool are left alone, so that every slot's chances are the same whatever the others drew. The same
    `request_id` draws the same: chance lies in the ids, which are random.
    """
    slots = tuple(slots)[: len(pool)]
    if not slots or epsilon <= 0:
        return None
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:16], "little"))
    order = rng.permutation(len(pool))
    draws = rng.random(len(slots)) < epsilon
    return Draw(epsilon, slots, tuple(pool), tuple(pool[order[place]] if yes else None for place, yes in enumerate(draws)))


def propensities(drawn: Draw | None, count: int) -> tuple[float | None, ...]:
    """The probability with which each of `count` places came to show what it shows; None where there was no chance in it.

    A slot that kept its item did so with probability 1 − ε; each item of the pool E stood in each slot with probability ε / |E|, for a draw
    without replacement treats all slots alike.
    """
    told: list[float | None] = [None] * count
    if drawn is not None:
        for slot, item in zip(drawn.slots, drawn.drawn, strict=True):
            told[slot] = 1 - drawn.epsilon if item is None else drawn.epsilon / len(drawn.pool)
    return tuple(told)


def into(page: "Page", explore: "Explore", pool: Mapping[str, int], request_id: str) -> tuple[Draw | None, np.ndarray, tuple[str, ...]]:
    """(the draw, the page's candidate positions and kinds after it). `pool` maps the item ids that may be drawn to their positions; what
    was begun, and what editors put somewhere, stays."""
    order_N, kind_N = page.order_N, list(page.kind_N)
    spots = [place - 1 for place in explore.places if place <= len(order_N)]
    spots = [spot for spot in spots if kind_N[spot] not in ("begun", "editorial")]
    drawn = draw(request_id, slots=spots, pool=tuple(pool), epsilon=explore.epsilon)
    if drawn is not None:
        order_N = order_N.copy()
        for slot, item in zip(drawn.slots, drawn.drawn, strict=True):
            if item is not None:
                order_N[slot], kind_N[slot] = pool[item], "explored"
    return drawn, order_N, tuple(kind_N)
