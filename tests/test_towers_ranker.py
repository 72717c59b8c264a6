"""The ranker: each candidate by itself, answers in their own units, one value of them, and what is scripted answers the same."""

from functools import partial

import numpy as np
import pytest
import torch

from data.features import NUMBERS
from towers.calibration import LEAST_SLOPE, platt
from towers.cross import CrossNetwork
from towers.mixture import MixtureOfExperts, SharedTrunk
from towers.network import Additive, Apart, Body, Joint, Several
from towers.piecewise import Piecewise, Spread
from towers.ranker import HEADS, TASKS, Answers, Ranker
from towers.watch_time import WatchTime

X, U = len(NUMBERS), 5
WEIGHT = {"click": 1.0, "complete": 0.5, "watch": 0.5, "skip": 0.3, "rating": 0.2}
TRUNK = partial(SharedTrunk, hidden=4, dropout=0.1)
MIXTURE = partial(MixtureOfExperts, hidden=4, dropout=0.1, experts=3)


def network(kind, *, cross=partial(CrossNetwork, layers=2, rank=3), trunk=TRUNK):  # noqa: B008 - a partial is no call
    ramps = {"ramps": 4} | ({"vector_ramps": 2} if kind is Additive else {})
    return partial(kind, **ramps, body=partial(Body, hidden=8, dropout=0.1, tower=3, cross=cross, trunk=trunk))


SEVERAL = partial(Several, member=network(Additive), count=2)
APART = partial(Apart, network=network(Additive), alone=("watch",))


def untrained(**parts) -> Ranker:
    rng = np.random.default_rng(0)
    watch_time = WatchTime.fit(rng.exponential(600, 400), rng.random(400) * 8, groups=3, points=11, rows=20)
    plain = {
        "width": 6, "moment_sizes": (24, 7), "query": Spread.of(rng.normal(0.1, 0.4, (200, 6))),
        "candidate": Spread.of(rng.normal(-0.2, 2, (200, 6))), "number": Spread.of(rng.normal(3, 2, (200, X))),
        "profile": Spread.of(rng.random((200, U))), "answers": Answers(watch_time, (1.0, 5.0), (True,) * 5),
        "network": network(Joint), "value_weight": WEIGHT,
    }  # fmt: skip
    torch.manual_seed(0)
    return Ranker(**plain | parts).eval()


def ranker(**parts) -> Ranker:
    model = untrained(**parts)
    for parameter in model.parameters():  # what begins at 0 must take part
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def question(rows=3, candidates=5):
    torch.manual_seed(1)
    moment = torch.stack([torch.randint(0, size, (rows,)) for size in (24, 7)], dim=1)
    number = torch.randn(rows, candidates, X) * 2 + 3
    number[..., NUMBERS.index("log_duration_seconds")] = torch.rand(rows, candidates) * 8
    return torch.randn(rows, 6), moment, torch.rand(rows, U), torch.randn(rows, candidates, 6).half(), number


def test_answers_are_probabilities_seconds_and_ratings():
    answer = dict(zip(HEADS, ranker()(*question()).unbind(-1), strict=True))
    for name in ("click", "complete", "skip", "value"):
        assert ((answer[name] > 0) & (answer[name] < 1)).all()
    assert (answer["watch_seconds"] >= 0).all() and ((answer["rating"] >= 1) & (answer["rating"] <= 5)).all()


