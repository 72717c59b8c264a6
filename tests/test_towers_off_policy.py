"""What another policy would have earned: by hand, as the Open Bandit Pipeline says, and against worlds where it is known."""

import itertools
import math

import numpy as np
import obp.ope as pipeline
import pytest

from towers import slate_policy
from towers.off_policy import (
    LoggedPropensityError,
    best_share_weight,
    clipped_ips,
    direct_method,
    doubly_robust,
    effective_size,
    expected,
    expected_beyond,
    importance_weight,
    ips,
    snips,
    switch,
    switch_doubly_robust,
)  # fmt: skip

SAME = {"rel": 0, "abs": 1e-9}


def test_estimates_by_hand():
    reward, weight = np.array([1.0, 0.0, 1.0, 0.0]), np.array([2.0, 2.0, 0.0, 4.0])
    assert ips(reward, weight).value == pytest.approx(2 / 4)
    assert clipped_ips(reward, weight, cap=1.5).value == pytest.approx(1.5 / 4)
    assert snips(reward, weight).value == pytest.approx(2 / 8)
    assert effective_size(weight) == pytest.approx(64 / 24)
    assert math.isnan(snips(reward, np.zeros(4)).value) and effective_size(np.zeros(4)) == 0.0


def test_switch_by_hand():
    """Two actions logged with (.9, .1), (.5, .5), wanted with (0, 1), (.5, .5): the first round's other action weighs 10, above 2."""
    target, propensity = np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([[0.9, 0.1], [0.5, 0.5]])
    predicted = np.array([[0.2, 0.4], [0.6, 0.8]])
    shown, reward = np.array([1, 0]), np.array([1.0, 1.0])
    weight = importance_weight(target[[0, 1], shown], propensity[[0, 1], shown])
    assert weight.tolist() == pytest.approx([10.0, 1.0])
    beyond = expected_beyond(target, propensity, predicted, threshold=2.0)
    assert beyond.tolist() == [0.4, 0.0]  # the model speaks for the action of great weight, and for it alone
    assert switch(reward, weight, beyond, threshold=2.0).value == pytest.approx((0.4 + 1.0) / 2)
    of_all = expected(target, predicted)
    assert of_all.tolist() == pytest.approx([0.4, 0.7])
    doubly = switch_doubly_robust(reward, weight, predicted[[0, 1], shown], of_all, threshold=2.0)
    assert doubly.top_N.tolist() == pytest.approx([0.4, 0.7 + (1.0 - 0.6)])
    everything = expected_beyond(target, propensity, predicted, threshold=0.0)
    assert switch(reward, weight, everything, threshold=0.0).value == pytest.approx(direct_method(of_all).value)
    nothing = expected_beyond(target, propensity, predicted, threshold=10.0)
    assert switch(reward, weight, nothing, threshold=10.0).value == pytest.approx(ips(reward, weight).value)
    never_shown = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert expected_beyond(target, never_shown, predicted, threshold=1e9).tolist() == [0.4, 0.0]


@pytest.mark.parametrize("seed", range(8))
def test_as_the_open_bandit_pipeline_says(seed):
    rng = np.random.default_rng(seed)
    rounds, actions = int(rng.integers(2, 400)), int(rng.integers(2, 12))
    propensity, target = rng.dirichlet(np.full(actions, 0.7), rounds) + 1e-3, rng.dirichlet(np.full(actions, 0.3), rounds)
    propensity /= propensity.sum(1, keepdims=True)
    predicted = rng.random((rounds, actions))
    shown = (rng.random((rounds, 1)) > propensity.cumsum(1)).sum(1).clip(max=actions - 1)
    reward = rng.binomial(1, 0.3, rounds) * rng.lognormal(size=rounds)
    at = np.arange(rounds), shown
    weight, of_all = importance_weight(target[at], propensity[at]), expected(target, predicted)
    cut = float(np.quantile(weight, 0.8)) + 0.1
    logged = {"reward": reward, "action": shown, "pscore": propensity[at], "position": np.zeros(rounds, int)}
    wanted = {"action_dist": target[:, :, None], "estimated_rewards_by_reg_model": predicted[:, :, None]}
    ours_and_theirs = (
        (direct_method(of_all), pipeline.DirectMethod()),
        (ips(reward, weight), pipeline.InverseProbabilityWeighting()),
        (snips(reward, weight), pipeline.SelfNormalizedInverseProbabilityWeighting()),
        (doubly_robust(reward, weight, predicted[at], of_all), pipeline.DoublyRobust()),
        (switch_doubly_robust(reward, weight, predicted[at], of_all, threshold=cut), pipeline.SwitchDoublyRobust(tau=cut)),
    )
    for ours, theirs in ours_and_theirs:
        assert ours.value == pytest.approx(theirs.estimate_policy_value(**logged, **wanted), **SAME), theirs.estimator_name


