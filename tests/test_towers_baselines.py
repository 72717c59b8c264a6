"""Baselines against formulas written out densely, and laws about strangers, seeds and memory."""

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse

from towers.baselines import Bm25, Cosine, Ease, ImplicitALS, ItemNeighbours, Popularity, PopularityFallback
from towers.evaluation import item_lists, per_user, rank

ALL = (Popularity(), ItemNeighbours(), ItemNeighbours(weight=Bm25(), shrinkage=3.0), ImplicitALS(factors=2), Ease())
# Users 0-3 have histories, user 4 has none; item 4 was never seen.
SMALL = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=np.float32)
USERS = torch.arange(5)


def small() -> sparse.csr_matrix:
    return sparse.csr_matrix(SMALL)


def block_world(seed: int = 0) -> tuple[sparse.csr_matrix, list[list[int]]]:
    """Two tastes of 40 items each: 120 users know 8 items of their own taste and will want 4 more of it."""
    random = np.random.default_rng(seed)
    matrix, targets = np.zeros((120, 80), dtype=np.float32), []
    for user in range(120):
        drawn = random.permutation(40)[:12] + 40 * (user % 2)
        matrix[user, drawn[:8]] = 1
        targets.append(drawn[8:].tolist())
    return sparse.csr_matrix(matrix), targets


def test_popularity_is_the_column_sum_for_everybody():
    assert Popularity().fit(small())(USERS[:2]).tolist() == [[3, 3, 2, 1, 0]] * 2


def test_cosine_neighbours_by_hand():
    """cos(0,1) = 2/3, cos(0,2) = 1/√6, cos(0,3) = 1/√3, cos(1,2) = 2/√6; user 2 knows items 0 and 3."""
    score_I = ItemNeighbours(neighbours=5).fit(small())(torch.tensor([2]))[0]
    assert score_I.tolist() == pytest.approx([1 / np.sqrt(3), 2 / 3, 1 / np.sqrt(6), 1 / np.sqrt(3), 0.0], rel=1e-5)
    nearest = ItemNeighbours(neighbours=1).fit(small())(torch.tensor([2]))[0]  # 0 speaks for 1 only, 3 for 0 only
    assert nearest.tolist() == pytest.approx([1 / np.sqrt(3), 2 / 3, 0.0, 0.0, 0.0], rel=1e-5)


def test_shrinkage_multiplies_by_common_users_over_themselves_plus_shrinkage():
    """Items 0 and 1 have two users in common: 2/3 · 2/(2+2); items 0 and 2 one: 1/√6 · 1/(1+2)."""
    score_I = ItemNeighbours(neighbours=5, shrinkage=2.0).fit(small())(torch.tensor([2]))[0]
    assert score_I[1:3].tolist() == pytest.approx([2 / 3 / 2, 1 / np.sqrt(6) / 3], rel=1e-5)


def test_bm25_is_its_formula():
    counts = SMALL * np.array([1, 2, 1, 3, 1], dtype=np.float32)
    degree, length = (counts > 0).sum(1), counts.sum(0)
    idf = np.log(1 + (5 - degree + 0.5) / (degree + 0.5))
    expected = idf[:, None] * counts * 2.2 / (counts + 1.2 * (0.25 + 0.75 * length / length.mean()))
    assert Bm25()(sparse.csr_matrix(counts)).toarray() == pytest.approx(expected, rel=1e-5)


def test_cosine_columns_have_unit_length_and_an_unseen_item_stays_empty():
    weighted = Cosine()(sparse.csr_matrix(3 * SMALL)).toarray()
    assert np.linalg.norm(weighted, axis=0) == pytest.approx([1, 1, 1, 1, 0], rel=1e-5)


def test_ease_minimises_its_own_objective():
    """Steck's B is the ridge regression of each item on the other items; done here one item at a time."""
    fitted = Ease(regularization=2.0).fit(small())
    for item in range(5):
        others = np.delete(np.arange(5), item)
        x = SMALL[:, others].astype(np.float64)
        expected = np.linalg.solve(x.T @ x + 2.0 * np.eye(4), x.T @ SMALL[:, item])
        assert fitted.weight_II[others, item] == pytest.approx(expected, abs=1e-6)
        assert fitted.weight_II[item, item] == 0
    assert fitted(USERS).numpy() == pytest.approx(SMALL @ fitted.weight_II, abs=1e-6)


def test_ease_refuses_a_catalogue_that_would_not_fit():
    with pytest.raises(MemoryError, match=r"EASE on 30,000 items .* about 10.1 GiB; max_items is 20,000"):
        Ease().fit(sparse.csr_matrix(([1.0], ([0], [0])), shape=(2, 30_000)))


def test_ials_solves_its_normal_equations_and_repeats_by_seed():
    """At the fixed point a user's vector is (Qᵀ C Q + λ)⁻¹ Qᵀ C p for the final item vectors; the last half-step moved Q."""
    data, _ = block_world()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, again, other = (ImplicitALS(factors=4, regularization=1.0, iterations=60, alpha=3.0, seed=s).fit(data) for s in (0, 0, 1))
    assert torch.equal(one.item_ID, again.item_ID) and torch.equal(one.query_UD, again.query_UD)
    assert not torch.equal(one.item_ID, other.item_ID)
    q, liked = one.query_UD.double().numpy(), data.toarray()[:, 5]
    confidence = np.where(liked > 0, 3.0, 1.0)
    expected = np.linalg.solve(q.T @ (confidence[:, None] * q) + np.eye(4), q.T @ (confidence * liked))
    assert one.item_ID[5].numpy() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("baseline", ALL[1:], ids=lambda b: type(b).__name__)
def test_taste_is_learned_and_strangers_tie_until_popularity_is_asked(baseline):
    """A stranger's scores are all zero, so every rank is beyond; with the fallback the stranger sees the popular items."""
    data, targets = block_world()
    data = sparse.vstack([data, sparse.csr_matrix((1, 80), dtype=np.float32)]).tocsr()
    popular = int(np.asarray(data.sum(0)).argmax())
    lists, seen = item_lists([*targets, [popular]]), item_lists([*(data[u].indices.tolist() for u in range(121))])
    plain = per_user(rank(baseline.fit(data), torch.arange(121), lists, seen, item_count=80), [32])["recall_at_32"]
    assert plain[-1] == 0.0
    assert plain[:-1].mean() > 0.95  # 32 items of the own taste are unseen; chance would find 32 of 72
    scorer = PopularityFallback(baseline).fit(data)
    fallback = per_user(rank(scorer, torch.arange(121), lists, seen, item_count=80), [32])["recall_at_32"]
    assert (scorer.fallback_user_count, fallback[-1]) == (1, 1.0)
    assert torch.equal(fallback[:-1], plain[:-1])


@pytest.mark.parametrize("baseline", ALL, ids=lambda b: type(b).__name__)
def test_what_is_no_interaction_log_is_refused(baseline):
    with pytest.raises(ValueError, match="no interaction"):
        baseline.fit(sparse.csr_matrix((3, 4)))
    with pytest.raises(ValueError, match="negative or not finite"):
        baseline.fit(sparse.csr_matrix(np.array([[1.0, np.nan], [1.0, 0.0]])))
    with pytest.raises(ValueError, match="negative or not finite"):
        baseline.fit(sparse.csr_matrix(-SMALL))


def test_fitting_does_not_change_what_it_was_given():
    data = small()
    for baseline in ALL:
        baseline.fit(data)
    assert (data.toarray() == SMALL).all()
