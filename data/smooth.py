"""What a curve gains from being a curve: positions lend each other strength, as far as their own clicks agree.

Shapes: K positions, the top first · T spreads tried.
"""

from collections.abc import Callable

import numpy as np

Prior = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From log slopes (K,), 0 at the top, their covariance (K, K) and their positions to better ones."""

SPREADS = np.linspace(0, 1, 201)


def as_found(log_slope_K: np.ndarray, covariance_KK: np.ndarray, position_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each position for itself."""
    return log_slope_K, covariance_KK


def power_law(log_slope_K: np.ndarray, covariance_KK: np.ndarray, position_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drawn towards α − η log k below the top (k^−η: Joachims et al., WSDM 2017), each position departing from it by a normal of spread τ.

    τ is what the data say: the posterior under an even prior on it (Gelman 2006), α and η being free; curves of another shape have a large
    τ and stay as found. The covariance is that of the mixture over τ. With fewer than five positions nothing is drawn.
    """
    if len(log_slope_K) < 5:
        return log_slope_K, covariance_KK
    found_k, noise_kk = log_slope_K[1:], covariance_KK[1:, 1:]
    line_k2 = np.stack([np.ones(len(found_k)), np.log(position_K[1:])], 1)
    logs, means, covariances = [], [], []
    for spread in SPREADS:
        total_kk = noise_kk + spread**2 * np.eye(len(found_k))
        inverse_kk = np.linalg.inv(total_kk)
        precision_22 = line_k2.T @ inverse_kk @ line_k2
        away_kk = inverse_kk - inverse_kk @ line_k2 @ np.linalg.solve(precision_22, line_k2.T @ inverse_kk)
        logs.append(-0.5 * (np.linalg.slogdet(total_kk)[1] + np.linalg.slogdet(precision_22)[1] + found_k @ away_kk @ found_k))
        means.append(found_k - noise_kk @ away_kk @ found_k)
        covariances.append(noise_kk - noise_kk @ away_kk @ noise_kk)
    weight_T = np.exp(np.array(logs) - max(logs))
    weight_T /= weight_T.sum()
    mean_k = weight_T @ np.array(means)
    off_Tk = np.array(means) - mean_k
    covariance_kk = np.tensordot(weight_T, np.array(covariances), 1) + (off_Tk * weight_T[:, None]).T @ off_Tk
    log_slope, covariance = np.zeros(len(log_slope_K)), np.zeros(covariance_KK.shape)
    log_slope[1:], covariance[1:, 1:] = mean_k, covariance_kk
    return log_slope, covariance
