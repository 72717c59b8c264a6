"""Examination where the top is trusted: clicked because it stands there, though nobody wants it (Agarwal et al., WWW 2019).

P(click | k) = θ_k ε⁺_k if wanted and θ_k ε⁻_k if not, so a line of relevance at each position. Relevance itself is not known; among alike
impressions (`data.strata`) it varies with what the clicks of other people say of it, and by how much clicks vary with that at k, against
how much they do at the top, is the slope a_k: E[Σ click·(z − z̄)] = (shown − 1)·a_k·cov(z, γ) in each group and position, the equation of
`data.harvest`, whatever z is worth as a guess. What the slopes leave of the clicks are the offsets, by a linear equation.

Lines are known up to what relevance 0 and 1 mean (Vardasbi et al., CIKM 2020): here relevance is the chance of a click at the top, so that
the top's line is γ itself, and another's offset is against the top: negative where the top is trusted more. (click − b_k) / a_k then means
for every position what the item would have got at the top, which is all that an order needs.

Shapes: P impressions · G groups · K positions · U users.
"""

import numpy as np
from scipy.sparse import csr_array, diags_array

from data.curve import Estimate
from data.harvest import covariance, linked, no_overlap, solve, table
from data.impressions import Shown
from data.overlap import OverlapError
from data.regression_em import relevance


def fit_lines(shown: Shown, group_P: np.ndarray) -> Estimate:
    """(a, b) at each position against the top's (1, 0).

    Raises:
        OverlapError: the compared positions are fewer than two, or their clicks do not vary with relevance.
    """
    group_P = np.unique(group_P, return_inverse=True)[1]
    whole, G = int(shown.position_P.max()), int(group_P.max()) + 1
    one_P, click_P = np.ones(len(group_P)), shown.clicked_P.astype(np.float64)
    compared = linked(*(table(group_P, shown.position_P - 1, value_P, G, whole) for value_P in (click_P, one_P)))
    if compared.sum() < 2:
        raise OverlapError(no_overlap(shown))
    here_P = compared[shown.position_P - 1]
    kept, group_P, click_P, one_P = np.flatnonzero(compared), group_P[here_P], click_P[here_P], one_P[here_P]
    shown = shown.where(here_P)._replace(position_P=np.searchsorted(kept, shown.position_P[here_P] - 1) + 1)
    place_P, K = shown.position_P - 1, len(kept)
    cell_P = np.unique(group_P * K + place_P, return_inverse=True)[1]
    guess_P = relevance(shown)
    many_P = np.bincount(cell_P)[cell_P]
    centred_P = guess_P - np.bincount(cell_P, guess_P)[cell_P] / many_P
    shown_GK, click_GK = table(group_P, place_P, one_P, G, K), table(group_P, place_P, click_P, G, K)
    free_GK, moved_GK = table(group_P, place_P, 1 - 1 / many_P, G, K), table(group_P, place_P, click_P * centred_P, G, K)
    if (moved_GK.sum(0) <= 0).any():
        flat = ", ".join(str(kept[k] + 1) for k in np.flatnonzero(moved_GK.sum(0) <= 0))
        raise OverlapError(
            f"trust cannot be told from attention: at positions {flat} clicks do not grow with relevance as other people's clicks tell it;"
            " choose an `examination` of data.examination.harvested"
        )
    log_slope_K = solve(free_GK, moved_GK)
    slope_K = np.exp(log_slope_K)
    covariance_KK = covariance(free_GK, moved_GK, log_slope_K, group_P, place_P, click_P * centred_P, shown.user_row_P, 1 - 1 / many_P)
    offset_K = _offsets(shown_GK, click_GK, slope_K)
    columns = [np.full(whole, np.nan) for _ in range(3)]
    for column, value in zip(columns, (slope_K, offset_K, np.sqrt(np.diag(covariance_KK))), strict=True):
        column[kept] = value
    return Estimate(*columns, compared)


def _offsets(shown_GK: csr_array, click_GK: csr_array, slope_K: np.ndarray) -> np.ndarray:
    """b (K,), 0 at the top: Σ_g (clicks_gk − shown_gk b_k) = Σ_g π_gk Σ_j (clicks_gj − shown_gj b_j), π as in `data.harvest`."""
    weighed_GK = shown_GK @ diags_array(slope_K)
    pi_GK = diags_array(1 / np.maximum(weighed_GK.sum(1), 1e-300)) @ weighed_GK
    left_KK = np.diag(shown_GK.sum(0)) - (pi_GK.T @ shown_GK).toarray()
    right_K = click_GK.sum(0) - pi_GK.T @ click_GK.sum(1)
    return np.concatenate([[0.0], np.linalg.lstsq(left_KK[:, 1:], right_K, rcond=None)[0]])
