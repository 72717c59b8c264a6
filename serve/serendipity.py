"""Something different: unlike all that the user has seen, and still likely to be liked.

Serendipity as Ge, Delgado-Battenfeld and Jannach have it (Beyond accuracy: evaluating recommender systems by coverage and serendipity,
RecSys 2010): what is unexpected and useful at once. Unexpected is measured against the history, as in Kotkov, Wang and Veijalainen's survey
(A survey of serendipity in recommender systems, Knowledge-Based Systems 111, 2016).

Shapes: K candidates · D width · E items of one user's history · N those that are different.
"""

import numpy as np

from serve.likeness import unit


def different(probability_K: np.ndarray, vector_KD: np.ndarray, history_vector_ED: np.ndarray) -> np.ndarray:
    """Positions of the candidates that are different, best first: int64 (N,), by probability · (1 − largest cosine to the history).

    Only those are, whose largest cosine is below the candidates' median and whose probability is at least the median, so N may be 0. To a
    user without history nothing is unexpected, nor is anything where all candidates are alike to it. Ties go to the lower position.

    Raises:
        ValueError: shapes that do not agree, or a vector that is not finite.
    """
    if probability_K.ndim != 1 or vector_KD.ndim != 2 or len(probability_K) != len(vector_KD):
        raise ValueError(f"probability {probability_K.shape} and vectors {vector_KD.shape} do not agree; expected (K,) and (K, D)")
    if not len(probability_K) or not len(history_vector_ED):
        return np.empty(0, np.int64)
    closest_K = (unit(vector_KD) @ unit(history_vector_ED).T).max(1)
    worth_K = probability_K * (1 - closest_K)
    found = np.flatnonzero((closest_K < np.median(closest_K)) & (probability_K >= np.median(probability_K)))
    return found[np.argsort(-worth_K[found], kind="stable")]
