"""A value, how sure it is, and whether the log can tell it at all.

Weights can be divided by however little they mean; so before a number is given, this asks how much of what the target policy would show
the log has shown (overlap), and as how many rounds the weighted ones count (effective sample). Without overlap there is a sentence
instead of a number.

Shapes: N rounds · C owners of rounds.
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from towers.intervals import bootstrap
from towers.metrics import Interval
from towers.off_policy import Terms, effective_size

LEAST_EFFECTIVE = 500
"""Below it intervals were not measured to cover (bench/off_policy.py), and a verdict says so."""
MOST_OUTSIDE = 0.05
"""With surely more of the target's mass outside of what the log shows, no value by weights is given."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What weights tell of a log and a target policy: `rounds` of them, as many as `effective` even ones, the largest, and `supported`,
    the share of the target's mass that the log shows, with its interval. It is known where both policies are, else the mean weight."""

    rounds: int
    effective: float
    largest_weight: float
    supported: Interval

    @property
    def outside(self) -> float:
        """At least so much of the target's mass lies where the log never goes, or so rarely that it did not happen."""
        return max(0.0, 1.0 - self.supported.high)

    @property
    def refusal(self) -> str:
        """Why there is no value by weights; empty where there is one."""
        if not self.effective:
            return f"no overlap: none of {self.rounds:,} logged rounds shows what this policy would"
        if not self.outside > MOST_OUTSIDE:  # an interval that could not be made does not refuse by itself: the effective sample speaks
            return ""
        return (
            f"no overlap: at least {self.outside:.0%} of what this policy would show was never shown by the log (effective sample"
            f" {self.effective:,.0f} of {self.rounds:,} rounds, largest weight {self.largest_weight:,.1f})"
        )

    @property
    def caution(self) -> str:
        """What a reader must know beside a value; empty where the effective sample is large."""
        if self.effective >= LEAST_EFFECTIVE:
            return ""
        return f"weak: an effective sample of {self.effective:,.0f}, below {LEAST_EFFECTIVE}"


def overlap(weight_N: np.ndarray, whose_N: np.ndarray | None = None) -> Overlap:
    """Where only the logged propensities are known: the mean weight is 1 if the log may show all that the target would, so that its
    interval (over owners) tells what is missing."""
    return _overlap(weight_N, bootstrap(Terms(weight_N, np.ones(len(weight_N))), whose_N))


def overlap_of_slates(ratio_GK: np.ndarray, size_G: np.ndarray, whose_G: np.ndarray | None = None) -> Overlap:
    """The same of items shown in slates of `size_G` positions, whose ratios sum to that size on average; empty places have ratio 0."""
    found = _overlap(ratio_GK.ravel(), bootstrap(Terms(ratio_GK.sum(1), size_G.astype(np.float64)), whose_G))
    return Overlap(int(size_G.sum()), found.effective, found.largest_weight, found.supported)


def overlap_of_policies(target_NA: np.ndarray, propensity_NA: np.ndarray, shown_N: np.ndarray) -> Overlap:
    """Where both policies are known in full: the target's mass where the log's is not 0, exactly."""
    row = np.arange(len(shown_N))
    supported = float(np.where(propensity_NA > 0, target_NA, 0.0).sum(1).mean())
    return _overlap(target_NA[row, shown_N] / propensity_NA[row, shown_N], Interval(supported, supported, supported))


def _overlap(weight_N: np.ndarray, supported: Interval) -> Overlap:
    return Overlap(len(weight_N), effective_size(weight_N), float(weight_N.max(initial=0.0)), supported)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one estimator says of one policy: NaN where it may not speak, and `said` tells why; else what to be careful of."""

    estimator: str
    value: float
    low: float
    high: float
    said: str

    def as_json(self) -> dict[str, float | str | None]:
        """Plain values; a figure that is no number is none."""
        figures = {name: getattr(self, name) for name in ("value", "low", "high")}
        return {"estimator": self.estimator, **{name: at if isfinite(at) else None for name, at in figures.items()}, "said": self.said}


def by_weights(estimator: str, terms: Terms, seen: Overlap, whose_N: np.ndarray | None = None) -> Verdict:
    """The verdict of an estimator that weighs what was logged."""
    if seen.refusal:
        return Verdict(estimator, float("nan"), float("nan"), float("nan"), seen.refusal)
    return _told(estimator, terms, whose_N, seen.caution)


def by_model(estimator: str, terms: Terms, whose_N: np.ndarray | None = None) -> Verdict:
    """The verdict of the direct method, whose interval knows nothing of the error of its model."""
    return _told(estimator, terms, whose_N, "as right as the reward model; the interval leaves its error out")


def _told(estimator: str, terms: Terms, whose_N: np.ndarray | None, said: str) -> Verdict:
    value, low, high = bootstrap(terms, whose_N)
    if low == high:
        said = "; ".join([*filter(None, [said]), "nothing varies in the log, so no interval can be told"])
        low = high = float("nan")
    return Verdict(estimator, value, low, high, said)
