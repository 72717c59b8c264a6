"""Calibration is Steck's definition: the slate's genres against the history's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.calibration import calibrated, select


def divergence(genres, share):
    """KL(p ‖ q̃) of a whole slate, word by word."""
    parts = [row / row.sum() if row.any() else row for row in genres.astype(np.float64)]
    smoothed = 0.99 * np.mean(parts, axis=0) + 0.01 * share
    return sum(p * np.log(p / q) for p, q in zip(share, smoothed, strict=True) if p)


def naive(relevance, genres, share, count, mmr_lambda):
    """Greedy, the whole objective anew for each candidate."""
    chosen = []
    while len(chosen) < count:
        value = {
            k: mmr_lambda * relevance[[*chosen, k]].sum() - (1 - mmr_lambda) * divergence(genres[[*chosen, k]], share)
            for k in range(len(relevance))
            if k not in chosen
        }
        chosen.append(max(value, key=value.get))
    return chosen


def case(seed, candidates=30, width=5):
    rng = np.random.default_rng(seed)
    share = rng.random(width) * (rng.random(width) < 0.7) + np.eye(width)[0]
    return rng.random(candidates), (rng.random((candidates, width)) < 0.4).astype(np.float32), share / share.sum()


@pytest.mark.parametrize("mmr_lambda", [0.0, 0.4, 0.9])
def test_equals_the_definition(mmr_lambda):
    for seed in range(10):
        relevance, genres, share = case(seed)
        found = select(relevance, genres, share.astype(np.float32), count=8, mmr_lambda=mmr_lambda)
        expected = naive(relevance, genres, share, 8, mmr_lambda)
        reached = [divergence(genres[found.order_N[: n + 1]], share) for n in range(8)]
        np.testing.assert_allclose(found.similarity_N, reached, atol=1e-5)
        wanted = [divergence(genres[expected[: n + 1]], share) for n in range(8)]
        if mmr_lambda:  # at 0 the same genres tie, and float32 settles near ties its own way
            assert found.order_N.tolist() == expected
        else:
            np.testing.assert_allclose(reached, wanted, atol=1e-5)


def test_by_hand():
    """History: ¾ drama, ¼ comedy. λ = .5.

    A drama first: q̃ = (.9925, .0025), KL = .75·ln(.75/.9975) + .25·ln(.25/.0025) = .93743; a comedy: q̃ = (.0075, .9925) and KL = 3.10925.
    An item of both: q̃ = (.5025, .4975), KL = .75·ln(.75/.5025) + .25·ln(.25/.4975) = .12832: it wins though least relevant,
    .5·.5 − .5·.12832 = .18584. Then the drama: q = (.75, .25), KL = 0, .5·.9.
    """
    genres = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    found = select(np.array([0.9, 0.95, 0.5]), genres, np.array([0.75, 0.25], np.float32), count=2, mmr_lambda=0.5)
    assert found.order_N.tolist() == [2, 0]
    np.testing.assert_allclose(found.similarity_N, [0.12832, 0], atol=2e-5)
    np.testing.assert_allclose(found.score_N, [0.18584, 0.45], atol=2e-5)


@pytest.mark.parametrize("share", [(0.7, 0.3, 0.0), (0.2, 0.3, 0.5), (1.0, 0.0, 0.0)])
def test_a_perfect_match_is_found_where_there_is_one(share):
    """Ten places, enough items of one genre each: the slate holds exactly the shares, though relevance speaks for the third genre."""
    genres = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    relevance = np.linspace(0.1, 0.2, 60)
    order = calibrated(relevance, genres, np.array(share, np.float32), count=10, mmr_lambda=0.1)
    np.testing.assert_allclose(genres[order].mean(0), share, atol=1e-6)


@given(st.integers(0, 1000), st.sampled_from((0.0, 0.5, 1.0)))
def test_nobody_without_genres_is_calibrated(seed, mmr_lambda):
    relevance, genres, _ = case(seed)
    found = select(relevance, genres, np.zeros(5, np.float32), count=50, mmr_lambda=mmr_lambda)
    assert found.order_N.tolist() == np.argsort(-relevance.astype(np.float32), kind="stable").tolist()


@given(st.integers(0, 1000))
def test_at_lambda_one_it_is_sorting(seed):
    relevance, genres, share = case(seed)
    assert calibrated(relevance, genres, share, count=50, mmr_lambda=1.0).tolist() == np.argsort(-relevance, kind="stable").tolist()


@given(st.integers(0, 1000), st.integers(0, 50), st.floats(0, 1))
def test_never_repeats_and_gives_all_when_asked_for_more(seed, count, mmr_lambda):
    relevance, genres, share = case(seed)
    order = calibrated(relevance, genres, share, count=count, mmr_lambda=mmr_lambda)
    assert len(order) == len(set(order.tolist())) == min(count, 30)


@pytest.mark.parametrize("share", [np.array([0.5, 0.6]), np.array([1.5, -0.5]), np.array([1.0]), np.array([np.nan, 1.0])])
def test_refuses_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="share"):
        calibrated(np.ones(3), np.ones((3, 2)), share, count=1, mmr_lambda=0.5)
