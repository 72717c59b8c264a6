"""The ranker: each candidate by itself, probabilities that are such, and what is scripted answers the same."""

import torch

from data.features import NUMBERS
from towers.ranker import HEADS, Ranker


def ranker():
    torch.manual_seed(0)
    return Ranker(
        width=6, moment_sizes=(24, 7), number_mean=torch.tensor([1.0, 2.0]), number_std=torch.tensor([1.0, 4.0]), hidden=8, dropout=0.1
    ).eval()


def question(rows=3, candidates=5):
    torch.manual_seed(1)
    moment = torch.stack([torch.randint(0, size, (rows,)) for size in (24, 7)], dim=1)
    return torch.randn(rows, 6), moment, torch.randn(rows, candidates, 6).half(), torch.randn(rows, candidates, 2) * 3


def test_values_are_probabilities_and_seconds():
    value = ranker()(*question())
    assert value.shape == (3, 5, len(HEADS))
    assert ((value[..., :2] > 0) & (value[..., :2] < 1)).all() and (value[..., 2] >= 0).all()


def test_the_order_of_candidates_and_who_else_stands_there_do_not_matter():
    query, moment, candidate, number = question()
    order = torch.tensor([3, 1, 4, 0, 2])
    model = ranker()
    torch.testing.assert_close(
        model(query, moment, candidate[:, order], number[:, order]), model(query, moment, candidate, number)[:, order]
    )
    torch.testing.assert_close(model(query, moment, candidate[:, :2], number[:, :2]), model(query, moment, candidate, number)[:, :2])


def test_numbers_are_standardised():
    model, (query, moment, candidate, number) = ranker(), question()
    plain = Ranker(width=6, moment_sizes=(24, 7), number_mean=torch.zeros(2), number_std=torch.ones(2), hidden=8, dropout=0.1).eval()
    state = model.state_dict() | {"number_mean": torch.zeros(2), "number_std": torch.ones(2)}
    plain.load_state_dict(state)
    by_hand = (number - torch.tensor([1.0, 2.0])) / torch.tensor([1.0, 4.0])
    torch.testing.assert_close(model(query, moment, candidate, number), plain(query, moment, candidate, by_hand))


def test_scripted_answers_the_same():
    model = ranker()
    torch.testing.assert_close(torch.jit.script(model)(*question()), model(*question()))


def test_an_untrained_ranker_orders_as_retrieval_did():
    torch.manual_seed(0)
    moment = torch.tensor([[3, 1]])
    fresh = Ranker(width=6, moment_sizes=(24, 7), number_mean=torch.zeros(6), number_std=torch.ones(6), hidden=8, dropout=0.1).eval()
    number = torch.zeros(1, 50, 6)
    number[0, :, NUMBERS.index("dot")] = torch.linspace(-1, 1, 50)[torch.randperm(50)]
    value = fresh(torch.randn(1, 6), moment, torch.randn(1, 50, 6).half(), number)[0, :, 0]
    correlation = torch.corrcoef(torch.stack([value, number[0, :, NUMBERS.index("dot")]]))[0, 1]
    assert correlation > 0.99