@pytest.mark.parametrize("made", [network(Joint), network(Joint, trunk=MIXTURE), network(Additive)])
def test_the_order_of_candidates_and_who_else_stands_there_do_not_matter(made):
    query, moment, profile, candidate, number = question()
    order = torch.tensor([3, 1, 4, 0, 2])
    model = ranker(network=made)
    all_of_them = model(query, moment, profile, candidate, number)
    turned, two = model(query, moment, profile, candidate[:, order], number[:, order]), candidate[:, :2]
    torch.testing.assert_close(turned, all_of_them[:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(query, moment, profile, two, number[:, :2]), all_of_them[:, :2], rtol=1e-5, atol=1e-5)


def test_many_candidates_are_answered_as_few_are():
    model, asked = ranker(), question()
    few = model(*asked)
    model.network.many = 1
    torch.testing.assert_close(model(*asked), few, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "made", [network(Joint), network(Additive, cross=partial(CrossNetwork, layers=1)), network(Additive, trunk=MIXTURE), SEVERAL, APART]
)
def test_scripted_answers_the_same(made):
    model = ranker(network=made)
    torch.testing.assert_close(torch.jit.script(model)(*question()), model(*question()))


def test_an_untrained_ranker_orders_as_retrieval_did():
    model, (query, moment, profile, candidate, number) = untrained(), question(1, 50)
    number[:] = 0
    number[0, :, NUMBERS.index("dot")] = torch.linspace(-3, 9, 50)[torch.randperm(50)]
    for head in ("click", "value"):
        answer = model(query, moment, profile, candidate, number)[0, :, HEADS.index(head)]
        assert torch.corrcoef(torch.stack([torch.logit(answer), number[0, :, NUMBERS.index("dot")]]))[0, 1] > 0.97


@pytest.mark.parametrize("kind", [Joint, Additive])
def test_the_network_is_told_of_vectors_by_their_own_spread(kind):
    """Another unit for query or candidate, and their spread in it, changes no answer; the dot product is a number of its own."""
    query, moment, profile, candidate, number = question()
    rng = np.random.default_rng(5)
    column_N6 = rng.normal(0.1, 0.4, (200, 6)).astype(np.float32)
    plain = ranker(network=network(kind), query=Spread.of(column_N6), candidate=Spread.of(column_N6))
    other = ranker(network=network(kind), query=Spread.of(8 * column_N6 + 1), candidate=Spread.of(4 * column_N6 - 2))
    answer = other(8 * query + 1, moment, profile, 4 * candidate.float() - 2, number)
    torch.testing.assert_close(answer, plain(query, moment, profile, candidate.float(), number), rtol=1e-3, atol=1e-3)


def test_user_and_item_apart_add_up():
    """Whatever the candidate, another query changes a logit by the same where the numbers are the same: they meet in the numbers alone."""
    model, (query, moment, profile, candidate, number) = ranker(network=network(Additive)), question(2, 4)
    number[:] = number[:1, :1]
    moment[:] = moment[:1]
    logit = model.logits(query, moment, profile, candidate[:1].expand(2, -1, -1), number)
    change = logit[1] - logit[0]
    torch.testing.assert_close(change, change[:1].expand(4, -1), rtol=1e-4, atol=1e-4)
    crossed = ranker().logits(query, moment, profile, candidate[:1].expand(2, -1, -1), number)
    assert ((crossed[1] - crossed[0]).std(0) > 1e-3).all()


def test_several_networks_learn_apart_and_answer_as_their_mean():
    """Each trains on its own share of a batch: of 3 rows the first one, the other two; whatever stands in the others' tells it nothing."""
    model, asked = ranker(network=SEVERAL).network, (*question()[:3], torch.randn(3, 5, 6), question()[4])
    first, second = (member(*asked) for member in model.members)
    torch.testing.assert_close(model(*asked), (first + second) / 2)
    for part in model.modules():  # but for `training`, without chance
        part.p = 0.0
    torch.testing.assert_close(model.train()(*asked), torch.cat([first[:1], second[1:]]))
    model(*asked)[:1].sum().backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.members[1].parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in model.members[0].parameters())


def test_a_task_apart_is_learned_by_weights_of_its_own():
    model, asked = ranker(network=APART).network, (*question()[:3], torch.randn(3, 5, 6), question()[4])
    logit = model(*asked)
    others, watch = (network(*asked) for network in model.networks)
    torch.testing.assert_close(logit[..., TASKS.index("watch")], watch[..., 0])
    torch.testing.assert_close(logit[..., [task != "watch" for task in TASKS]], others)
    with pytest.raises(ValueError, match="alone: watching; expected some of click"):
        ranker(network=partial(APART, alone=("watching",)))


