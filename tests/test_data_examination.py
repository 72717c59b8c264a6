"""Curves by hand, laws of harvesting, recovery on worlds whose attention is known, and the refusals where nothing is compared."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st

from data.examination import (
    by_belief,
    by_device,
    by_item,
    certain,
    given,
    harvested,
    harvested_curve,
    randomised,
    randomised_curve,
    regression_em_curve,
    trust_curve,
)
from data.harvest import harvest, solve, table
from data.impressions import Observed, Rows, Shown, shown_in
from data.outcomes import Attention, Requests, Slates, look_and_click
from data.overlap import OverlapError
from data.propensity import PropensityError
from data.smooth import as_found, power_law
from data.strata import expected_place, order_law
from data.world import World
from tests.worlds import SMALL_STRONG, TINY, simulated


def shown_of(*cells: tuple[int, int, int, int], device: int = 1, arm: int = 0, arms=("policy", "uniform"), logged: float = np.nan) -> Shown:
    """Impressions from (item, position, shown, clicked) counts, a request and a user each."""
    item, position, clicked = (
        np.concatenate([np.r_[np.full(count, row[place])] for row in cells for count in [row[2]]]) for place in (0, 1, 1)
    )
    clicked = np.concatenate([np.r_[np.ones(hits), np.zeros(count - hits)] for _, _, count, hits in cells])
    P = len(item)
    same = [np.full(P, value) for value in (device, arm)]
    return Shown(
        np.arange(P), np.arange(P), item, position, *same, arms, np.full(P, logged), clicked.astype(np.float32), np.zeros(P, np.int64)
    )


def joined(*parts: Shown) -> Shown:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Shown._fields if name.endswith("_P")}
    return parts[0]._replace(**columns | {name: np.arange(len(columns["item_row_P"])) for name in ("request_P", "user_row_P")})


def seen(shown: Shown) -> Observed:
    return Observed(np.zeros(8), shown)


def rows(*position: int, device: int = 1) -> Rows:
    N = len(position)
    return Rows(np.zeros(N, np.int64), np.full(N, np.nan), np.array(position), np.full(N, device))


TWO_ITEMS = shown_of((0, 1, 100, 40), (0, 2, 200, 40), (1, 1, 50, 10), (1, 2, 1000, 100))
"""Item 0 is wanted by 40 %, item 1 by 20 %; position 2 is looked at half as often, and holds mostly item 1."""


def test_harvest_by_hand():
    curve = harvested_curve(seen(TWO_ITEMS), strata=by_item)
    np.testing.assert_allclose(curve.slope_DK, [[1, 0.5]], rtol=1e-9)
    raw = (140 / 1200) / (50 / 150)
    assert raw == pytest.approx(0.35)
    assert curve.clicks_DK.tolist() == [[50, 140]]
    # of an item's clicks a share π is expected at position 2, 1/2 and 10/11: information Σ clicks·π(1 − π); everyone saw one thing, so that
    # the score varies by Σ shown·p(1 − p)·((1 − π)² at position 2, π² at position 1)
    information = 80 / 4 + 110 * 10 / 11 / 11
    varies = (100 * 0.4 * 0.6 + 200 * 0.2 * 0.8) / 4 + 50 * 0.2 * 0.8 * (10 / 11) ** 2 + 1000 * 0.1 * 0.9 / 11**2
    assert curve.error_DK[0, 1] == pytest.approx(varies**0.5 / information, rel=1e-6)
    low, high = curve.interval()
    assert low[0, 1] * high[0, 1] == pytest.approx(0.25)
    assert curve.diagnostics["worth_in_clicks_2"] == pytest.approx(curve.error_DK[0, 1] ** -2)


@settings(max_examples=40, deadline=None)
@over(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 30))
def test_what_the_model_expects_is_solved_exactly(seed, K, G):
    rng = np.random.default_rng(seed)
    shown_GK, wanted_G, theta_K = rng.integers(1, 50, (G, K)).astype(float), rng.random(G) + 0.01, rng.random(K) + 0.02
    click_GK = shown_GK * wanted_G[:, None] * theta_K
    group, place = (axis.ravel() for axis in np.indices((G, K)))
    sparse = (table(group, place, value.ravel(), G, K) for value in (shown_GK, click_GK))
    np.testing.assert_allclose(np.exp(solve(*sparse)), theta_K / theta_K[0], rtol=1e-6)


def test_impressions_in_any_number_of_people_change_the_error_alone():
    crowd = TWO_ITEMS._replace(user_row_P=np.arange(len(TWO_ITEMS.user_row_P)) % 7)
    one, other = harvest(TWO_ITEMS, TWO_ITEMS.item_row_P), harvest(crowd, crowd.item_row_P)
    np.testing.assert_array_equal(one.slope_K, other.slope_K)
    assert other.error_K[1] != one.error_K[1]


def test_a_log_without_overlap_says_so():
    still = shown_of((0, 1, 100, 40), (1, 2, 100, 20))
    with pytest.raises(OverlapError, match=r"no overlap: among positions 1, 2 .* 60 clicks"):
        harvested_curve(seen(still), strata=by_item)
    only_below = shown_of((0, 1, 100, 0), (0, 2, 100, 20))  # the top has no click: it would be worth nothing
    with pytest.raises(OverlapError, match="no overlap"):
        harvested_curve(seen(only_below), strata=by_item)
    with pytest.raises(OverlapError, match="position 2 alone has clicks"):
        regression_em_curve(seen(only_below))
    unanswered = still._replace(clicked_P=np.full(200, np.nan, np.float32))
    with pytest.raises(OverlapError, match="none of the 200 impressions"):
        harvested_curve(seen(unanswered), strata=by_item)


def test_a_policy_that_always_orders_as_it_believes_is_no_experiment():
    R = 400
    request, slot = (axis.ravel() for axis in np.indices((R, 3)))
    rng = np.random.default_rng(0)
    clicked = (rng.random(3 * R) < 0.3).astype(np.float32)
    certain_order = Shown(
        request, request, slot, slot + 1, slot, np.zeros(3 * R, np.int64), ("policy",), np.tile([0.6, 0.3, 0.1], R), clicked, request
    )
    with pytest.raises(OverlapError, match="no overlap: among positions 1, 2, 3"):
        harvested_curve(seen(certain_order))
    with pytest.raises(OverlapError, match="no overlap"):  # what was certain says nothing of what was believed
        harvested_curve(seen(certain_order._replace(logged_P=np.ones(3 * R))))
    by_chance = certain_order._replace(logged_P=np.full(3 * R, 0.3), item_row_P=rng.permuted(np.tile(slot[:3], (R, 1)), axis=1).ravel())
    assert np.isfinite(harvested_curve(seen(by_chance)).error_DK).all()


def test_positions_never_compared_take_the_nearest_ones_and_are_counted(caplog):
    shown = joined(TWO_ITEMS, shown_of((2, 3, 50, 5), (3, 4, 10, 0)))
    curve = harvested_curve(seen(shown), strata=by_item)
    np.testing.assert_allclose(curve.slope_DK, [[1, 0.5, 0.5, 0.5]])
    assert curve.compared_DK.tolist() == [[True, True, False, False]] and np.isinf(curve.error_DK[0, 2:]).all()
    assert curve.diagnostics["positions_not_compared"] == 2
    assert "3, 4 of everybody" in caplog.text


def test_rows_find_their_place_on_the_curve():
    found = harvested(seen(TWO_ITEMS), rows(1, 2, 9, 0), strata=by_item)
    mean_inverse = (50 * 1 + 140 * 2) / 190
    np.testing.assert_allclose(found.slope_N, [1, 0.5, 0.5, 1 / mean_inverse])
    assert found.offset_N.tolist() == [0, 0, 0, 0] and found.curve is not None
    bright = shown_of((0, 1, 100, 20), (0, 2, 100, 40))  # the second place is seen more: the curve says 2, a row at most 1
    assert harvested_curve(seen(bright), strata=by_item).slope_DK[0, 1] == pytest.approx(2)
    np.testing.assert_allclose(harvested(seen(bright), rows(1, 2), strata=by_item).slope_N, [0.5, 1])


def test_each_device_has_its_curve_and_one_that_compares_nothing_has_everybodys():
    phone, desk = shown_of((0, 1, 100, 40), (0, 2, 100, 10), device=1), shown_of((0, 1, 100, 40), (0, 2, 100, 20), device=2)
    lonely = shown_of((0, 1, 10, 4), device=3)
    shown = joined(phone, desk, lonely)
    curve = harvested_curve(seen(shown), strata=by_item, context=by_device)
    assert curve.devices == (1, 2) and curve.diagnostics["devices_without_curve"] == 1
    np.testing.assert_allclose(curve.slope_DK[1:], [[1, 0.25], [1, 0.5]])
    everybody = curve.slope_DK[0, 1]
    assert everybody == pytest.approx((30 / 200) / (84 / 210))
    for device, slope in ((1, 0.25), (2, 0.5), (3, everybody), (0, everybody)):
        assert curve.at(rows(2, device=device)).slope_N[0] == pytest.approx(slope)


def test_a_randomised_arm_compares_its_positions_and_a_missing_one_is_named():
    chance, policy = shown_of((0, 1, 100, 40), (1, 2, 200, 20), arm=1), shown_of((0, 1, 1000, 900), (1, 2, 10, 1))
    both = joined(policy, chance)
    np.testing.assert_allclose(randomised_curve(seen(both), arms=["uniform"]).slope_DK, [[1, 0.25]])
    np.testing.assert_allclose(randomised(seen(both), rows(2), arms=["uniform"]).slope_N, [0.25])
    with pytest.raises(OverlapError, match="no randomised arm 'shuffled'; its arms: 'policy', 'uniform'"):
        randomised_curve(seen(both), arms=["shuffled"])


def test_a_given_curve_by_hand():
    found = given(seen(TWO_ITEMS), rows(1, 2, 3, 0), curve=[1.0, 0.5])
    np.testing.assert_allclose(found.slope_N, [1, 0.5, 0.5, 190 / (50 + 140 / 0.5)])
    for curve, what in (([1.0, 0.0], "position 2 is 0.0"), ([float("nan")], "position 1 is nan"), ([1.1], "position 1"), ([], "empty")):
        with pytest.raises(PropensityError, match=what):
            given(seen(TWO_ITEMS), rows(1), curve=curve)
    assert certain(seen(TWO_ITEMS), rows(1, 7)).slope_N.tolist() == [1, 1]


def test_the_law_of_the_order_is_learned_from_who_stood_higher():
    rng = np.random.default_rng(1)
    score = rng.normal(size=(10_000, 5))
    order = np.argsort(-(score + 0.5 * rng.gumbel(size=score.shape)), axis=1)
    log_RS = np.take_along_axis(score, order, 1)
    knot, strength = order_law(log_RS)
    middle = (knot > -1.5) & (knot < 1.5)
    slope = np.polyfit(knot[middle], strength[middle], 1)[0]
    assert slope == pytest.approx(1 / 0.5, rel=0.03)  # Gumbel noise of scale s on a score: log odds are differences over s
    place, _ = expected_place(np.interp(log_RS, knot, strength))
    for slot in range(5):
        near = np.abs(place - slot) < 0.25
        here = np.broadcast_to(np.arange(5), place.shape)[near]
        assert abs(here.mean() - place[near].mean()) < 4 * here.std() / near.sum() ** 0.5 + 0.02
    np.testing.assert_allclose(expected_place(np.array([[2.0, 2.0, 2.0, np.nan]]))[0][0, :3], 1)


def test_a_curve_that_is_a_power_law_is_sharpened_and_another_stays_as_found():
    position, noise = np.arange(1.0, 9), np.diag([0, *[0.1**2] * 7])
    law = -0.8 * np.log(position)
    mean, covariance = power_law(law, noise, position)
    np.testing.assert_allclose(mean, law, atol=1e-9)
    assert covariance[7, 7] < 0.5 * noise[7, 7]
    jagged = np.array([0, -1, 0, -1, 0, -1, 0, -1.0])
    mean, covariance = power_law(jagged, noise, position)
    np.testing.assert_allclose(mean, jagged, atol=0.05)
    assert (np.diag(covariance)[1:] > 0.9 * 0.1**2).all()
    assert as_found(law, noise, position)[0] is law


GENTLE = replace(World.strong(users=1500, items=400, events=50_000, seed=5), attention=Attention((0.7, 0.7, 0.7)))


def truth_of(world: World) -> tuple[Observed, np.ndarray]:
    tables, truth = simulated(world)
    shown = shown_in(tables.impressions)
    true_K = np.bincount(shown.position_P - 1, truth.examination_N) / np.bincount(shown.position_P - 1)
    return Observed(np.zeros(world.items), shown), true_K / true_K[0]


@pytest.mark.parametrize("world", [SMALL_STRONG, GENTLE], ids=["strong", "gentle"])
def test_belief_and_chance_find_the_truth(world):
    observed, true_K = truth_of(world)
    curve = harvested_curve(observed)
    assert (np.abs(np.log(curve.slope_DK[0] / true_K))[1:] < 4 * curve.error_DK[0, 1:]).all()
    by_chance = randomised_curve(observed, arms=("uniform",))
    assert (np.abs(np.log(by_chance.slope_DK[0] / true_K))[1:] < 4 * by_chance.error_DK[0, 1:]).all()


def test_items_alone_miss_what_belief_finds():
    observed, true_K = truth_of(GENTLE)
    naive, curve = harvested_curve(observed, strata=by_item), harvested_curve(observed)
    assert np.log(true_K / naive.slope_DK[0])[-1] > 4 * naive.error_DK[0, -1]
    assert np.abs(np.log(curve.slope_DK[0] / true_K)).max() < 4 * curve.error_DK.max() < 0.25


def test_slates_without_propensities_are_grouped_by_item():
    shown = truth_of(GENTLE)[0].shown
    blind = shown._replace(logged_P=np.full(len(shown.logged_P), np.nan))
    blind = blind.where(blind.request_P < 500)
    group_P, item_P = by_belief(blind), blind.item_row_P
    np.testing.assert_array_equal(group_P[:, None] == group_P, item_P[:, None] == item_P)


def test_regression_em_is_near_the_truth_where_harvesting_by_item_is_not():
    observed, true_K = truth_of(GENTLE)
    found = np.abs(np.log(regression_em_curve(observed).slope_DK[0] / true_K))
    naive = np.abs(np.log(harvested_curve(observed, strata=by_item).slope_DK[0] / true_K))
    assert found.max() < 0.22 < 0.25 < naive.max()


TRUST = (0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.04)


def test_trust_is_told_from_attention():
    world = replace(World.mild(users=1000, items=200, events=30_000, seed=3), attention=Attention((0.7, 0.7, 0.7), trust=TRUST))
    curve = trust_curve(truth_of(world)[0])
    theta, false = np.arange(1.0, 9) ** -0.7, np.array(TRUST)
    slope = theta * (1 - false) / (1 - false[0])
    offset = theta * false - slope * false[0]
    assert (np.abs(np.log(curve.slope_DK[0] / slope))[1:] < 4 * curve.error_DK[0, 1:]).all()
    # an offset makes up for its slope at the mean relevance, below 1/2
    assert (np.abs(curve.offset_DK[0] - offset)[1:] < 4 * 0.5 * (slope * curve.error_DK[0])[1:]).all()
    assert (curve.offset_DK[0, 1:] < 0).all()  # the top is trusted most


def test_a_world_without_trust_keeps_its_rows():
    none = replace(TINY, attention=replace(TINY.attention, trust=(0.0, 0.0)))
    assert none.simulate()[0].fingerprint() == simulated(TINY)[0].fingerprint()


def test_trust_clicks_what_was_looked_at_and_not_wanted_with_the_same_random_numbers():
    R, S = 20_000, 3
    owner_R = np.arange(R)
    requests = Requests(owner_R, owner_R, owner_R, np.zeros(R, np.int64), np.zeros(R, np.int64))
    trust, played = (0.5, 0.25), []
    for attention in (Attention((1.0, 1.0, 1.0)), Attention((1.0, 1.0, 1.0), trust=trust)):
        slates, rng = Slates.empty(R, S), np.random.default_rng(0)
        slates.item[:], slates.attraction[:] = np.arange(S), 0.2
        look_and_click(slates, owner_R, requests, attention, np.zeros((R, S), bool), rng)
        played.append((slates, rng.random()))
    (plain, after), (trusting, after_too) = played
    assert after == after_too
    np.testing.assert_array_equal(plain.examined, trusting.examined)
    assert (plain.clicked <= trusting.clicked).all()
    for slot, false in enumerate((*trust, 0.0)):
        seen_R = trusting.examined[:, slot]
        p = 0.2 + 0.8 * false
        assert abs(trusting.clicked[seen_R, slot].mean() - p) < 4 * (p * (1 - p) / seen_R.sum()) ** 0.5
