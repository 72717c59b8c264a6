"""Small simulated worlds for tests, each simulated once in a test run. The same definition always gives the same rows."""

import functools

from data.schema import Tables
from data.world import Truth, World

TINY = World.mild(users=40, items=48, events=400, seed=1)  # for what needs tables, not numbers
SMALL_MILD = World.mild(users=300, items=120, events=8_000, seed=1)  # for what needs to learn something in a second
SMALL_STRONG = World.strong(users=300, items=120, events=8_000, seed=1)
SMALL_MISSPECIFIED = World.misspecified(users=300, items=120, events=8_000, seed=1)


@functools.cache
def simulated(world: World) -> tuple[Tables, Truth]:
    """`world.simulate()`, remembered; nobody may change what it returns."""
    return world.simulate()
