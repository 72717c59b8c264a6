"""Row-wise Adagrad by hand, and sparse as dense."""

import torch
from torch import nn

from towers.rowwise_adagrad import RowWiseAdagrad, TablesAndDense, lookup_distinct


def test_one_step_by_hand():
    table = nn.Embedding(3, 2)
    table.weight.data[:] = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    optimizer = RowWiseAdagrad([table.weight], lr=0.5, eps=1e-8)
    (lookup_distinct(table, torch.tensor([0, 2])) * torch.tensor([[3.0, 4.0], [0.0, 1.0]])).sum().backward()
    optimizer.step()
    # Row 0: mean of squares (9 + 16) / 2 = 12.5; row 2: 1 / 2. Row 1 was not looked up.
    expected = torch.tensor([[1 - 0.5 * 3 / 12.5**0.5, 1 - 0.5 * 4 / 12.5**0.5], [2.0, 2.0], [3.0, 3 - 0.5 * 1 / 0.5**0.5]])
    torch.testing.assert_close(table.weight.data, expected)


def test_sparse_rows_move_as_dense_ones():
    torch.manual_seed(0)
    sparse, dense = nn.Embedding(20, 4), nn.Embedding(20, 4)
    dense.load_state_dict(sparse.state_dict())
    optimizers = RowWiseAdagrad([sparse.weight], lr=0.1), RowWiseAdagrad([dense.weight], lr=0.1)
    for _ in range(5):
        rows, target = torch.randint(20, (9,)).unique(), torch.randn(4)
        for optimizer in optimizers:
            optimizer.zero_grad()
        (lookup_distinct(sparse, rows) - target).pow(2).sum().backward()
        (dense(rows) - target).pow(2).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(sparse.weight, dense.weight)


def test_the_gradient_of_a_lookup_needs_no_sort():
    table = nn.Embedding(10, 2)
    lookup_distinct(table, torch.tensor([1, 4])).sum().backward()
    assert table.weight.grad.is_sparse and table.weight.grad.is_coalesced()


def test_several_optimisers_resume_where_they_stopped():
    def made():
        torch.manual_seed(1)
        table, net = nn.Embedding(6, 3), nn.Linear(3, 1)
        return table, net, TablesAndDense([RowWiseAdagrad([table.weight], lr=0.3), torch.optim.Adam(net.parameters(), lr=0.01)])

    def step(table, net, optimizer, rows):
        optimizer.zero_grad()
        net(lookup_distinct(table, torch.tensor(rows))).pow(2).sum().backward()
        optimizer.step()

    table, net, optimizer = made()
    for rows in ([0, 2], [1, 2], [3, 5]):
        step(table, net, optimizer, rows)
    again_table, again_net, again = made()
    step(again_table, again_net, again, [0, 2])
    weights, state = (again_table.state_dict(), again_net.state_dict()), again.state_dict()
    late_table, late_net, late = made()
    late_table.load_state_dict(weights[0])
    late_net.load_state_dict(weights[1])
    late.load_state_dict(state)
    for rows in ([1, 2], [3, 5]):
        step(late_table, late_net, late, rows)
    assert torch.equal(late_table.weight, table.weight) and torch.equal(late_net.weight, net.weight)


def test_every_parameter_group_is_seen():
    table, net = nn.Embedding(6, 3), nn.Linear(3, 1)
    optimizer = TablesAndDense([RowWiseAdagrad([table.weight], lr=0.3), torch.optim.Adam(net.parameters(), lr=0.01)])
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.01]
    optimizer.param_groups[1]["lr"] = 0.5
    assert optimizer.optimizers[1].param_groups[0]["lr"] == 0.5
