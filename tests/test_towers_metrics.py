"""Metrics against numbers worked by hand and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from towers import metrics

# Two users: the first has targets at ranks 1, 4 and beyond the list, the second one target at rank 3.
RANK_T = torch.tensor([4, 1, 2**31 - 1, 3])
OFFSET = torch.tensor([0, 3, 4])


def test_rank_metrics_by_hand():
    assert metrics.recall(RANK_T, OFFSET, 3).tolist() == pytest.approx([1 / 3, 1.0])
    assert metrics.recall(RANK_T, OFFSET, 2).tolist() == pytest.approx([1 / 3, 0.0])
    assert metrics.hit_rate(RANK_T, OFFSET, 2).tolist() == [1.0, 0.0]
    assert metrics.precision(RANK_T, OFFSET, 4).tolist() == [0.5, 0.25]
    assert metrics.mrr(RANK_T, OFFSET, 4).tolist() == pytest.approx([1.0, 1 / 3])
    assert metrics.mrr(RANK_T, OFFSET, 2).tolist() == [1.0, 0.0]


def test_ndcg_by_hand():
    """User 0: (1 + 1/log2 5) / (1 + 1/log2 3 + 1/2); user 1: 1/log2 4 = 1/2. At k=1 one hit at the top is all there is."""
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert metrics.ndcg(RANK_T, OFFSET, 4).tolist() == pytest.approx([(1 + 1 / math.log2(5)) / ideal, 0.5])
    assert metrics.ndcg(RANK_T, OFFSET, 1).tolist() == [1.0, 0.0]


@given(st.integers(0, 10**6), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_ndcg_is_that_of_scikit_learn(seed, k):
    random = np.random.default_rng(seed)
    score, relevant = random.permutation(20), random.random(20) < 0.3
    relevant[random.integers(20)] = True
    rank_T = torch.from_numpy(20 - score[relevant])
    ours = metrics.ndcg(rank_T, torch.tensor([0, len(rank_T)]), k).item()
    assert ours == pytest.approx(ndcg_score([relevant.astype(float)], [score.astype(float)], k=k))


def test_a_user_without_targets_is_refused_and_restrict_leaves_it_out():
    with pytest.raises(ValueError, match="User 1 has no target"):
        metrics.recall(RANK_T, torch.tensor([0, 4, 4]), 2)
    rank_T, offset, user = metrics.restrict(RANK_T, torch.tensor([0, 0, 3, 4]), torch.tensor([True, False, True, False]))
    assert (rank_T.tolist(), offset.tolist(), user.tolist()) == ([4, 2**31 - 1], [0, 2], [1])
    assert metrics.recall(rank_T, offset, 4).tolist() == [0.5]


def test_slices_part_the_users_and_deciles_keep_equal_counts_together():
    masks = metrics.history_slices(torch.tensor([0, 1, 3, 4, 10, 11, 99]))
    assert {name: mask.nonzero()[:, 0].tolist() for name, mask in masks.items()} == {
        "history_0": [0],
        "history_1_3": [1, 2],
        "history_4_10": [3, 4],
        "history_11_up": [5, 6],
    }
    assert metrics.popularity_decile(torch.arange(11)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert metrics.popularity_decile(torch.tensor([1, 0, 1, 1, 9])).tolist() == [1, 0, 1, 1, 8]
    assert metrics.popularity_decile(torch.zeros(2, dtype=torch.int64)).tolist() == [0, 0]


def test_list_metrics_by_hand():
    top_UK = torch.tensor([[0, 1], [0, -1]])
    assert metrics.catalogue_coverage(top_UK, 5) == 0.4
    # counts 3, 1, 0: p = 4/7, 2/7, 1/7
    count_I = torch.tensor([3, 1, 0])
    assert metrics.novelty(top_UK, count_I).tolist() == pytest.approx([-(math.log2(4 / 7) + math.log2(2 / 7)) / 2, -math.log2(4 / 7)])
    assert metrics.average_popularity(top_UK, count_I).tolist() == [2.0, 3.0]
    # listed 2, 1, 0 times: x ascending 0, 1, 2 → (-2·0 + 0·1 + 2·2) / (3·3)
    assert metrics.exposure_gini(top_UK, 3) == pytest.approx(4 / 9)
    assert metrics.exposure_gini(torch.tensor([[0, 1, 2]]), 3) == 0.0
    with pytest.raises(ValueError, match="list of user 1 is empty"):
        metrics.novelty(torch.tensor([[0], [-1]]), count_I)


def test_serendipity_counts_only_hits_that_popularity_would_not_have_brought():
    """User 0 hits 4 (expected) and 5 (not): 1 of 3. User 1 hits 4, which only user 0 would have been shown: 1 of 2."""
    top_UK, expected_UK = torch.tensor([[4, 5, 6], [4, 7, -1]]), torch.tensor([[4, 1, 2], [1, -1, -1]])
    value_U = metrics.serendipity(top_UK, expected_UK, torch.tensor([0, 2, 3]), torch.tensor([4, 5, 4]), 8)
    assert value_U.tolist() == pytest.approx([1 / 3, 1 / 2])


def test_diversity_is_one_minus_the_mean_cosine_of_pairs():
    """Item 2 is opposite to 0 and at a right angle to 1; item 3 is a zero vector. A length does not matter, a list of one has 0."""
    vector_ID = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-2.0, 0.0], [0.0, 0.0]])
    top_UK = torch.tensor([[0, 0, -1], [0, 1, -1], [0, 2, -1], [0, 1, 2], [0, 0, 3], [1, -1, -1]])
    assert metrics.intra_list_diversity(top_UK, vector_ID).tolist() == pytest.approx([0.0, 1.0, 2.0, 4 / 3, 2 / 3, 0.0])


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    """95 of 100 in expectation; 400 samples of 60 users put the share within .90 and .98 unless the interval is wrong."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.rand(400, 60, generator=generator)
    inside = [low <= 0.5 <= high for _, low, high in (metrics.bootstrap_mean(s, resamples=300, seed=i) for i, s in enumerate(samples))]
    assert 0.90 <= sum(inside) / 400 <= 0.98


