"""What is different is unlike the history and still wanted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve.serendipity import different


def test_by_hand():
    """History: east. Cosines 1, .6, 0, −1, 0, median 0: only west lies below, and comes if its probability .5 is at least the median.

    With a sixth of cosine .8 the median is .3 and both northerners may come too: west is worth .5 · 2 = 1, they .9 and .8.
    """
    vectors = np.array([[2, 0], [3, 4], [0, 1], [-1, 0], [0, 3]], np.float16)
    assert different(np.array([0.6, 0.7, 0.9, 0.5, 0.1]), vectors, np.array([[1.0, 0.0]])).tolist() == []
    assert different(np.array([0.4, 0.7, 0.9, 0.5, 0.1]), vectors, np.array([[1.0, 0.0]])).tolist() == [3]
    six = np.vstack([vectors, [[4, 3]]])
    assert different(np.array([0.6, 0.7, 0.9, 0.5, 0.1, 0.2]), six, np.array([[1.0, 0.0]])).tolist() == [2]
    assert different(np.array([0.2, 0.1, 0.9, 0.5, 0.8, 0.2]), six, np.array([[1.0, 0.0]])).tolist() == [3, 2, 4]  # 1.0, .9, .8


def test_the_nearest_of_a_history_counts():
    """What lies opposite to one thing seen and beside another is not unexpected."""
    vectors = np.array([[-1.0, 0], [0, 1], [1, 0]])
    assert different(np.ones(3), vectors, np.array([[1.0, 0], [-1, 0]])).tolist() == [1]
    assert different(np.ones(3), vectors, np.array([[1.0, 0]])).tolist() == [0]


def test_nothing_is_unexpected_without_a_history_or_candidates():
    assert different(np.ones(3), np.eye(3), np.empty((0, 3))).tolist() == []
    assert different(np.empty(0), np.empty((0, 3)), np.eye(3)).tolist() == []


@given(st.integers(1, 50), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_both_halves_of_the_definition_hold(candidates, events, seed):
    rng = np.random.default_rng(seed)
    probability, vectors, history = rng.random(candidates), rng.normal(size=(candidates, 4)), rng.normal(size=(events, 4))
    order = different(probability, vectors, history)
    closest = (vectors @ history.T / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(history, axis=1)).max(1)
    wanted = np.flatnonzero(probability >= np.median(probability))
    below, at = closest < np.median(closest) - 1e-5, np.abs(closest - np.median(closest)) <= 1e-5  # what is at the median, rounding decides
    assert set(wanted[below[wanted]]) <= set(order.tolist()) <= set(wanted[(below | at)[wanted]])
    assert len(set(order.tolist())) == len(order)
    assert (np.diff((probability * (1 - closest))[order]) <= 1e-6).all()
