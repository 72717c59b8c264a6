"""The small release's value of an item as a formula, and what is lost of it without each item of a history: brute force to compare with.

`tests.releases` has the models: the query is the direction of the history's rows, the recent ones weighing more.
"""

import numpy as np

from data.features import DISLIKED, EVENT_TYPE_CODE, MOMENT
from serve.scoring import Person
from tests.releases import LENGTH, START_MS

WIDTH, NOW = 8, START_MS + 30 * 86_400_000
CODE = EVENT_TYPE_CODE | {"disliked": DISLIKED}


def person(events, **known):
    """Who did (item row, what, hours ago) in this order, the oldest first."""
    row, name, hours = zip(*events, strict=True) if events else ((), (), ())
    codes = np.array([CODE[one] for one in name], np.int64)
    times = NOW - np.array(hours, np.int64) * 3_600_000
    return Person(np.array(row, np.int64), codes, times, np.zeros((1, len(MOMENT)), np.int64), NOW, **known)


def by_formula(release, events, item_row_N):
    """What the small release values items at for a history, float64 (N): sigmoid(3·q·v + log(1 + popularity) / 10 − 1)."""
    vector_ID = np.asarray(release.items)[:, WIDTH:].astype(np.float64)
    query = sum((vector_ID[row] / (1 + 60 * hours // 1 / 1440) for row, _, hours in events[-LENGTH:]), np.zeros(WIDTH))
    query = query / max(np.linalg.norm(query), 1e-12)
    popularity, _ = release.clock.before(item_row_N, np.full(len(item_row_N), NOW // 3_600_000))
    return 1 / (1 + np.exp(1 - 3 * vector_ID[item_row_N] @ query - 0.1 * np.log1p(popularity.astype(np.float64))))


def left_out(release, events, item_row_N):
    """(the items of the last events, the newest first; the share lost of each shown item's probability without each: (N, X))."""
    items = list(dict.fromkeys(row for row, _, _ in events[-LENGTH:][::-1]))
    whole_N = by_formula(release, events, item_row_N)
    without = [by_formula(release, [one for one in events if one[0] != item], item_row_N) for item in items]
    return items, np.stack([1 - one / whole_N for one in without], axis=1)