@pytest.mark.parametrize("seed", range(4))
def test_slates_as_the_open_bandit_pipeline_says(seed):
    rng = np.random.default_rng(seed)
    requests, positions = int(rng.integers(2, 200)), int(rng.integers(2, 6))
    of_log, of_target = rng.uniform(0.05, 0.9, (2, requests, positions))
    reward = rng.binomial(1, 0.3, (requests, positions)).astype(float)
    ratio = importance_weight(of_target, of_log)
    prefix = slate_policy.prefix_weight(ratio)
    slate_id, position = (np.broadcast_to(place, reward.shape).ravel() for place in (np.arange(requests)[:, None], np.arange(positions)))
    rows = {"slate_id": slate_id, "reward": reward.ravel(), "position": position}
    log_prefix, target_prefix = np.cumprod(of_log, 1), np.cumprod(of_target, 1)
    whole = {"pscore": np.repeat(log_prefix[:, -1], positions), "evaluation_policy_pscore": np.repeat(target_prefix[:, -1], positions)}
    alone = {"pscore_item_position": of_log.ravel(), "evaluation_policy_pscore_item_position": of_target.ravel()}
    above = {"pscore_cascade": log_prefix.ravel(), "evaluation_policy_pscore_cascade": target_prefix.ravel()}
    for ours, theirs, told in (
        (slate_policy.standard(reward, prefix[:, -1]), pipeline.SlateStandardIPS, whole),
        (slate_policy.item_position(reward, ratio), pipeline.SlateIndependentIPS, alone),
        (slate_policy.cascade(reward, prefix), pipeline.SlateRewardInteractionIPS, above),
    ):
        assert ours.value == pytest.approx(theirs(len_list=positions).estimate_policy_value(**rows, **told), **SAME), theirs.__name__


def test_slates_by_hand():
    reward, ratio = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 0.5], [0.0, 3.0]])
    assert slate_policy.prefix_weight(ratio).tolist() == [[2.0, 1.0], [0.0, 0.0]]
    assert slate_policy.standard(reward, np.array([1.0, 0.0])).top_N.tolist() == [1.0, 0.0]
    assert slate_policy.cascade(reward, slate_policy.prefix_weight(ratio)).top_N.tolist() == [2.0, 0.0]
    assert slate_policy.item_position(reward, ratio).top_N.tolist() == [2.0, 3.0]
    assert slate_policy.item_position_snips(reward, ratio).value == pytest.approx(5 / 5.5)
    assert slate_policy.pseudo_inverse(reward, ratio).top_N.tolist() == [1.5, 4.0]  # (2.5 − 1)·1 and (3 − 1)·2


def _pair(slates, chance) -> np.ndarray:
    """Γ of a policy that draws these slates with these chances: (S, M, S, M)."""
    rows = np.zeros((len(slates), len(slates[0]), 3))
    for place, slate in enumerate(slates):
        rows[place, np.arange(len(slate)), slate] = 1
    return np.einsum("k,ksm,ktn->smtn", chance, rows, rows)


def test_the_pseudo_inverse_is_right_wherever_rewards_add_up():
    """All ordered pairs of three items, drawn unevenly and without repeats; the slate's reward is a sum of parts by item and position.
    The mean over the log of weight·reward is the target slate's own reward, whichever slate that is; and it is so for no reward that is
    no such sum."""
    slates = list(itertools.permutations(range(3), 2))
    chance = np.array([0.3, 0.1, 0.2, 0.15, 0.05, 0.2])
    pair, part = _pair(slates, chance), np.array([[0.1, 0.5, 0.2], [0.7, 0.3, 0.0]])
    for wanted in slates:
        target = np.zeros((2, 3))
        target[[0, 1], wanted] = 1
        weight = np.array([slate_policy.pseudo_inverse_weight(target, pair, np.array(slate)) for slate in slates])
        earned = np.array([part[[0, 1], slate].sum() for slate in slates])
        assert (chance * weight * earned).sum() == pytest.approx(part[[0, 1], wanted].sum())
        assert (chance * weight).sum() == pytest.approx(1)


def test_the_pseudo_inverse_of_independent_positions_is_the_plain_sum():
    slates = list(itertools.product(range(3), repeat=2))
    top, below = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 0.3])
    pair = _pair(slates, np.array([top[a] * below[b] for a, b in slates]))
    target = np.array([[0.2, 0.2, 0.6], [0.5, 0.25, 0.25]])
    for a, b in slates:
        ratio = np.array([[target[0, a] / top[a], target[1, b] / below[b]]])
        weight = slate_policy.pseudo_inverse(np.array([[1.0, 0.0]]), ratio).value
        assert slate_policy.pseudo_inverse_weight(target, pair, np.array([a, b])) == pytest.approx(weight)


def test_a_propensity_that_cannot_be_divided_by_is_refused_by_row():
    for bad in (0.0, 1.1, float("nan"), -0.1):
        with pytest.raises(LoggedPropensityError, match=r"row 1: propensity is .*\(1 such rows\)"):
            importance_weight(np.ones(3), np.array([0.5, bad, 0.2]))
    with pytest.raises(LoggedPropensityError, match=r"row 0: the target policy's probability is 1\.5"):
        importance_weight(np.array([1.5]), np.array([0.5]))


def test_the_policy_that_drew_is_weighed_by_one():
    assert [best_share_weight(np.array([0.1, 0.9, 0.5, 0.2]), drawn, share=1.0) for drawn in range(4)] == [1.0] * 4
    reward = np.array([1.0, 0.0, 0.0])
    assert ips(reward, np.ones(3)).value == snips(reward, np.ones(3)).value == pytest.approx(1 / 3)


def test_weights_of_the_best_share_by_hand():
    score = np.array([0.1, 0.9, 0.5, -np.inf])
    assert [best_share_weight(score, drawn, share=0.25) for drawn in range(4)] == [0.0, 4.0, 0.0, 0.0]
    assert [best_share_weight(score, drawn, share=0.3) for drawn in range(4)] == [0.0, 2.0, 2.0, 0.0]
    assert best_share_weight(np.array([0.5, 0.5]), 1, share=0.5) == 0.0  # a tie goes to the first
    for score, share in (([np.nan, 1.0], 0.5), ([1.0], 0.0), ([1.0], 1.1)):
        with pytest.raises(ValueError, match="NaN among"):
            best_share_weight(np.array(score), 0, share=share)
