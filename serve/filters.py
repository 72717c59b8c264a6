"""What must not be shown, and why. Every filter is a pure function that says which candidates may stay.

Shapes: E events of one user · K candidates.
"""

from collections.abc import Mapping

import numpy as np

from data.features import EVENT_TYPE_CODE
from serve.contract import Candidates


def not_watched(item_row_K: np.ndarray, *, item_row_E: np.ndarray, event_code_E: np.ndarray) -> np.ndarray:
    """bool (K), False for an item the user has dealt with: any event of it but a mere `view`, so watched, rated, even skipped."""
    return ~np.isin(item_row_K, item_row_E[event_code_E != EVENT_TYPE_CODE["view"]])


def not_the_same(item_row_K: np.ndarray, *, item_row: int | None) -> np.ndarray:
    """bool (K), False for the item the user is looking at."""
    return np.ones(len(item_row_K), bool) if item_row is None else item_row_K != item_row


def keep(candidates: Candidates, stays: Mapping[str, np.ndarray]) -> tuple[Candidates, dict[str, int]]:
    """(what every filter lets stay, how many each dropped). `stays` maps the reason of a drop to bool (K).

    What two filters would drop is counted for the first, so that the counts add up. A filter that dropped nothing is not counted.
    """
    stay_K = np.ones(len(candidates.item_row_K), bool)
    dropped = {}
    for why, filter_K in stays.items():
        count = int((stay_K & ~filter_K).sum())
        if count:
            dropped[why] = count
        stay_K &= filter_K
    return Candidates(candidates.item_row_K[stay_K], candidates.source_K[stay_K]), dropped
