"""Light graph convolution: worked by hand, beside LightGCN as its paper writes it, and a user who is the sum of what they liked."""

from functools import partial

import numpy as np
import pytest
import torch

from data.datamodule import Events, WholeLists, shuffled
from data.features import DISLIKED
from data.log import read_log
from data.readers.interactions import read_lists
from data.split import TEST, TRAIN, as_given
from tests.logs import small
from tests.test_towers_retrieval import data_of, task_of, trainer
from towers.asking import every_list
from towers.graph import ItemGraph, SumTower
from towers.losses import sampled_softmax
from towers.negatives import WholeCatalogue
from towers.saved import SavedRetrieval, save_retrieval
from towers.two_tower import IdItemTower, UnitNorm


def learner(data, **change):
    parts = {
        "graph": partial(ItemGraph, hops=1, user_power=0.5), "ask": every_list, "negatives": WholeCatalogue,
        "loss": partial(sampled_softmax, mask_positives=True), "popularity_half_lives_days": (36_500,),
        "item_tower": partial(IdItemTower, norm=UnitNorm()), "user_tower": partial(SumTower, popularity=0.5, norm=UnitNorm()),
        "dense_optimizer": partial(torch.optim.AdamW, lr=3e-2),
    }  # fmt: skip
    return task_of(data, **parts | change)


def lists_of(log, **change):
    return data_of(log, epoch=WholeLists, batch_size=400, history_length=100, **change)


def epoch_of(data, **change):
    known = {"length": 10, "order": shuffled, "batch_size": 400, "seed": 0, "epoch": 0}
    return WholeLists(
        events := Events.of(data.train_log, data.weight_E, torch.device("cpu")), torch.as_tensor(data.train_event), **known | change
    ), events


