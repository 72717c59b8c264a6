"""A batch asked in chunks, or each user once, has the gradient of the batch asked row by row, and keeps less."""

from functools import partial

import torch

from data.datamodule import Events
from tests.logs import small
from tests.test_towers_retrieval import data_of, task_of
from towers import asking
from towers.asking import every_row, every_user, in_chunks
from towers.encoders import AttentionEncoder
from towers.negatives import InBatchNegatives
from towers.two_tower import IdItemTower, IdUserTower, UnitNorm, UserTower


def batch_of(data, rows):
    events = Events.of(data.train_log, data.weight_E, torch.device("cpu"))
    return events.batch(torch.as_tensor(data.train_event[:rows]), length=10)


def gradient(ask, *, dropout, rows=200):
    """The gradient of one step of a model that reads histories by attention."""
    data = data_of(small()[1])
    tower = partial(UserTower, hidden=32, dropout=dropout, norm=UnitNorm(), encoder=partial(AttentionEncoder, dropout=dropout))
    return step(task_of(data, user_tower=tower, negatives=InBatchNegatives, ask=ask), batch_of(data, rows))


def step(task, batch):
    task.epoch_loss, task.epoch_rows = torch.zeros(()), 0
    torch.manual_seed(0)
    task.training_step(batch, 0).backward()
    return {name: p.grad.to_dense() for name, p in task.named_parameters() if p.grad is not None}


def agree(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-4)


def test_chunks_have_the_gradient_of_the_whole_batch():
    agree(gradient(partial(in_chunks, rows=37), dropout=0.0), gradient(every_row, dropout=0.0))


def test_with_dropout_too(monkeypatch):
    """Computed anew, a chunk draws what it drew the first time: the gradient is that of chunks that were kept."""
    forgotten = gradient(partial(in_chunks, rows=37), dropout=0.3)
    monkeypatch.setattr(asking, "checkpoint", lambda function, *arguments, use_reentrant: function(*arguments))
    agree(forgotten, gradient(partial(in_chunks, rows=37), dropout=0.3))


def test_nothing_of_the_towers_is_kept_for_the_gradient_of_chunks():
    """What the user tower keeps from forward to backward, beside what it was given: with chunks nothing, else over thirty numbers for each
    that it answers."""
    data = data_of(small()[1])
    task, batch = task_of(data), batch_of(data, 200)
    _, input_RD, history_BL = task.look_up(batch.item_row_B.unique(), batch.history_row_BL)
    input_RD = input_RD.detach().requires_grad_()
    given = {of.untyped_storage().data_ptr() for of in (*batch, *task.user_tower.parameters(), input_RD, history_BL)}

    def kept(ask):
        numbers = {}
        note = lambda of: numbers.update({of.untyped_storage().data_ptr(): of.numel()}) or of  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(note, lambda of: of):
            ask(task.user_tower, batch, input_RD, history_BL)
        return sum(size for place, size in numbers.items() if place not in given)

    assert kept(partial(in_chunks, rows=50)) <= 4  # a dummy for each chunk
    assert kept(every_row) > 30 * 200 * task.width


def test_each_user_once_has_the_gradient_of_each_row():
    data = data_of(small()[1], history_length=0)
    towers = {"item_tower": partial(IdItemTower, norm=UnitNorm()), "user_tower": partial(IdUserTower, norm=UnitNorm())}
    one, other = (
        step(task_of(data, **towers, negatives=InBatchNegatives, ask=ask), batch_of(data, 300)) for ask in (every_row, every_user)
    )
    agree(one, other)
    asked = every_user(task_of(data, **towers).user_tower, batch_of(data, 300), torch.zeros(0, 16), torch.zeros(300, 0).long())
    assert len(asked.query_QD) == len(batch_of(data, 300).user_row_B.unique()) < 100
