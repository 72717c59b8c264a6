"""What must not be shown, and why. Every filter is a pure function that says which candidates may stay.

Shapes: E events of one user · K candidates.
"""

from collections.abc import Mapping, Sequence, Set

import numpy as np

from data.features import EVENT_TYPE_CODE
from serve import paging
from serve.catalogue import Catalogue
from serve.contract import Candidates
from serve.scoring import Person

SKIPS = 2  # of one item, that say it is not wanted
MERE = tuple(EVENT_TYPE_CODE[name] for name in ("view", "skip", "not_interested"))
ADULT = 18


def not_watched(item_row_K: np.ndarray, *, item_row_E: np.ndarray, event_code_E: np.ndarray) -> np.ndarray:
    """bool (K), False for an item the user has taken up: opened, watched or rated. What was only looked at or skipped was not."""
    return ~np.isin(item_row_K, item_row_E[~np.isin(event_code_E, MERE)])


def not_blocked(item_row_K: np.ndarray, *, item_row_E: np.ndarray, event_code_E: np.ndarray) -> np.ndarray:
    """bool (K), False for an item the user said does not interest them, or skipped `SKIPS` times."""
    refused = item_row_E[event_code_E == EVENT_TYPE_CODE["not_interested"]]
    skipped, times = np.unique(item_row_E[event_code_E == EVENT_TYPE_CODE["skip"]], return_counts=True)
    return ~np.isin(item_row_K, np.concatenate([refused, skipped[times >= SKIPS]]))


def of_age(maturity_K: np.ndarray, *, age: float | None) -> np.ndarray:
    """bool (K), False for an item made for older people than one of `age` years; where the age is not known, one who is of age.

    `maturity_K` is years, 0 where the catalogue says nothing.
    """
    return maturity_K <= (ADULT if age is None else age)


def not_the_same(item_row_K: np.ndarray, *, item_row: int | None) -> np.ndarray:
    """bool (K), False for the item the user is looking at."""
    return np.ones(len(item_row_K), bool) if item_row is None else item_row_K != item_row


def not_too_often(shown_K: np.ndarray, *, most: int) -> np.ndarray:
    """bool (K), False for an item that was shown to this user `most` times of late and never taken up."""
    return shown_K < most


def not_on_a_page_before(item_ids: Sequence[str], *, before: Set[int]) -> np.ndarray:
    """bool (K), False for an item whose mark (`serve.paging`) a page before this one left."""
    return np.array([paging.mark(item_id) not in before for item_id in item_ids] if before else np.ones(len(item_ids)), bool)


def verdicts(
    catalogue: Catalogue, item_row_K: np.ndarray, who: Person, shown: Mapping[str, int], *, begun_K: np.ndarray, item_row: int | None,
    most: int, before: Set[int] = frozenset()
) -> dict[str, np.ndarray]:  # fmt: skip
    """What each filter says: bool (K) by the reason of a drop. What was begun (`begun_K`) may come back, and as often as it takes."""
    did = {"item_row_E": who.item_row_E, "event_code_E": who.event_code_E}
    shown_K = np.array([shown.get(catalogue.item_ids[row], 0) for row in item_row_K.tolist()] if shown else np.zeros(len(item_row_K)))
    return {
        "already watched": not_watched(item_row_K, **did) | begun_K,
        "not wanted": not_blocked(item_row_K, **did),
        "made for older people": of_age(catalogue.maturity_I[item_row_K], age=who.age),
        "not available in the region": catalogue.available(item_row_K, who.region),
        "the item itself": not_the_same(item_row_K, item_row=item_row),
        "on a page before this": not_on_a_page_before([catalogue.item_ids[row] for row in item_row_K.tolist()], before=before),
        "shown often enough": not_too_often(shown_K, most=most) | begun_K,
    }


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
