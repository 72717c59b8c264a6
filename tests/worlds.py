"""Small simulated worlds for tests, each simulated once in a test run. The same definition always gives the same rows."""

import functools

import numpy as np
import polars as pl

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


def chosen_and_random_ratings(
    *, users: int, items: int, chosen: int, drawn: int, popularity: float, liking: float, seed: int, quality: float = 0.7
) -> pl.DataFrame:
    """A log of ratings 1 to 5 whose train part users chose and whose test part chance did: user, item, rating, at (s), split.

    What is known to be Coat's and Yahoo! R3's trouble: a user meets item i with odds exp(`popularity` · e_i), e_i standard normal and a
    third of it what the item is worth, and rates what was met with odds exp(`liking` · preference). `drawn` other items of each user are
    rated whatever they are. Preferences are an item's worth (`quality`), a taste of eight dimensions, and noise; two items in ten are
    liked (4 or 5).
    """
    rng = np.random.default_rng([seed, 17])
    worth_I, taste_UD, kind_ID = rng.standard_normal(items), rng.standard_normal((users, 8)), rng.standard_normal((items, 8))
    shown_I = (worth_I + np.sqrt(8) * rng.standard_normal(items)) / 3
    preference_UI = quality * worth_I + taste_UD @ kind_ID.T / np.sqrt(8) + 0.5 * rng.standard_normal((users, items))
    rating_UI = 1 + np.searchsorted(np.quantile(preference_UI, [0.4, 0.63, 0.8, 0.92]), preference_UI)
    odds_UI = popularity * shown_I + liking * preference_UI + rng.gumbel(size=(users, items))
    order_UI = np.argsort(-odds_UI, axis=1)  # the largest of odds and Gumbel noise: drawn without replacement by those odds
    count_U = np.clip(rng.geometric(1 / chosen, users), min(6, chosen), items // 3) if chosen < items // 6 else np.full(users, chosen)
    frames = []
    for user, count in enumerate(count_U):
        taken = order_UI[user, :count]
        rest = rng.choice(order_UI[user, count:], drawn, replace=False)
        item = np.concatenate([rng.permutation(taken), rest])
        frames.append(
            pl.DataFrame(
                {
                    "user": [f"u{user}"] * len(item),
                    "item": [f"i{one}" for one in item],
                    "rating": rating_UI[user, item],
                    "at": np.arange(len(item)) + 1_600_000_000,
                    "split": ["train"] * count + ["test"] * drawn,
                }
            )
        )
    return pl.concat(frames)
