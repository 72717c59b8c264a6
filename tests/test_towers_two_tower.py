"""The towers: callable alone, an item without an id still has a place, and what is scripted answers the same."""

import math

import torch

from towers.encoders import AttentionEncoder, MeanEncoder
from towers.two_tower import IdItemTower, ItemTower, UnitNorm, UserTower, prior


def item_tower(id_dropout=0.5):
    torch.manual_seed(0)
    return ItemTower(width=8, features=5, priors=2, hidden=16, content_std=0.3, id_dropout=id_dropout, dropout=0.0, norm=UnitNorm())


def user_tower(encoder=MeanEncoder):
    torch.manual_seed(0)
    return UserTower(width=8, moment_sizes=(24, 7, 3), users=0, priors=2, encoder=encoder, hidden=16, dropout=0.1, norm=UnitNorm()).eval()


def question(rows=4, length=6):
    torch.manual_seed(1)
    code = torch.randint(0, 8, (rows, length))
    moment = torch.stack([torch.randint(0, size, (rows,)) for size in (24, 7, 3)], dim=1)
    return torch.randn(rows, length, 8).half(), code, torch.randint(0, 10**6, (rows, length)), moment


def test_an_item_without_an_id_has_the_row_of_its_content():
    tower, feature = item_tower().eval(), torch.randn(3, 5)
    row = tower(feature)
    input_RD = tower.input(torch.zeros(3, 8), feature)
    assert row.dtype == torch.float16 and row.shape == (3, 16)
    torch.testing.assert_close(row.float(), torch.cat([input_RD, tower.vector(input_RD, torch.zeros(3, 2))], dim=1), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(row[:, 8:].float().norm(dim=1), torch.ones(3), atol=2e-3, rtol=0)


def test_ids_are_dropped_whole_and_only_in_training():
    tower, feature, ids = item_tower(id_dropout=0.5), torch.zeros(2000, 5), torch.ones(2000, 8)
    content = tower.content(feature)
    left = (tower.train().input(ids, feature) - content).detach().round(decimals=4)
    assert {float(value) for value in left.unique()} == {0.0, 1.0}
    assert torch.equal(left.amin(1), left.amax(1)) and 0.45 < left[:, 0].mean() < 0.55
    torch.testing.assert_close(tower.eval().input(ids, feature) - content, ids)


def test_towers_script_to_what_they_are():
    for encoder in (MeanEncoder, lambda width: AttentionEncoder(width, heads=2)):
        tower = user_tower(encoder)
        torch.testing.assert_close(torch.jit.script(tower)(*question()), tower(*question()))
    tower, feature = item_tower().eval(), torch.randn(3, 5)
    torch.testing.assert_close(torch.jit.script(tower)(feature), tower(feature))


def test_an_item_that_is_only_an_id_and_has_none_is_nothing():
    tower, feature = IdItemTower(width=4, features=3, priors=1, norm=UnitNorm()), torch.randn(2, 3)
    assert torch.equal(torch.jit.script(tower)(feature), torch.zeros(2, 8, dtype=torch.float16))
    id_RD = torch.tensor([[3.0, 4.0, 0.0, 7.0]])
    torch.testing.assert_close(tower.vector(tower.input(id_RD, feature), torch.tensor([[0.5]])), torch.tensor([[0.6, 0.8, 0.0, 0.5]]))


def test_taste_is_of_length_one_and_popularity_begins_as_a_prior_of_power_one():
    history, code, age, moment = question()
    for asked in ((history, code, age, moment), (history, code * 0, age, moment)):
        query = user_tower()(*asked)
        torch.testing.assert_close(query[:, :6].norm(dim=1), torch.ones(4))
        columns = prior(torch.tensor([[5.0, 5.0]]))
        torch.testing.assert_close((query[:, 6:] @ columns.T / 0.1)[:, 0], torch.full((4,), math.log1p(5 / 0.1)))


def test_what_is_padding_does_not_matter_and_the_moment_does():
    history, code, age, moment = question()
    other = history.clone()
    other[code == 0] = 7.0
    tower = user_tower()
    torch.testing.assert_close(tower(history, code, age, moment), tower(other, code, age, moment))
    later = moment.clone()
    later[:, 0] = (later[:, 0] + 12) % 24
    assert not torch.allclose(tower(history, code, age, moment), tower(history, code, age, later))


def test_any_age_has_a_bucket():
    history, code, _, moment = question(rows=1, length=3)
    assert user_tower()(history, code, torch.tensor([[0, 1, 2**40]]), moment).isfinite().all()
