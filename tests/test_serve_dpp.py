"""The greedy determinantal slate is what determinants say, computed without determinants."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serve.dpp import COPY, dpp, select


def by_determinants(relevance, vectors, count, mmr_lambda):
    """Chen's greedy step word by word: what makes log det of L = diag(q) S diag(q) largest, ties to the lower."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    quality = np.exp(mmr_lambda / (2 * (1 - mmr_lambda)) * relevance)
    kernel = quality[:, None] * (1 + unit @ unit.T) / 2 * quality
    chosen = []
    while len(chosen) < count:
        left = [k for k in range(len(relevance)) if k not in chosen]
        chosen.append(max(left, key=lambda k: round(np.linalg.slogdet(kernel[np.ix_([*chosen, k], [*chosen, k])])[1], 9)))
    return chosen


@pytest.mark.parametrize("mmr_lambda", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equals_the_greedy_search_by_determinants(mmr_lambda, dtype):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        relevance, vectors = rng.random(30), rng.normal(size=(30, 16)).astype(dtype)
        assert dpp(relevance, vectors, count=10, mmr_lambda=mmr_lambda).tolist() == by_determinants(relevance, vectors, 10, mmr_lambda)


def test_by_hand():
    """Cosines of candidate 0 to 1 and 2 are .6 and 0, of 1 to 2 it is .8; so S = .8, .5 and .9. λ = .5.

    First the most relevant: .5·.9. Then d² = 1 − S²: candidate 1 has .36 and .5·.8 + .5·ln .36 = −.1108, candidate 2 has .75 and
    .5·.3 + .5·ln .75 = .0062. At last d² of 1 = .36 − (.9 − .8·.5)²/.75 = .02667, which scores .4 + .5·ln .02667 = −1.4122.
    """
    vectors = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]], np.float16)
    found = select(np.array([0.9, 0.8, 0.3]), vectors, count=3, mmr_lambda=0.5)
    assert found.order_N.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.similarity_N, [0, 0, 0.8], atol=1e-6)
    np.testing.assert_allclose(found.score_N, [0.45, 0.00616, -1.41217], atol=2e-5)


def test_the_scores_add_up_to_the_log_determinant():
    rng = np.random.default_rng(4)
    relevance, vectors = rng.random(40), rng.normal(size=(40, 12))
    found = select(relevance, vectors, count=8, mmr_lambda=0.6)
    unit = vectors[found.order_N] / np.linalg.norm(vectors[found.order_N], axis=1, keepdims=True)
    expected = 0.6 * relevance[found.order_N].sum() + 0.4 * np.linalg.slogdet((1 + unit @ unit.T) / 2)[1]
    assert found.score_N.sum() == pytest.approx(expected, abs=1e-4)


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.integers(0, 8).map(lambda n: n / 8)), st.booleans())
def test_at_lambda_one_it_is_a_stable_sort(relevance, copies):
    vectors = np.ones((len(relevance), 8)) if copies else np.random.default_rng(0).normal(size=(len(relevance), 8))
    found = select(relevance, vectors, count=99, mmr_lambda=1.0)
    assert found.order_N.tolist() == np.argsort(-relevance, kind="stable").tolist()
    assert found.score_N.tolist() == relevance[found.order_N].tolist()


def test_a_copy_waits_for_all_that_is_new():
    """Two of three directions have copies; at λ = .9 the copies would win by relevance alone."""
    vectors = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, -1]])
    found = select(np.array([0.9, 0.85, 0.8, 0.86, 0.0]), vectors, count=5, mmr_lambda=0.9)
    assert found.order_N.tolist() == [0, 3, 4, 1, 2]
    np.testing.assert_allclose(found.similarity_N, [0, 0, 2**-0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found.score_N[3:], 0.9 * np.array([0.85, 0.8]) + 0.1 * np.log(COPY), atol=1e-5)


def test_likeness_among_the_rest_counts_only_what_came_before():
    """All is spanned after one: of the rest, the second is its own copy's copy, the first only a little like what was chosen."""
    found = select(np.array([0.3, 0.2, 0.1]), np.array([[1.0, 0.0]] * 3), count=3, mmr_lambda=0.5)
    assert found.order_N.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.similarity_N, [0, 1, 1], atol=1e-6)


def test_a_spent_kernel_goes_on_by_relevance():
    """Vectors of width 2 make a kernel of rank 3: the fourth and later are spanned whatever they are."""
    rng = np.random.default_rng(5)
    relevance, vectors = rng.random(12), rng.normal(size=(12, 2))
    order = dpp(relevance, vectors, count=12, mmr_lambda=0.0)
    rest = relevance[order[3:]]
    assert sorted(order.tolist()) == list(range(12))
    assert (np.diff(rest) <= 0).all()


@example(candidates=9, count=7, mmr_lambda=0.9375, seed=17531)
@given(st.integers(1, 40), st.integers(0, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_never_repeats_and_gives_all_when_asked_for_more(candidates, count, mmr_lambda, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(candidates, 4)).astype(np.float16)
    vectors[rng.random(candidates) < 0.3] = vectors[0]
    vectors[rng.random(candidates) < 0.1] = 0
    found = select(rng.random(candidates), vectors, count=count, mmr_lambda=mmr_lambda)
    assert len(found.order_N) == len(set(found.order_N.tolist())) == min(count, candidates)
    assert np.isfinite(found.score_N).all() and (np.abs(found.similarity_N) < 1.001).all()


def test_opposites_are_welcome():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert dpp(np.array([1.0, 0.5, 0.4]), vectors, count=2, mmr_lambda=0.5).tolist() == [0, 2]


def test_refuses_what_it_cannot_order():
    for relevance, vectors, count, mmr_lambda, word in (
        (np.array([np.nan, 1]), np.ones((2, 2)), 1, 0.5, "finite"),
        (np.ones(2), np.array([[np.inf, 0], [0, 1]]), 1, 0.5, "finite"),
        (np.ones(3), np.ones((2, 2)), 1, 0.5, "agree"),
        (np.ones(2), np.ones((2, 2)), -1, 0.5, "count"),
        (np.ones(2), np.ones((2, 2)), 1, 1.5, "mmr_lambda"),
    ):
        with pytest.raises(ValueError, match=word):
            dpp(relevance, vectors, count=count, mmr_lambda=mmr_lambda)
