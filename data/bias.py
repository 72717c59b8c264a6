"""From what was shown to what a training row weighs: exposure, examination and false clicks, undone in one place.

A click says: it was shown, it was looked at, it was wanted. P(click) = exposure · (slope · relevance + offset), where *exposure* is the
probability of having been shown (`data.propensity`), *slope* that of being looked at, and clicked if wanted, and *offset* that of a click
on what was not wanted (`data.examination`; 0 but for trust bias).

Shapes: N rows to weigh.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.examination import Examination
from data.impressions import Observed, Rows
from data.propensity import ips_weight


@dataclass(frozen=True, slots=True)
class Bias:
    """One choice of `conf/bias`: how likely it was to be shown, how likely to be looked at, and how far to trust the inverse.

    `floor` is the least exposure · slope that is divided by: it trades bias for variance (Bottou et al. 2013).
    """

    exposure: Callable[[Observed, Rows], np.ndarray]
    examination: Callable[[Observed, Rows], Examination]
    floor: float

    def click_weight(self, observed: Observed, rows: Rows) -> np.ndarray:
        """What each clicked row weighs, float32 (N,): (1 − offset) / max(exposure · slope, floor), so that the sum over the clicks of an
        item estimates how often it would have been clicked had everybody been shown it and looked (Joachims et al. 2017; with an offset,
        Vardasbi et al. 2020).

        Raises:
            PropensityError: an exposure or a slope that is no probability, by row.
        """
        examination = self.examination(observed, rows)
        propensity_N = self.exposure(observed, rows) * examination.slope_N
        return ips_weight(propensity_N, floor=self.floor) * (1 - examination.offset_N).astype(np.float32)
