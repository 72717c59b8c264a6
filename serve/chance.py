"""Where chance enters a page: last, so that its probability can be written down.

The page is fixed first. Then each explore slot keeps its item with probability 1 − ε, or shows an item drawn uniformly, without
replacement, from the pool: the eligible items that the page does not hold. What was decided without chance has no propensity.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from serve.contract import Draw


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
