"""Examination from what stood at several positions: clicks of a group of alike impressions differ by position alone.

The model is E[clicks of group g at position k] = shown_gk · relevance_g · θ_k. Given how often a group was clicked at all, where it was
clicked is a draw with probabilities π_gk = shown_gk θ_k / Σ_j shown_gj θ_j, in which its relevance no longer stands: the conditional
likelihood of Poisson counts (Hausman, Hall & Griliches 1984), so groups may be small and many. It uses every comparison at once, where
Agarwal et al. (WSDM 2019, arXiv:1812.05161) weigh pairs of positions.

Shapes: P impressions · G groups · K positions · U users.
"""

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components

from data.curve import Estimate
from data.impressions import Shown
from data.overlap import OverlapError
from data.smooth import Prior, as_found


def harvest(shown: Shown, group_P: np.ndarray, prior: Prior = as_found) -> Estimate:
    """θ relative to the topmost compared position, from impressions whose groups are alike but for their position.

    Positions are compared that shown groups link, each having clicks that another could have had (Ford's condition for the maximum to
    exist): the strongly connected positions of which the topmost is nearest the top. Errors are sandwich errors clustered by user, for
    what one person clicks hangs together. `prior` is `data.smooth.as_found` or `power_law`.

    Raises:
        OverlapError: no two positions are so linked.
    """
    group_P = np.unique(group_P, return_inverse=True)[1]
    K, G = int(shown.position_P.max()), int(group_P.max()) + 1
    place_P, click_P = shown.position_P - 1, shown.clicked_P.astype(np.float64)
    compared_K = linked(table(group_P, place_P, click_P, G, K), table(group_P, place_P, np.ones(len(place_P)), G, K))
    if compared_K.sum() < 2:
        raise OverlapError(no_overlap(shown))
    kept = np.flatnonzero(compared_K)
    here_P = compared_K[place_P]
    place_P, group_P, click_P, user_P = np.searchsorted(kept, place_P[here_P]), group_P[here_P], click_P[here_P], shown.user_row_P[here_P]
    shown_GK = table(group_P, place_P, np.ones(len(place_P)), G, len(kept))
    click_GK = table(group_P, place_P, click_P, G, len(kept))
    log_slope_K = solve(shown_GK, click_GK)
    covariance_KK = covariance(shown_GK, click_GK, log_slope_K, group_P, place_P, click_P, user_P, np.ones(len(place_P)))
    log_slope_K, covariance_KK = prior(log_slope_K, covariance_KK, kept + 1)
    slope, error = np.full(K, np.nan), np.full(K, np.nan)
    slope[kept], error[kept] = np.exp(log_slope_K), np.sqrt(np.diag(covariance_KK))
    return Estimate(slope, np.zeros(K), error, compared_K)


def table(row_P: np.ndarray, column_P: np.ndarray, value_P: np.ndarray, rows: int, columns: int) -> csr_array:
    return csr_array((value_P, (row_P, column_P)), shape=(rows, columns))


def linked(click_GK: csr_array, shown_GK: csr_array) -> np.ndarray:
    """Which positions are compared: a click at k of a group that also stood at j says that k can outdo j."""
    beats_KK = (click_GK.T @ shown_GK) > 0
    _, label_K = connected_components(beats_KK, directed=True, connection="strong")
    sizes = np.bincount(label_K)
    several = np.flatnonzero(sizes[label_K] > 1)
    return label_K == label_K[several[0]] if len(several) else np.zeros(len(label_K), bool)


def no_overlap(shown: Shown) -> str:
    seen = np.unique(shown.position_P)
    named = f"{', '.join(map(str, seen[:12]))}{' …' if len(seen) > 12 else ''}"
    return (
        f"no overlap: among positions {named} no two hold alike impressions that were clicked at either ({len(shown.position_P):,}"
        f" impressions, {int(shown.clicked_P.sum()):,} clicks), so that nothing tells attention from relevance; randomise the order of some"
        " slates, or choose an `examination` of data.examination.given"
    )


def _expected(shown_GK: csr_array, click_GK: csr_array, log_slope_K: np.ndarray) -> tuple[csr_array, np.ndarray, np.ndarray]:
    """π (G, K), clicks of each group (G,) and its relevance (G,)."""
    weighed_GK = shown_GK @ diags_array(np.exp(log_slope_K))
    mass_G = np.maximum(weighed_GK.sum(1), 1e-300)
    total_G = click_GK.sum(1)
    return csr_array(diags_array(1 / mass_G) @ weighed_GK), total_G, total_G / mass_G


def _information(pi_GK: csr_array, total_G: np.ndarray) -> np.ndarray:
    weighed_GK = diags_array(total_G) @ pi_GK
    return np.diag(weighed_GK.sum(0)) - (pi_GK.T @ weighed_GK).toarray()


def solve(shown_GK: csr_array, click_GK: csr_array) -> np.ndarray:
    """Newton on the concave conditional likelihood, log θ (K,), 0 at the first; steps of at most 1 keep it from overshooting."""
    click_K = click_GK.sum(0)
    log_slope_K = np.log(click_K / shown_GK.sum(0))
    log_slope_K -= log_slope_K[0]
    for _ in range(200):
        pi_GK, total_G, _ = _expected(shown_GK, click_GK, log_slope_K)
        score_K = click_K - pi_GK.T @ total_G
        step = np.linalg.solve(_information(pi_GK, total_G)[1:, 1:], score_K[1:])
        step *= min(1.0, 1.0 / np.abs(step).max()) if np.abs(step).max() else 1.0
        log_slope_K[1:] += step
        if np.abs(step).max() < 1e-9:
            return log_slope_K
    raise OverlapError("the curve does not settle after 200 steps: positions are compared by a handful of clicks; take wider groups")


def covariance(
    shown_GK: csr_array, click_GK: csr_array, log_slope_K: np.ndarray, group_P: np.ndarray, place_P: np.ndarray, click_P: np.ndarray,
    user_P: np.ndarray, shown_P: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Sandwich covariance of log θ (K, K), each user being one draw (Liang & Zeger 1986); `shown_P` is what each counts for."""
    pi_GK, total_G, relevance_G = _expected(shown_GK, click_GK, log_slope_K)
    user_P = np.unique(user_P, return_inverse=True)[1]
    users, (groups, places) = int(user_P.max()) + 1, shown_GK.shape
    residual_P = click_P - shown_P * relevance_G[group_P] * np.exp(log_slope_K)[place_P]
    score_UK = table(user_P, place_P, residual_P, users, places) - table(user_P, group_P, residual_P, users, groups) @ pi_GK
    score_UK = csr_array(score_UK)[:, 1:]
    bread = np.linalg.inv(_information(pi_GK, total_G)[1:, 1:])
    covariance_KK = np.zeros(pi_GK.shape[1:] * 2)
    covariance_KK[1:, 1:] = bread @ (score_UK.T @ score_UK).toarray() @ bread
    return covariance_KK