def test_a_hop_by_hand(tmp_path):
    """Ann liked a and b, Bob b, and c is nobody's. N = [[1/√2, 1/2], [0, 1/√2]] of Ann, Bob × a, b, so P = [[1/2, 1/√8], [1/√8, 3/4]].
    Of rows 1, 2 and 4: a is 1 + 1/2 + 2/√8, b is (2 + 1/√8 + 3/2)/√2, and c is itself."""
    (tmp_path / "train.txt").write_text("0 0 1\n1 1\n")
    (tmp_path / "test.txt").write_text("1 2\n")
    log = read_log(as_given(read_lists(tmp_path / "train.txt", tmp_path / "test.txt"), validation_fraction=0))
    row_of = {item: row for row, item in enumerate(log.catalogue.item_ids)}
    abc = [row_of[item] for item in ("0", "1", "2")]
    row_ID = torch.zeros(3, 1)
    row_ID[abc, 0] = torch.tensor([1.0, 2.0, 4.0])
    found = ItemGraph(log=log.before(TEST), hops=1, user_power=1)(row_ID)[abc, 0]
    eighth = 8**-0.5
    torch.testing.assert_close(found, torch.tensor([1.5 + 2 * eighth, (3.5 + eighth) / 2**0.5, 4.0]))
    alike = ItemGraph(log=log.before(TEST), hops=1, user_power=0)(row_ID)[abc, 0]  # P = [[1, 1/√2], [1/√2, 1]]
    torch.testing.assert_close(alike, torch.tensor([2 + 2**0.5, (4 + 0.5**0.5) / 2**0.5, 4.0]))
    assert torch.equal(
        ItemGraph(log=log.before(TEST), hops=0, user_power=1)(row_ID)[abc, 0], row_ID[abc, 0] / torch.tensor([1.0, 2.0, 1.0]).sqrt()
    )


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_it_is_lightgcn_of_items_alone(hops):
    """Layers Ã^k [0; E] of LightGCN, summed: the even ones, of items, are ours but for √count, and the odd ones, of users, are the
    direction of the sum over what they liked."""
    log = small()[1].where(small()[1].part_E == TRAIN)
    liked, count_I = log.liked(TRAIN), log.item_count()
    users, items = len(log.user_ids), len(count_I)
    edges = np.zeros((users, items))
    np.add.at(edges, (log.user_row_E[liked], log.item_row_E[liked]), 1.0)
    degree = np.concatenate([edges.sum(1), edges.sum(0)]).clip(1)
    whole = np.block([[np.zeros((users, users)), edges], [edges.T, np.zeros((items, items))]]) / np.sqrt(np.outer(degree, degree))
    row_ID = torch.randn(items, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = np.concatenate([np.zeros((users, 4)), row_ID.numpy()])
    total = layer.copy()
    for _ in range(2 * hops + 1):
        layer = whole @ layer
        total += layer
    ours_ID = ItemGraph(log=log, hops=hops, user_power=1)(row_ID.float())
    np.testing.assert_allclose(ours_ID.numpy() * np.sqrt(count_I.clip(1))[:, None], total[users:], rtol=1e-4, atol=1e-5)
    there = edges.sum(1) > 0
    sum_UD = torch.nn.functional.normalize(torch.as_tensor(edges[there]) @ ours_ID.double(), dim=1)
    np.testing.assert_allclose(sum_UD, torch.nn.functional.normalize(torch.as_tensor(total[:users][there]), dim=1), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_hop_is_that_of_its_matrix():
    graph = ItemGraph(log=small()[1].where(small()[1].part_E == TRAIN), hops=2, user_power=0.5)
    items = len(graph.share_I1)
    row_ID = torch.randn(items, 2, requires_grad=True)
    weight_ID = torch.randn(items, 2)
    (graph(row_ID) * weight_ID).sum().backward()
    matrix_II = graph(torch.eye(items))
    torch.testing.assert_close(row_ID.grad, matrix_II.T @ weight_ID, rtol=1e-4, atol=1e-6)


def test_no_fewer_hops_than_none():
    with pytest.raises(ValueError, match="hops is -1"):
        ItemGraph(log=small()[1], hops=-1, user_power=1)


def test_an_epoch_has_every_user_whole_and_once():
    data = lists_of(small()[1])
    epoch, _ = epoch_of(data)
    users = [batch.user_row_B.unique() for batch in epoch]
    rows = torch.cat([torch.stack([batch.user_row_B, batch.item_row_B]) for batch in epoch], dim=1)
    log, train = data.train_log, data.train_event
    assert sorted(rows.T.tolist()) == sorted(np.stack([log.user_row_E[train], log.item_row_E[train]], axis=1).tolist())
    assert len(torch.cat(users).unique()) == len(torch.cat(users)) and len(epoch) == len(users) > 5
    assert all(torch.equal(batch.history_row_BL[:, 0], batch.item_row_B) for batch in epoch)
    again, other = epoch_of(data)[0], epoch_of(data, epoch=1)[0]
    assert torch.equal(next(iter(again)).item_row_B, next(iter(epoch)).item_row_B)
    assert not torch.equal(next(iter(other)).user_row_B[:50], next(iter(epoch)).user_row_B[:50])


def test_ranks_share_an_epoch():
    data = lists_of(small()[1])
    ranks = [epoch_of(data, rank=rank, ranks=2)[0] for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    users = [torch.cat([batch.user_row_B for batch in epoch]).unique() for epoch in ranks]
    assert not set(users[0].tolist()) & set(users[1].tolist())
    asked = len(np.unique(data.train_log.user_row_E[data.train_event]))
    assert asked - 1 <= len(users[0]) + len(users[1]) <= asked  # one that no other rank has a turn for may wait


def test_a_user_is_the_sum_of_what_they_liked_however_they_are_asked():
    """By a padded history as at serving, by places in a table as in validation, and all rows of a user at once as in training: one query.
    What was disliked does not count."""
    data = lists_of(small()[1])
    task, (epoch, events) = learner(data).eval(), epoch_of(data)
    batch = next(iter(epoch))
    place, input_RD = batch.item_row_B[:, None], task.item_rows(data.train_log)[:, : task.width]
    asked = every_list(task.user_tower, batch, input_RD, place)
    last_U = torch.as_tensor(
        [data.train_event[data.train_log.user_row_E[data.train_event] == user][-1] for user in batch.user_row_B.unique()]
    )
    padded = events.batch(last_U, length=100)  # all before the last liked event
    own = [torch.cat([column, extra[:, None]], dim=1) for column, extra in zip(
        (padded.history_row_BL, padded.event_code_BL, padded.age_minutes_BL),
        (events.item_row_E[last_U], events.event_code_E[last_U], torch.zeros_like(last_U)), strict=True)]  # fmt: skip
    served = task.user_tower(input_RD[own[0]], own[1], own[2], padded.moment_BC)
    torch.testing.assert_close(asked.query_QD, served)
    scripted = torch.jit.script(task.user_tower)
    disliked = torch.cat([own[1], torch.full_like(own[1][:, :1], DISLIKED)], dim=1), torch.cat([own[0], own[0][:, :1]], dim=1)
    age = torch.zeros_like(disliked[0])
    torch.testing.assert_close(scripted(input_RD[disliked[1]], disliked[0], age, padded.moment_BC), served)
    looked_up = task.user_tower.ask(padded._replace(event_code_BL=disliked[0]), input_RD, disliked[1])
    torch.testing.assert_close(looked_up, served)


def test_it_learns_and_is_saved_as_it_ranks(tmp_path):
    """Five epochs are better than chance, and the saved vectors are those that rank."""
    data = lists_of(small()[1])
    task = learner(data)
    fit = trainer(max_epochs=5)
    fit.fit(task, data)
    assert float(fit.callback_metrics["train/loss"]) < 0.9 * np.log(len(data.log.catalogue.item_ids))
    save_retrieval(task, data, tmp_path)
    saved = SavedRetrieval.open(tmp_path)
    np.testing.assert_allclose(saved.row_IW, task.eval().item_rows(data.train_log), atol=2e-3)


def test_unliked_items_stay_near_nobody():
    """A strange user's query is of unit length in its columns of taste, of nobody's history nothing."""
    tower = SumTower(width=3, moment_sizes=(), users=5, priors=1, popularity=2.0, norm=UnitNorm())
    query = tower(
        torch.tensor([[[3.0, 4.0, 1.0]], [[1.0, 1.0, 1.0]]]), torch.tensor([[2], [0]]), torch.zeros(2, 1).long(), torch.zeros(2, 0)
    )
    torch.testing.assert_close(query, torch.tensor([[0.6, 0.8, 2 * 0.1 / 0.03], [0.0, 0.0, 2 * 0.1 / 0.03]]))
