"""Whether a log can tell of a policy at all, and what is said where it can hardly."""

import math

import numpy as np
import pytest

from towers.off_policy import Terms, ips
from towers.verdict import by_model, by_weights, overlap, overlap_of_policies, overlap_of_slates


def test_a_policy_that_goes_where_the_log_never_went_is_not_judged():
    """Half of the target's mass lies on an action that is never shown; where both policies are known, so is that, exactly."""
    target, propensity = np.tile([0.5, 0.5, 0.0], (600, 1)), np.tile([0.5, 0.0, 0.5], (600, 1))
    shown = np.arange(600) % 2 * 2
    seen = overlap_of_policies(target, propensity, shown)
    assert (seen.rounds, seen.effective, seen.largest_weight, seen.outside) == (600, 300, 1.0, 0.5)
    said = "no overlap: at least 50% of what this policy would show was never shown by the log (effective sample 300 of 600 rounds,"
    assert seen.refusal.startswith(said)
    verdict = by_weights("IPS", ips(np.ones(600), np.ones(600)), seen)
    assert math.isnan(verdict.value) and verdict.said == seen.refusal
    assert verdict.as_json() == {"estimator": "IPS", "value": None, "low": None, "high": None, "said": seen.refusal}


def test_where_only_logged_propensities_are_known_the_mean_weight_tells():
    rng = np.random.default_rng(0)
    whole, half = rng.choice([0.0, 2.0], 2_000), rng.choice([0.0, 0.0, 2.0, 0.0], 2_000)
    assert overlap(whole).refusal == "" and overlap(whole).supported.low < 1 < overlap(whole).supported.high
    assert 0.4 < overlap(half).outside < 0.5 and overlap(half).refusal.startswith("no overlap: at least 4")
    slates = overlap_of_slates(np.stack([whole, whole], axis=1), np.full(2_000, 2))
    assert slates.supported.mean == pytest.approx(overlap(whole).supported.mean) and slates.rounds == 4_000


def test_a_small_effective_sample_is_said_and_so_is_a_log_without_variety():
    weight = np.tile([0.0, 2.0], 100)
    reward = (np.arange(200) % 4 == 1).astype(float)
    verdict = by_weights("IPS", ips(reward, weight), overlap(weight))
    assert verdict.value == 0.5 and verdict.low < 0.5 < verdict.high and verdict.said == "weak: an effective sample of 100, below 500"
    flat = by_weights("IPS", ips(np.zeros(2_000), np.ones(2_000)), overlap(np.ones(2_000)))
    assert flat.value == 0 and math.isnan(flat.low) and flat.said == "nothing varies in the log, so no interval can be told"
    modelled = by_model("DM", Terms(np.array([0.1, 0.2, 0.3]), np.ones(3)))
    assert modelled.value == pytest.approx(0.2) and "as right as the reward model" in modelled.said
