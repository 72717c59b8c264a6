"""The probability of having been looked at: a click on position 8 says more than one on position 1.

It is never `propensity`, the probability of having been shown (`data.propensity`). Each estimator says what it assumes. Slopes are known
up to one factor, which a self-normalised loss does not see: the top of a curve is 1.

Shapes: N rows to be weighed · K positions.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data.curve import Context, Curve, Estimate, Examination, by_device, curve_of, everybody
from data.harvest import harvest
from data.impressions import Observed, Rows, Shown, of_arms
from data.once import once
from data.propensity import PropensityError
from data.regression_em import fit
from data.smooth import Prior, as_found, power_law
from data.strata import by_belief, by_item
from data.trust import fit_lines

__all__ = [
    "Examination", "Curve", "certain", "given", "randomised", "harvested", "regression_em", "trust",
    "randomised_curve", "harvested_curve", "regression_em_curve", "trust_curve", "everybody", "by_device", "by_item", "by_belief",
    "as_found", "power_law",
]  # fmt: skip


def certain(observed: Observed, rows: Rows) -> Examination:
    """Whatever was shown was looked at. Assumes nothing of positions and corrects nothing."""
    return Examination(np.ones(len(rows.item_row_N)), np.zeros(len(rows.item_row_N)))


def given(observed: Observed, rows: Rows, *, curve: Sequence[float]) -> Examination:
    """A curve known beforehand, from the top down: of an experiment or a paper. Below its end its last value holds; a row of unknown
    position weighs as the log's clicks do on average.

    Raises:
        PropensityError: a value outside (0, 1], by position, or no value.
    """
    slope_K = np.asarray(curve, np.float64)
    bad = np.flatnonzero(~((slope_K > 0) & (slope_K <= 1)))
    if len(bad) or not len(slope_K):
        what = f"position {bad[0] + 1} is {slope_K[bad[0]]}" if len(bad) else "it is empty"
        raise PropensityError(f"the given curve of examination: {what}; expected probabilities in (0, 1]")
    K = len(slope_K)
    shown = observed.shown
    clicked = (shown.clicked_P == 1) & (shown.position_P > 0)
    clicks_K = np.bincount(np.minimum(shown.position_P[clicked], K) - 1, minlength=K)
    columns = (slope_K, np.zeros(K), np.zeros(K), np.ones(K, bool), clicks_K)
    return Curve((), *(column[None] for column in columns), {"clicks": float(clicks_K.sum())}).at(rows)


def randomised_curve(observed: Observed, *, arms: Sequence[str], context: Context = everybody) -> Curve:
    """Click rate by position in slates of random order, relative to the topmost: all that differs is attention.

    Assumes that `arms` ordered by chance alone (Joachims et al., WSDM 2017; Radlinski & Joachims 2006).

    Raises:
        OverlapError: an arm that is not in the log, whose arms are named; or fewer than two positions with clicks.
    """
    return curve_of(of_arms(observed.shown, arms), context, lambda shown: harvest(shown, np.zeros(len(shown.position_P), np.int64)))


def randomised(observed: Observed, rows: Rows, *, arms: Sequence[str], context: Context = everybody) -> Examination:
    """`randomised_curve`, looked up."""
    return randomised_curve(observed, arms=arms, context=context).at(rows)


@once
def harvested_curve(
    observed: Observed, *, strata: Callable[[Shown], np.ndarray] = by_belief, context: Context = everybody, prior: Prior = power_law
) -> Curve:
    """Examination from alike impressions at several positions (`data.harvest`); `strata` says which are alike (`data.strata`).

    `by_belief` is for logs with propensities, whatever the policy knows of people; `by_item` for those without, and right where position
    does not follow a person's taste. `prior` is what positions lend each other (`data.smooth`).

    Raises:
        OverlapError: no clicks, or no two positions hold alike impressions.
    """

    def estimate(shown: Shown) -> Estimate:
        return harvest(shown, strata(shown), prior)

    return curve_of(observed.shown, context, estimate)


def harvested(
    observed: Observed, rows: Rows, *, strata: Callable[[Shown], np.ndarray] = by_belief, context: Context = everybody,
    prior: Prior = power_law,
) -> Examination:  # fmt: skip
    """`harvested_curve`, looked up."""
    return harvested_curve(observed, strata=strata, context=context, prior=prior).at(rows)


@once
def regression_em_curve(observed: Observed, *, context: Context = everybody) -> Curve:
    """Examination by regression-EM (Wang et al., WSDM 2018; see `data.regression_em`).

    Assumes that relevance is a function of what is known of an impression besides its position (propensity, arm, device, hour, how its
    item fares): what it does not see of taste, it takes for attention. Needs neither propensities nor one item at several positions.

    Raises:
        OverlapError: fewer than two positions with clicks.
    """
    return curve_of(observed.shown, context, fit)


def regression_em(observed: Observed, rows: Rows, *, context: Context = everybody) -> Examination:
    """`regression_em_curve`, looked up."""
    return regression_em_curve(observed, context=context).at(rows)


@once
def trust_curve(observed: Observed, *, strata: Callable[[Shown], np.ndarray] = by_belief, context: Context = everybody) -> Curve:
    """Slope and offset where the top is clicked for standing there (Agarwal et al., WWW 2019): `data.trust`, with the guess of
    relevance of `data.regression_em`.

    Relevance is the chance of a click at the top, whose line is 1 · relevance + 0; offsets further down are against the top's, so negative
    where the top is trusted more. Takes many more clicks than `harvested_curve`; assumptions as there, and that relevance varies among
    alike impressions as other people's clicks tell.

    Raises:
        OverlapError: nothing is compared, or clicks do not vary with relevance.
    """
    return curve_of(observed.shown, context, lambda shown: fit_lines(shown, strata(shown)))


def trust(
    observed: Observed, rows: Rows, *, strata: Callable[[Shown], np.ndarray] = by_belief, context: Context = everybody
) -> Examination:
    """`trust_curve`, looked up."""
    return trust_curve(observed, strata=strata, context=context).at(rows)
