"""The probability of having been shown, and the weight that undoes it.

`propensity` belongs to exposure, never to sampling (that is `data.frequency`). Each estimator says what it assumes.

Shapes: N rows to be weighed · I catalogue · P impressions.
"""

import logging
from collections.abc import Sequence

import numpy as np

from data.impressions import Observed, Rows, Shown, of_arms
from data.overlap import OverlapError

logger = logging.getLogger(__name__)


class PropensityError(ValueError):
    """A propensity that cannot be divided by; the message names the row."""


def even(observed: Observed, rows: Rows) -> np.ndarray:
    """Everything was equally likely to be shown: float32 ones (N,). Assumes nothing and corrects nothing."""
    return np.ones(len(rows.item_row_N), np.float32)


def logged(observed: Observed, rows: Rows) -> np.ndarray:
    """What the policy wrote down: (N,). Assumes that it wrote the truth (Horvitz & Thompson 1952; Schnabel et al., ICML 2016). Where all
    is 1 there was no chance, and a warning says that nothing is corrected.

    Raises:
        PropensityError: a row without one; the other estimators serve such logs.
    """
    missing = np.isnan(rows.logged_N)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise PropensityError(
            f"training row {row} has no logged propensity ({missing.sum():,} of {len(missing):,} rows);"
            " choose bias=popularity or bias=none, or log them"
        )
    if len(rows.logged_N) and (rows.logged_N == 1).all():
        logger.warning(
            "exposure: all %s logged propensities are 1: without chance there is no overlap, and nothing is corrected", len(missing)
        )
    return rows.logged_N


def popularity(observed: Observed, rows: Rows, *, power: float = 0.5) -> np.ndarray:
    """Exposure grows with popularity: (users / most users of an item)^power, float32 (N,), never below that of one user.

    For logs without impressions (Saito et al. 2020, doi:10.1145/3336191.3371783, whose power is 0.5). Assumes that exposure depends
    on the item alone and that popularity follows from it.

    Raises:
        PropensityError: power outside [0, 1].
    """
    if not 0 <= power <= 1:
        raise PropensityError(f"power is {power}; expected a number from 0 (no correction) to 1")
    share_I = np.maximum(observed.count_I, 1.0) / max(observed.count_I.max(), 1.0)
    return (share_I**power).astype(np.float32)[rows.item_row_N]


def counted(observed: Observed, rows: Rows) -> np.ndarray:
    """The share of the log's requests that showed the item, (N,); an item never shown counts as shown once (their number is logged).

    Assumes that every item might have stood in every request, for everybody alike: exposure is the item's own (Schnabel et al., ICML
    2016, section 5.3, the item's marginal in place of a naive Bayes of the rating). An item that came late looks rarer than it was.

    Raises:
        OverlapError: the log has no impressions.
    """
    shown = observed.shown
    requests = len(np.unique(shown.request_P))
    if not requests:
        raise OverlapError("the training part has no impressions to count exposure from; choose bias=popularity or bias=none")
    count_I = _shown_count(shown, len(observed.count_I))
    _say_never_shown(count_I, "the log")
    return (np.minimum(np.maximum(count_I, 1) / requests, 1.0))[rows.item_row_N]


def randomised(observed: Observed, rows: Rows, *, arms: Sequence[str]) -> np.ndarray:
    """How much more of the log's slots an item has than of those of the randomised `arms`, the most favoured item being 1: (N,).

    The randomised arms show what is eligible evenly, so that their share of an item is how often it was eligible; what the log as a whole
    shows beyond is the policy's doing. Assumes that the favour is the item's own, for everybody alike, and that `arms` drew without
    looking at it (unbiased data as the yardstick: Schnabel et al., ICML 2016; Bonner & Vasile, RecSys 2018). One showing is added
    to either count, so that an item the randomised arms never showed has a ratio too.

    Raises:
        OverlapError: an arm that is not in the log (those that are, are named), or one that showed nothing.
    """
    even_I = _shown_count(of_arms(observed.shown, arms), len(observed.count_I))
    if not even_I.sum():
        raise OverlapError(
            f"the arms {', '.join(map(repr, arms))} showed nothing in the training part; nothing tells favour from eligibility"
        )
    _say_never_shown(even_I, f"arms {', '.join(arms)}")
    favour_I = (_shown_count(observed.shown, len(observed.count_I)) + 1) / (even_I + 1)
    return (favour_I / favour_I.max())[rows.item_row_N]


def _shown_count(shown: Shown, items: int) -> np.ndarray:
    return np.bincount(shown.item_row_P, minlength=items)


def _say_never_shown(count_I: np.ndarray, where: str) -> None:
    if never := int((count_I == 0).sum()):
        logger.info("exposure: %s of %s items were never shown by %s; each counts as shown once", f"{never:,}", f"{len(count_I):,}", where)


def ips_weight(propensity_B: np.ndarray, *, floor: float) -> np.ndarray:
    """1 / max(propensity, floor), float32, the shape of `propensity_B`. The floor trades bias for variance (Bottou et al. 2013).

    Raises:
        PropensityError: a propensity that is 0, above 1 or not a number (the first such row is named), or a floor outside (0, 1].
    """
    if not 0 < floor <= 1:
        raise PropensityError(f"floor is {floor}; expected a probability in (0, 1]")
    bad = ~((propensity_B > 0) & (propensity_B <= 1))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise PropensityError(
            f"row {row}: propensity is {propensity_B.flat[row]}, expected a probability in (0, 1] ({bad.sum():,} such rows)"
        )
    return (1.0 / np.maximum(propensity_B, floor)).astype(np.float32)
