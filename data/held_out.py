"""Which of a user's events are kept back to choose by, where a log says nothing of time.

Each function gives every event a place in the order that its user's events would leave the training part in: the smaller, the sooner.

Shapes: E events · U users · I items · u, e users and events of one block.
"""

import numpy as np
import polars as pl
from scipy.sparse import csr_array

BLOCK, CELLS = 512, 1 << 25
"""Users at a time, or as many as make so many cells with the whole catalogue, whose scores are held."""


def any_events(events: pl.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Any event as likely as any other, float64 (E,)."""
    return rng.random(len(events))


def kindred_events(events: pl.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """One of a user's events, any, and then those of items most like it: cosine of who else had both, float64 (E,) from −2 to 0.

    What people do comes in trips, evenings and moods. Of events that are kept back one by one the rest of the trip stays in train and gives
    them away, which rewards a model for remembering the trip; what a test asks, which comes later, has no such help. So whole
    neighbourhoods are kept back.
    """
    user_E, item_E = (events[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user_id", "item_id"))
    had_UI = csr_array((np.ones(len(events), np.float32), (user_E, item_E)))
    had_UI.data[:] = 1.0  # an item had twice is had
    users_IU = had_UI.T.tocsr()
    count_I = np.diff(users_IU.indptr)
    by_user_E = np.lexsort((rng.random(len(events)), user_E))
    anchor_U = item_E[by_user_E[np.searchsorted(user_E[by_user_E], np.arange(had_UI.shape[0]))]]
    place_E = np.empty(len(events))
    block = max(1, min(BLOCK, CELLS // had_UI.shape[1]))
    bound = np.searchsorted(user_E[by_user_E], np.arange(0, had_UI.shape[0] + block, block))
    for start, first, last in zip(range(0, had_UI.shape[0], block), bound[:-1], bound[1:], strict=True):
        block_e = by_user_E[first:last]
        both_uI = (users_IU[anchor_U[start : start + block]] @ had_UI).toarray()
        item_e, anchor_e = item_E[block_e], anchor_U[user_E[block_e]]
        others_e = both_uI[user_E[block_e] - start, item_e] - 1  # but for the user, who had both
        place_E[block_e] = -others_e / np.sqrt(count_I[item_e] * count_I[anchor_e]) - (item_e == anchor_e)
    return place_E + 1e-9 * rng.random(len(events))  # those that are nothing to the first leave in any order
