"""A guess of how wanted a shown item was, from features alone: what makes a doubly robust label calmer than an inverse one.

The guess need not be right. Where it is, the label has little left to weigh up; where it is wrong, what was observed corrects it, as
long as the examination is right (Oosterhuis 2023, arXiv 2203.17118). It is fitted on other groups than those it guesses for, so that no
label knows itself.

Shapes: N shown rows · X features · F folds.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

Imputation = Callable[..., np.ndarray]
"""(feature_NX, click_N, slope_N, offset_N, weight_N, group_N) → relevance (N,) in (0, 1)."""


def logistic(
    feature_NX: np.ndarray,
    click_N: np.ndarray,
    slope_N: np.ndarray,
    offset_N: np.ndarray,
    weight_N: np.ndarray,
    group_N: np.ndarray,
    *,
    folds: int = 5,
    penalty: float = 1e-3,
    seed: int = 0,
) -> np.ndarray:
    """Relevance = σ(β · x), float32 (N,), by the likeliest β: P(click) = slope · relevance + offset, each row weighed by `weight_N`.

    Assumes that a linear score of standardised features orders relevance. A click is explained by examination *or* relevance in the
    likelihood itself, so no label outside [0, 1] is ever fitted and rare positions add no noise (the regression step of Wang et al. 2018,
    with the examination known). Groups go to `folds` at random; each fold is guessed by what the others taught. Rows whose click is
    unknown (NaN) teach nothing and are guessed for.

    Raises:
        ValueError: fewer than two groups, whose other half could teach.
    """
    groups, place_N = np.unique(group_N, return_inverse=True)
    if len(groups) < 2:
        raise ValueError(f"logistic: {len(groups)} group, expected at least 2: what is guessed for one is learned from the others")
    fold_N = np.random.default_rng(seed).permutation(len(groups))[place_N] % min(folds, len(groups))
    known_N = ~np.isnan(click_N)
    mean_X, std_X = feature_NX[known_N].mean(0), feature_NX[known_N].std(0)
    x_NX = np.column_stack([(feature_NX - mean_X) / np.where(std_X > 0, std_X, 1), np.ones(len(feature_NX))]).astype(np.float64)
    guess_N = np.empty(len(click_N), np.float32)
    for fold in np.unique(fold_N):
        learn_N = known_N & (fold_N != fold)
        beta = _most_likely(x_NX[learn_N], *(column[learn_N] for column in (click_N, slope_N, offset_N, weight_N)), penalty)
        guess_N[fold_N == fold] = expit(x_NX[fold_N == fold] @ beta)
    return guess_N


def _most_likely(
    x_NX: np.ndarray, click_N: np.ndarray, slope_N: np.ndarray, offset_N: np.ndarray, weight_N: np.ndarray, penalty: float
) -> np.ndarray:
    share_N = weight_N / weight_N.sum()

    def surprise(beta: np.ndarray) -> tuple[float, np.ndarray]:
        relevance_N = expit(x_NX @ beta)
        chance_N = np.clip(slope_N * relevance_N + offset_N, 1e-9, 1 - 1e-9)
        loss = -(share_N * np.where(click_N > 0, np.log(chance_N), np.log1p(-chance_N))).sum()
        slope_of_loss_N = share_N * (chance_N - click_N) / (chance_N * (1 - chance_N)) * slope_N * relevance_N * (1 - relevance_N)
        return loss + penalty / 2 * beta[:-1] @ beta[:-1], slope_of_loss_N @ x_NX + penalty * np.append(beta[:-1], 0)

    return minimize(surprise, np.zeros(x_NX.shape[1]), jac=True, method="L-BFGS-B").x