def test_a_cross_layer_by_hand():
    """x₁ = x₀ ⊙ (W x₀ + b) + x₀ with x₀ = (2, 3), W = [[1, 2], [0, 1]], b = (1, -1): (2·(8 + 1) + 2, 3·(3 − 1) + 3)."""
    cross = CrossNetwork(2, layers=1)
    cross.up[0].weight.data, cross.up[0].bias.data = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([1.0, -1.0])
    assert cross(torch.tensor([[2.0, 3.0]])).tolist() == [[20.0, 9.0]]


def test_a_cross_of_full_rank_is_the_whole_one_and_begins_as_nothing():
    whole, thin, x_ND = CrossNetwork(3, layers=2), CrossNetwork(3, layers=2, rank=3), torch.randn(4, 3)
    assert torch.equal(whole(x_ND), x_ND) and torch.equal(thin(x_ND), x_ND)
    for layer in range(2):
        thin.up[layer].weight.data.normal_()
        whole.up[layer].weight.data = thin.up[layer].weight @ thin.down[layer].weight
    torch.testing.assert_close(whole(x_ND), thin(x_ND))


def test_one_expert_is_the_shared_trunk():
    shared, mixed, x_ND = (
        SharedTrunk(6, 5, hidden=4, dropout=0.0),
        MixtureOfExperts(6, 5, hidden=4, dropout=0.0, experts=1),
        torch.randn(7, 6),
    )
    mixed.expert.load_state_dict(shared.expert.state_dict())
    torch.testing.assert_close(mixed(x_ND), shared(x_ND))


def test_each_task_mixes_the_experts_as_its_gate_says():
    mixed = MixtureOfExperts(2, 2, hidden=3, dropout=0.0, experts=2)
    mixed.gate.weight.data.zero_()
    mixed.gate.bias.data = torch.tensor(
        [0.0, np.log(3.0), 0.0, -100.0], dtype=torch.float32
    )  # the first task: a quarter and three; the second: the first alone
    x_ND = torch.randn(5, 2)
    expert_NEM = mixed.expert(x_ND)
    torch.testing.assert_close(mixed(x_ND)[0], 0.25 * expert_NEM[:, 0] + 0.75 * expert_NEM[:, 1])
    torch.testing.assert_close(mixed(x_ND)[1], expert_NEM[:, 0])


def test_ramps_by_hand():
    """Quantiles 0, 1, 3: 2 is past the first ramp and half up the second; a column of one value is a step."""
    points = np.interp(np.linspace(0, 1, 65), [0, 0.5, 1], [0, 1, 3])
    read = Piecewise(Spread.of(np.stack([points, np.full(65, 7.0)], axis=1)), 1, ramps=2)
    read.layer.weight.data = torch.tensor([[0.0, 0.0, 1.0, 10.0, 100.0, 0.0]])
    assert read(torch.tensor([[2.0, 7.0], [-1.0, 7.1], [9.0, 6.0]]))[:, 0].tolist() == pytest.approx([1 + 5, 100, 1 + 10], abs=1e-4)


def test_value_by_hand():
    """A click counts 1, completion and watching a half, a rating a fifth as often as there is a click; a certain skip takes .3 of it."""
    place = torch.tensor([[[0.5, 0.2, 0.4, 0.1, 0.75]]])
    wanted = (0.5 + 0.5 * 0.2 + 0.5 * 0.4 + 0.2 * 0.5 * 0.75) / 2.2
    assert ranker().value(place).item() == pytest.approx(wanted * (1 - 0.3 * 0.1))


