"""The curve of a page: how likely each position is to be looked at, with its interval, and what a row finds there.

Shapes: P impressions · N rows to be weighed · D curves, the first of everybody · K positions from the top.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.impressions import Rows, Shown
from data.overlap import OverlapError

logger = logging.getLogger(__name__)


class Estimate(NamedTuple):
    """Of one context. `slope_K` is relative to the topmost compared position, `error_K` the standard error of its logarithm (0 there),
    `compared_K` which positions were compared at all: the others hold NaN."""

    slope_K: np.ndarray
    offset_K: np.ndarray
    error_K: np.ndarray
    compared_K: np.ndarray


@dataclass(frozen=True, slots=True)
class Curve:
    """P(click | shown) = slope · relevance + offset by position, (D, K) each; column 0 is the top, relative to which the slopes are.

    Row 0 is of everybody, row d of `devices[d - 1]` (a vocabulary's row). A position that was never compared holds the slope and offset
    of the nearest compared one above it (else below), an infinite error, and False in `compared_DK`.
    """

    devices: tuple[int, ...]
    slope_DK: np.ndarray
    offset_DK: np.ndarray
    error_DK: np.ndarray
    compared_DK: np.ndarray
    clicks_DK: np.ndarray
    diagnostics: dict[str, float]

    def interval(self, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % interval, (D, K), from the error of the logarithm."""
        return self.slope_DK * np.exp(-z * self.error_DK), self.slope_DK * np.exp(z * self.error_DK)

    def at(self, rows: Rows) -> "Examination":
        """What the curve says of each row. Slopes are divided by the largest of their curve, so that they are probabilities.

        A position below the curve's last counts as the last. A device without a curve of its own has everybody's. A row of unknown
        position (0) has the slope whose inverse is the mean inverse of the log's clicks, and their mean offset: it weighs as a click does.
        """
        row_N = np.zeros(len(rows.position_N), np.int64)
        for place, device in enumerate(self.devices):
            row_N[rows.device_N == device] = place + 1
        top_D1 = self.slope_DK.max(1, keepdims=True)
        slope_DK, offset_DK = self.slope_DK / top_D1, self.offset_DK / top_D1
        share_DK = self.clicks_DK / np.maximum(self.clicks_DK.sum(1, keepdims=True), 1)
        slope_DK1 = np.column_stack([1 / np.maximum((share_DK / slope_DK).sum(1), 1), slope_DK])
        offset_DK1 = np.column_stack([(share_DK * offset_DK).sum(1), offset_DK])
        place_N = np.minimum(rows.position_N, slope_DK.shape[1])
        unknown, below = int((rows.position_N == 0).sum()), int((rows.position_N > slope_DK.shape[1]).sum())
        if unknown or below:
            logger.info(
                "examination: %s of %s rows of unknown position weigh as the mean click; %s below the curve's last position as the last",
                f"{unknown:,}", f"{len(place_N):,}", f"{below:,}",
            )  # fmt: skip
        return Examination(slope_DK1[row_N, place_N], offset_DK1[row_N, place_N], self)


class Examination(NamedTuple):
    """P(click | shown) = slope · relevance + offset, (N,) each. Without trust bias the slope is the probability of being looked at and
    the offset is 0. `curve` is where they were looked up, None where there is none."""

    slope_N: np.ndarray
    offset_N: np.ndarray
    curve: Curve | None = None


Context = Callable[[np.ndarray], np.ndarray]
"""From devices (P,) to the number of the curve that each belongs to, (P,): 0 is everybody's alone."""


def everybody(device_P: np.ndarray) -> np.ndarray:
    """One curve for all."""
    return np.zeros(len(device_P), np.int64)


def by_device(device_P: np.ndarray) -> np.ndarray:
    """A curve for each known device: people scroll on phones (context-dependent examination, Fang et al., SIGIR 2019, arXiv:1811.01802)."""
    return device_P


def curve_of(shown: Shown, context: Context, estimate: Callable[[Shown], Estimate], **diagnostics: float) -> Curve:
    """Everybody's curve and one for each context, from impressions that say whether they were clicked.

    A context in which nothing is compared has no curve of its own, and is counted in the diagnostics.

    Raises:
        OverlapError: no impression says whether it was clicked, or nothing is compared among all of them.
    """
    whole = len(shown.clicked_P)
    shown = shown.where(~np.isnan(shown.clicked_P) & (shown.position_P > 0))
    if not len(shown.clicked_P):
        raise OverlapError(
            f"none of the {whole:,} impressions has a position and says whether it was clicked: examination cannot be estimated;"
            " choose an `examination` of data.examination.given, or certain"
        )
    K = int(shown.position_P.max())
    found, devices, silent = [estimate(shown)], [], 0
    context_P = context(shown.device_P)
    for device in np.unique(context_P[context_P > 0]):
        try:
            found.append(estimate(shown.where(context_P == device)))
            devices.append(int(device))
        except OverlapError as error:
            logger.warning("examination of device %s is everybody's: %s", device, error)
            silent += 1
    clicks = [_clicks(shown, K)] + [_clicks(shown.where(context_P == device), K) for device in devices]
    padded = [_filled(one, K) for one in found]
    missing = sum(int((~one.compared_K).sum()) for one in padded)
    if missing:
        alone = [str(k + 1) for k in np.flatnonzero(~padded[0].compared_K)]
        logger.warning(
            "examination: positions never compared take the nearest compared one's: %s of everybody, %s places in all curves",
            ", ".join(alone) or "none", missing,
        )  # fmt: skip
    told = {
        "impressions": float(whole), "without_answer": float(whole - len(shown.clicked_P)), "clicks": float(shown.clicked_P.sum()),
        "positions_not_compared": float(missing), "devices_without_curve": float(silent), **diagnostics,
    }  # fmt: skip
    told |= {f"worth_in_clicks_{k + 1}": 1 / error**2 for k, error in enumerate(padded[0].error_K) if 0 < error < np.inf}
    columns = (np.stack(column) for column in zip(*padded, strict=True))
    return Curve(tuple(devices), *columns, np.stack(clicks), told)


def _clicks(shown: Shown, K: int) -> np.ndarray:
    return np.bincount(shown.position_P - 1, shown.clicked_P, minlength=K).astype(np.int64)


def _filled(estimate: Estimate, K: int) -> Estimate:
    """Never compared positions as the class says; K columns."""
    there = np.flatnonzero(estimate.compared_K)
    nearest_K = there[np.maximum(np.searchsorted(there, np.arange(K), side="right") - 1, 0)]
    compared_K = np.isin(np.arange(K), there)
    error_K = np.where(compared_K, estimate.error_K[nearest_K], np.inf)
    return Estimate(estimate.slope_K[nearest_K], estimate.offset_K[nearest_K], error_K, compared_K)
