"""MMR is Carbonell and Goldstein's definition, computed without repeating itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serve.mmr import mmr, select


def naive(relevance, vectors, count, mmr_lambda):
    """The definition, word by word, in double precision: O(N K N D)."""
    unit = [v / np.linalg.norm(v) if v.any() else v for v in vectors.astype(np.float64)]
    chosen = []
    while len(chosen) < min(count, len(relevance)):
        score = {
            k: mmr_lambda * float(relevance[k]) - (1 - mmr_lambda) * max((float(unit[k] @ unit[c]) for c in chosen), default=0.0)
            for k in range(len(relevance))
            if k not in chosen
        }
        chosen.append(max(score, key=lambda k: (score[k], -k)))
    return chosen


@st.composite
def dyadic(draw):
    """Candidates whose every sum is exact in float32, so that ties are ties: vectors of ±1 in 4 or 16 dimensions, binary fractions else."""
    count, width = draw(st.integers(1, 12)), draw(st.sampled_from((4, 16)))
    vectors = draw(hnp.arrays(np.float32, (count, width), elements=st.sampled_from((-1.0, 1.0))))
    relevance = draw(hnp.arrays(np.float32, count, elements=st.integers(0, 16).map(lambda n: n / 16)))
    return relevance, vectors, draw(st.integers(0, 14)), draw(st.integers(0, 8)) / 8


@given(dyadic())
def test_equals_the_definition_ties_included(case):
    relevance, vectors, count, mmr_lambda = case
    assert mmr(relevance, vectors, count=count, mmr_lambda=mmr_lambda).tolist() == naive(relevance, vectors, count, mmr_lambda)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equals_the_definition_on_dense_vectors(dtype):
    rng = np.random.default_rng(3)
    relevance, vectors = rng.random(200), rng.normal(size=(200, 32)).astype(dtype)
    assert mmr(relevance, vectors, count=40, mmr_lambda=0.6).tolist() == naive(relevance, vectors, 40, 0.6)


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.integers(0, 8).map(lambda n: n / 8)))
def test_at_lambda_one_it_is_a_stable_sort(relevance):
    vectors = np.random.default_rng(0).normal(size=(len(relevance), 8))
    assert mmr(relevance, vectors, count=99, mmr_lambda=1.0).tolist() == np.argsort(-relevance, kind="stable").tolist()


@given(st.integers(1, 40), st.integers(0, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_never_repeats_and_gives_all_when_asked_for_more(candidates, count, mmr_lambda, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(candidates, 4))
    vectors[rng.random(candidates) < 0.3] = vectors[0]
    order = mmr(rng.random(candidates), vectors, count=count, mmr_lambda=mmr_lambda)
    assert len(order) == len(set(order.tolist())) == min(count, candidates)


def test_by_hand():
    """Two twins and a stranger. λ=.5: the better twin scores .45; then the other .5·.8 − .5·1 = −.1, the stranger .5·.3 − 0 = .15."""
    relevance = np.array([0.8, 0.9, 0.3])
    vectors = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]], np.float16)
    found = select(relevance, vectors, count=3, mmr_lambda=0.5)
    assert found.order_N.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.similarity_N, [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found.score_N, [0.45, 0.15, -0.1], atol=1e-6)


def test_opposites_are_welcome():
    """A negative cosine adds: the opposite at .1 scores .05 + .5, the orthogonal one at .9 only .45."""
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert mmr(np.array([1.0, 0.9, 0.1]), vectors, count=2, mmr_lambda=0.5).tolist() == [0, 2]


def test_a_zero_vector_resembles_nothing():
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert mmr(np.array([1.0, 0.9, 0.6]), vectors, count=3, mmr_lambda=0.5).tolist() == [0, 2, 1]


def test_no_candidates_is_an_empty_slate():
    assert mmr(np.empty(0), np.empty((0, 8)), count=5, mmr_lambda=0.7).tolist() == []


@pytest.mark.parametrize("mmr_lambda", [-0.01, 1.01, float("nan"), float("inf")])
def test_refuses_a_lambda_outside_zero_to_one(mmr_lambda):
    with pytest.raises(ValueError, match="mmr_lambda"):
        mmr(np.ones(2), np.ones((2, 2)), count=1, mmr_lambda=mmr_lambda)


@pytest.mark.parametrize(
    "relevance, vectors, count, word",
    [
        (np.array([np.nan, 1]), np.ones((2, 2)), 1, "finite"),
        (np.ones(2), np.array([[np.inf, 0], [0, 1]]), 1, "finite"),
        (np.ones(3), np.ones((2, 2)), 1, "agree"),
        (np.ones(2), np.ones((2, 2)), -1, "count"),
    ],
)
def test_refuses_what_it_cannot_order(relevance, vectors, count, word):
    with pytest.raises(ValueError, match=word):
        mmr(relevance, vectors, count=count, mmr_lambda=0.5)