def test_worth_is_the_value_of_what_came_of_it():
    """Passed over: no rating, and none was due. Clicked and not rated: the rating is left out. Skipped: three tenths less."""
    nan = torch.nan
    target = torch.tensor([[[0.0, 0, 0.2, 0, nan], [1.0, 1, 0.8, 0, nan], [1.0, 0, 0.4, 1, 0.5]]])
    by_hand = [0.5 * 0.2 / 2.2, (1 + 0.5 + 0.5 * 0.8) / 2.0, 0.7 * (1 + 0.5 * 0.4 + 0.2 * 0.5) / 2.2]
    assert ranker().worth(target)[0].tolist() == pytest.approx(by_hand)


def test_value_has_no_part_that_is_the_same_for_all():
    """Where nothing is wanted it is 0, whatever the rating would be and however sure it is that nobody skips."""
    assert ranker().value(torch.tensor([[[0.0, 0, 0, 0, 1]]])).item() == 0


def test_value_rises_with_each_task_but_skip_and_stays_in_0_1():
    model = ranker()
    for corner in (torch.zeros(1, 1, 5), torch.ones(1, 1, 5), torch.tensor([[[1.0, 1, 1, 0, 1]]]), torch.tensor([[[0.0, 0, 0, 1, 0]]])):
        assert -1e-6 <= model.value(corner).item() <= 1 + 1e-6
    for task, name in enumerate(TASKS):
        low, high = torch.full((1, 1, 5), 0.4), torch.full((1, 1, 5), 0.4)
        high[..., task] = 0.6
        assert (model.value(high) > model.value(low)).item() == (name != "skip") != (model.value(high) < model.value(low)).item()


def test_a_task_without_labels_counts_nothing():
    answers = Answers(ranker().watch_time, (1.0, 5.0), (True, False, True, False, False))
    model, place = ranker(answers=answers), torch.tensor([[[0.5, 0.9, 0.2, 0.9, 0.9]]])
    assert model.value(place).item() == pytest.approx((0.5 + 0.5 * 0.2) / 1.5)
    target = torch.tensor([[[1.0, torch.nan, torch.nan, torch.nan, torch.nan], [torch.nan] * 5]])
    assert model.worth(target)[0, 0].item() == 1 and model.worth(target)[0, 1].isnan()


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ({"clicks": 1.0}, "clicks"),
        ({"click": -1.0}, "click = -1.0"),
        ({"click": 1.0, "skip": 1.5}, "skip = 1.5"),
        ({"complete": 1.0}, "every wanted task that has labels"),
        ({"skip": 1.0}, "every wanted task"),
    ],
)
def test_a_value_of_nothing_is_refused(weight, says):
    answers = Answers(ranker().watch_time, (1.0, 5.0), (True, False, True, True, True))
    with pytest.raises(ValueError, match=says):
        ranker(answers=answers, value_weight=weight)


def test_calibration_finds_the_slope_and_shift_that_were_there():
    rng = np.random.default_rng(0)
    logit_N = rng.normal(0, 2, 40_000)
    happened_N = rng.random(40_000) < 1 / (1 + np.exp(-(0.5 * logit_N - 1)))
    assert platt(logit_N, happened_N.astype(float), np.ones(40_000)) == pytest.approx((0.5, -1), abs=0.05)


def test_calibration_keeps_the_order_of_a_head_and_needs_rows():
    rng = np.random.default_rng(0)
    logit_N = rng.normal(0, 1, 500)
    backwards, _ = platt(logit_N, (logit_N < 0).astype(float), np.ones(500))
    assert backwards == LEAST_SLOPE
    assert platt(logit_N, np.full(500, np.nan), np.ones(500)) == (1.0, 0.0) == platt(logit_N, np.ones(500), np.zeros(500))
    model, asked = ranker(), question()
    before = model(*asked)
    model.slope_T.copy_(torch.tensor([0.2, 3.0, 0.5, 2.0, 1.5]))
    model.shift_T.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0, -0.3]))
    after = model(*asked)
    for head in range(5):
        if HEADS[head] != "watch_seconds":  # seconds are in the order of places only within a duration
            assert torch.equal(before[0, :, head].argsort(), after[0, :, head].argsort())