def test_bootstrap_width_is_that_of_the_normal_law_and_pairing_cancels_what_is_shared():
    value_U = torch.rand(5000, generator=torch.Generator().manual_seed(2))
    mean, low, high = metrics.bootstrap_mean(value_U, resamples=2000)
    assert mean == pytest.approx(float(value_U.double().mean()))
    assert high - low == pytest.approx(2 * 1.96 * float(value_U.std()) / math.sqrt(5000), rel=0.08)
    assert metrics.bootstrap_mean(value_U, seed=3) == metrics.bootstrap_mean(value_U, seed=3)
    assert metrics.bootstrap_difference(value_U + 0.25, value_U) == pytest.approx((0.25, 0.25, 0.25), abs=1e-6)
    with pytest.raises(ValueError, match="same users"):
        metrics.bootstrap_difference(value_U, value_U[1:])


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(5, 8)), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_auc_is_that_of_scikit_learn_whole_and_by_group(rows):
    score, label, group = (torch.tensor(column) for column in zip(*rows, strict=True))
    if label.all() or not label.any():
        with pytest.raises(ValueError, match="no pair to order"):
            metrics.auc(score.float(), label)
        return
    assert metrics.auc(score.float(), label) == pytest.approx(roc_auc_score(label, score))
    each = [
        (roc_auc_score(label[group == g], score[group == g]), (group == g).sum())
        for g in group.unique()
        if 0 < label[group == g].float().mean() < 1
    ]
    if each:
        found = metrics.grouped_auc(score.float(), label, group)
        assert found.value == pytest.approx(float(np.average([a for a, _ in each], weights=[n for _, n in each])))
        assert (found.groups, found.groups_left_out) == (len(each), len(group.unique()) - len(each))


def test_auc_refuses_nan():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        metrics.auc(torch.tensor([math.nan, 1.0]), torch.tensor([0, 1]))


def test_log_loss_is_that_of_scikit_learn_and_does_not_clamp():
    logit, label = torch.tensor([-2.0, 0.3, 1.0]), torch.tensor([0, 1, 0])
    assert metrics.log_loss(logit, label) == pytest.approx(sklearn_log_loss(label, logit.sigmoid()), rel=1e-6)
    assert metrics.log_loss(torch.tensor([200.0]), torch.tensor([0])) == pytest.approx(200.0)


def test_calibration_error_by_hand():
    """Bins of two: mean .1 against 0 clicked, mean .8 against 1/2: (2·.1 + 2·.3) / 4. The base rate for all has none."""
    label = torch.tensor([0, 0, 1, 0])
    assert metrics.calibration_error(torch.tensor([0.05, 0.15, 0.9, 0.7]), label, bins=2) == pytest.approx(0.2)
    assert metrics.calibration_error(torch.full((4,), 0.25), label, bins=2) == pytest.approx(0.0)


def test_mean_absolute_error_by_hand():
    assert metrics.mean_absolute_error(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0])) == 2.0
