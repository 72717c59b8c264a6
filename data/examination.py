"""The probability of having been looked at: a click on position 8 says more than one on position 1.

It is never `propensity`, the probability of having been shown (`data.propensity`). Each estimator says what it assumes.

Shapes: N rows to be weighed.
"""

from typing import NamedTuple

import numpy as np

from data.impressions import Observed, Rows


class Examination(NamedTuple):
    """P(click | shown) = slope · relevance + offset, (N,) each. Without trust bias the slope is the probability of being looked at and
    the offset is 0."""

    slope_N: np.ndarray
    offset_N: np.ndarray


def certain(observed: Observed, rows: Rows) -> Examination:
    """Whatever was shown was looked at. Assumes nothing of positions and corrects nothing."""
    return Examination(np.ones(len(rows.item_row_N)), np.zeros(len(rows.item_row_N)))
