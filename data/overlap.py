"""How much a weighted log still says, and the refusal to say anything where nothing is compared.

Shapes: N weighed rows.
"""

from dataclasses import asdict, dataclass

import numpy as np


class OverlapError(ValueError):
    """A log in which nothing that is to be compared stands side by side; the message names what does not, and what would help."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What weights leave of a log. `effective` is the number of equally weighed rows that would say as much (Kish 1965), `share` its part
    of all rows, `largest` the heaviest row's share of all weight, `at_floor` the share of rows whose propensity is no more than the floor,
    `calibration` the mean weight: 1 / mean propensity over many rows of a log that shows with the probabilities it claims."""

    rows: int
    effective: float
    share: float
    largest: float
    at_floor: float
    calibration: float

    def numbers(self) -> dict[str, float]:
        """By name, for MLflow."""
        return {name: float(value) for name, value in asdict(self).items()}


def effective_size(weight_N: np.ndarray) -> float:
    """(Σ w)² / Σ w²: as many rows of one weight say as much (Kish 1965); 0 of none."""
    square = float(np.square(weight_N, dtype=np.float64).sum())
    return float(weight_N.sum(dtype=np.float64)) ** 2 / square if square else 0.0


def overlap(propensity_N: np.ndarray, *, floor: float) -> Overlap:
    """What is left of rows that weigh 1 / max(propensity, floor)."""
    if not len(propensity_N):
        return Overlap(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    weight_N = 1 / np.maximum(propensity_N.astype(np.float64), floor)
    effective = effective_size(weight_N)
    return Overlap(
        len(weight_N), effective, effective / len(weight_N), float(weight_N.max() / weight_N.sum()),
        float((propensity_N <= floor).mean()), float(weight_N.mean()),
    )  # fmt: skip
