"""From what was shown to what a training row weighs: exposure, examination and false clicks, undone in one place.

A click says: it was shown, it was looked at, it was wanted. P(click) = exposure · (slope · relevance + offset), where *exposure* is the
probability of having been shown (`data.propensity`), *slope* that of being looked at, and clicked if wanted, and *offset* that of a click
on what was not wanted (`data.examination`; 0 but for trust bias, below 0 where the top, by which relevance is counted, is trusted more).

Shapes: N rows to weigh · X features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from data.examination import Examination
from data.impressions import Observed, Rows
from data.imputation import Imputation
from data.overlap import Overlap, overlap
from data.propensity import PropensityError, ips_weight


def by_weight(weight_N: Tensor) -> Tensor:
    """Σ w: the self-normalised estimate, Σ w·l / Σ w. A little biased, far less noisy; a constant factor of all weights changes nothing
    (Swaminathan & Joachims, NeurIPS 2015)."""
    return weight_N.sum()


def by_rows(weight_N: Tensor) -> Tensor:
    """The number of rows that weigh anything: the plain inverse propensity estimate, Σ w·l / N, unbiased as far as the floor lets it."""
    return (weight_N != 0).sum().to(weight_N.dtype)


Examiner = Callable[[Observed, Rows], Examination]


def own_slope(observed: Observed, rows: Rows, slope_N: np.ndarray, slope_P: np.ndarray) -> np.ndarray:
    """Each row by the slope of its own place: `slope_N`. Assumes nothing more; a click at the bottom outweighs twenty at the top."""
    return slope_N


def item_slope(observed: Observed, rows: Rows, slope_N: np.ndarray, slope_P: np.ndarray) -> np.ndarray:
    """Each row by the mean slope of its item, over everywhere that the training part showed it, (N,); by `slope_N` where that is nowhere.

    A shown item is looked at with that probability, so that its clicks, wherever they fell, count alike and still add up to the same
    (policy-aware, Oosterhuis & de Rijke 2020, arXiv 2005.09035): far less noise. Assumes that where an item stood did not depend on who
    looked.
    """
    item_row_P, items = observed.shown.item_row_P, len(observed.count_I)
    count_I = np.bincount(item_row_P, minlength=items)
    mean_I = np.bincount(item_row_P, slope_P, minlength=items) / np.maximum(count_I, 1)
    return np.where(count_I[rows.item_row_N] > 0, mean_I[rows.item_row_N], slope_N)


class Chances(NamedTuple):
    """P(click) = exposure · (slope · relevance + offset), (N,) each, checked. `expected_N` is what stands for the slope where something is
    divided by it."""

    exposure_N: np.ndarray
    slope_N: np.ndarray
    offset_N: np.ndarray
    expected_N: np.ndarray


@dataclass(frozen=True, slots=True)
class Bias:
    """One choice of `conf/bias`: how likely it was to be shown, how likely to be looked at, and how far to trust the inverse.

    `floor` is the least exposure · slope that is divided by, so that no weight exceeds 1 / floor: it trades bias for variance (clipping,
    Bottou et al. 2013); `cap` does the same whatever the scale of the propensities: no row weighs more than that many times the mean.
    `divisor` says which slope that is: `own_slope` or `item_slope`. `normaliser` is what a sum of weighted losses is divided by:
    `by_weight` or `by_rows`. `beside` is how much retrieval's choice among what stood in the same slate counts, where its choice among
    all items counts 1 (`towers.losses.choice_among_shown`). `imputation` guesses how wanted the rows of a ranker were, and makes its click
    label doubly robust; None guesses nothing (`towers.losses.pseudo_label`).
    """

    exposure: Callable[[Observed, Rows], np.ndarray]
    examination: Examiner
    floor: float
    cap: float = float("inf")
    divisor: Callable[[Observed, Rows, np.ndarray, np.ndarray], np.ndarray] = own_slope
    beside: float = 0.0
    normaliser: Callable[[Tensor], Tensor] = by_weight
    imputation: Imputation | None = None

    def chances(self, observed: Observed, rows: Rows) -> Chances:
        """Exposure, slope, offset and divisor of each row.

        Raises:
            PropensityError: an exposure or a slope that is no probability above 0, or an offset outside (-1, 1): by row.
        """
        exposure_N = np.asarray(self.exposure(observed, rows), np.float64)
        shown, N = observed.shown, len(rows.item_row_N)
        both = zip(rows, (shown.item_row_P, shown.logged_P, shown.position_P, shown.device_P), strict=True)
        looked = self.examination(observed, Rows(*(np.concatenate(pair) for pair in both)))  # asked once: an estimator may take its time
        slope_N, slope_P, offset_N = (np.asarray(column, np.float64) for column in (looked[0][:N], looked[0][N:], looked[1][:N]))
        _refuse("propensity", exposure_N, (exposure_N > 0) & (exposure_N <= 1), "a probability in (0, 1]")
        _refuse("slope of examination", slope_N, (slope_N > 0) & (slope_N <= 1), "a probability in (0, 1]")
        _refuse("offset of examination", offset_N, (offset_N > -1) & (offset_N < 1), "a number in (-1, 1)")
        return Chances(exposure_N, slope_N, offset_N, self.divisor(observed, rows, slope_N, slope_P))

    def click_weight(self, observed: Observed, rows: Rows) -> np.ndarray:
        """What each clicked row weighs, float32 (N,): (1 − offset) / max(exposure · slope, floor), so that the sum over the clicks of an
        item estimates how often it would have been clicked had everybody been shown it and looked (Joachims et al. 2017; with an offset,
        Vardasbi et al. 2020).

        Raises:
            PropensityError: an exposure or a slope that is no probability, by row.
        """
        chances = self.chances(observed, rows)
        return self.weigh(chances.exposure_N * chances.expected_N) * (1 - chances.offset_N).astype(np.float32)

    def diagnosed(self, observed: Observed, rows: Rows) -> Overlap:
        """What the weights of clicked rows leave of them; `at_floor` counts those that the cap cut, too.

        Raises:
            PropensityError: an exposure or a slope that is no probability, by row.
        """
        chances = self.chances(observed, rows)
        propensity_N = chances.exposure_N * chances.expected_N
        least = 1 / float(self.weigh(propensity_N).max()) if len(propensity_N) else self.floor
        return overlap(propensity_N, floor=least)

    def weigh(self, propensity_N: np.ndarray) -> np.ndarray:
        """1 / max(propensity, floor), none more than `cap` times their mean, float32 (N,). Of a ranker's shown rows, whose label undoes the
        examination, the propensity is the exposure; of what is known only after a click, exposure · slope.

        Raises:
            PropensityError: a propensity that is no probability, by row.
        """
        weight_N = ips_weight(propensity_N, floor=self.floor)
        return np.minimum(weight_N, np.float32(self.cap) * weight_N.mean()) if len(weight_N) else weight_N


def _refuse(name: str, value_N: np.ndarray, right_N: np.ndarray, expected: str) -> None:
    if not right_N.all():
        row = int(np.flatnonzero(~right_N)[0])
        raise PropensityError(f"row {row}: {name} is {value_N[row]}, expected {expected} ({(~right_N).sum():,} such rows)")
