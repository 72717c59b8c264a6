"""The probability of having been shown, and the weight that undoes it.

`propensity` belongs to exposure, never to sampling (that is `data.frequency`). Each estimator says what it assumes.
"""

import numpy as np

from data.impressions import Observed, Rows


class PropensityError(ValueError):
    """A propensity that cannot be divided by; the message names the row."""


def even(observed: Observed, rows: Rows) -> np.ndarray:
    """Everything was equally likely to be shown: float32 ones (N,). Assumes nothing and corrects nothing."""
    return np.ones(len(rows.item_row_N), np.float32)


def logged(observed: Observed, rows: Rows) -> np.ndarray:
    """What the policy wrote down: (N,). Assumes that it wrote the truth.

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
