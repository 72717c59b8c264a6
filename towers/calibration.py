"""From logits to probabilities that are such, by rows that no weight of the model was trained on.

Shapes: N rows.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

LEAST_SLOPE = 0.01  # above 0, so that no order turns round


def platt(logit_N: np.ndarray, target_N: np.ndarray, weight_N: np.ndarray) -> tuple[float, float]:
    """(slope, shift) for which σ(slope · logit + shift) is least surprised by the targets: the least weighted cross-entropy (Platt 1999),
    with a slope of at least `LEAST_SLOPE`. Targets may be probabilities; an unknown one (NaN) and a weight of 0 count nothing.

    A pull towards (1, 0), as strong as one row, keeps few rows from a verdict; no row gives (1, 0) itself.
    """
    known_N = ~np.isnan(target_N) & (weight_N > 0)
    logit_N, target_N, weight_N = (column_N[known_N].astype(np.float64) for column_N in (logit_N, target_N, weight_N))
    if not len(logit_N):
        return 1.0, 0.0
    share_N = weight_N / weight_N.sum()

    def surprise(slope_shift: np.ndarray) -> tuple[float, np.ndarray]:
        calibrated_N = slope_shift[0] * logit_N + slope_shift[1]
        pull = slope_shift - (1, 0)
        loss = share_N @ (np.logaddexp(0, calibrated_N) - target_N * calibrated_N) + pull @ pull / len(logit_N)
        gap_N = share_N * (expit(calibrated_N) - target_N)
        return loss, np.array([gap_N @ logit_N, gap_N.sum()]) + 2 * pull / len(logit_N)

    found = minimize(surprise, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=[(LEAST_SLOPE, None), (None, None)], options={"ftol": 1e-12})
    return float(found.x[0]), float(found.x[1])
