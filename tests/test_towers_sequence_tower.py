"""A state after an event knows it and what came before: packed or alone, scripted or not, the query is the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.datamodule import Events, RetrievalBatch, shuffled
from data.sequences import NOBODY, Packed
from tests.test_data_sequences import events_of
from towers.encoders import HSTU, HSTUBlock, SASRec
from towers.sequence_tower import SequenceTower
from towers.two_tower import UnitNorm

ENCODERS = {
    "SASRec": lambda width: SASRec(width, blocks=2, heads=2, dropout=0.3, max_length=8),
    "HSTU": lambda width: HSTU(width, blocks=2, heads=2, dropout=0.3, max_length=8),
}


@pytest.fixture(params=ENCODERS)
def tower(request) -> SequenceTower:
    torch.manual_seed(0)
    made = SequenceTower(
        width=8, moment_sizes=(24, 7), users=0, priors=2, encoder=ENCODERS[request.param], dropout=0.3, norm=UnitNorm()
    ).eval()  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def some_events() -> Events:
    """Users of one to nine events, with moments, and with hours or weeks between events."""
    events, rng = events_of([9, 1, 3, 6, 2, 5, 4, 7]), np.random.default_rng(0)
    gap = 60_000 * np.exp(rng.uniform(0, 12, len(events.item_row_E))).astype(np.int64)
    moment = torch.as_tensor(np.stack([rng.integers(0, size, len(gap)) for size in (24, 7)], axis=1))
    return events._replace(timestamp_E=torch.as_tensor(gap.cumsum()), moment_EC=moment)


def test_a_packed_question_is_answered_as_one_asked_alone(tower):
    """The law of training: at every position, the query is the one that serving would compute from the window so far."""
    events, table_ID = some_events(), torch.randn(37, 8)
    count = 0
    for batch in Packed(events, torch.arange(37), length=5, order=shuffled, batch_size=10, seed=0, epoch=0):
        query_BD = tower.ask(batch, table_ID, batch.history_row_BL)
        known_B = torch.where(batch.state_B == NOBODY, 0, batch.place_BL.flatten()[batch.state_B.clamp(min=0)] + 1)
        for b, known in enumerate(known_B.tolist()):
            event = batch.item_row_B[b : b + 1]  # an event's item is its number
            alone = events._replace(offset_U1=torch.full_like(events.offset_U1, int(event) - known)).batch(event, length=5)
            assert isinstance(alone, RetrievalBatch)
            torch.testing.assert_close(tower.ask(alone, table_ID, alone.history_row_BL)[0], query_BD[b], atol=1e-5, rtol=1e-4)
            count += 1
    assert count > 20


def test_scripted_answers_the_same_whatever_the_padding(tower):
    torch.manual_seed(1)
    code, age = torch.randint(1, 8, (4, 6)), torch.randint(0, 10**6, (4, 6)).sort(dim=1, descending=True).values
    code[0, :3], code[1] = 0, 0
    moment = torch.stack([torch.randint(0, size, (4,)) for size in (24, 7)], dim=1)
    asked = (torch.randn(4, 6, 8).half(), code, age, moment)
    query_BD = tower(*asked)
    torch.testing.assert_close(torch.jit.script(tower)(*asked), query_BD)
    wider = (
        *(F.pad(column, (*[0, 0] * (column.dim() - 2), 2, 0), value=value) for column, value in zip(asked[:3], (9.0, 0, 3), strict=True)),
        moment,
    )
    torch.testing.assert_close(tower(*wider), query_BD)
    torch.testing.assert_close(query_BD[:, :6].norm(dim=1), torch.ones(4))


def test_nobody_is_asked_by_the_moment_alone(tower):
    history, code, age = torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[0, 0, 0], [5, 9, 70]])
    same, other = tower(history, code, age, torch.tensor([[3, 4], [3, 4]])), tower(history, code, age, torch.tensor([[3, 4], [3, 5]]))
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(same[0], other[0])
    assert not torch.allclose(other[0], other[1], atol=1e-3)


def test_order_and_time_matter():
    torch.manual_seed(0)
    events_BLD, window, place, age = (
        torch.randn(1, 4, 8),
        torch.ones(1, 4, dtype=torch.int64),
        torch.arange(4)[None],
        torch.tensor([[90, 50, 7, 1]]),
    )
    for make, timed in ((ENCODERS["SASRec"], False), (ENCODERS["HSTU"], True)):
        encoder = make(8).eval()
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        state = encoder(events_BLD, window, place, age)
        assert not torch.allclose(encoder(events_BLD[:, [1, 0, 2, 3]], window, place, age)[:, 3], state[:, 3], atol=1e-4)
        later = encoder(events_BLD, window, place, age + torch.tensor([[900, 0, 0, 0]]))
        assert torch.allclose(later, state, atol=1e-5) != timed
        shifted = encoder(events_BLD, window, place, age * 1 + 0)
        torch.testing.assert_close(shifted, state)


def test_hstu_by_hand():
    """Two events of width one that nothing projects: norms of one column give their bias, set to 2 and 3; u = v = q = k = SiLU(2).

    s = SiLU(2) = 1.7616; the second state mixes with weights SiLU(s² + b) / 2 over two equal values, its norm gives 3, gated by s: the
    state is x + 3 s.
    """
    block = HSTUBlock(1, 1, 0.0, 4)
    with torch.no_grad():
        for linear in (block.uvqk, block.out):
            linear.weight.fill_(1.0)
            linear.bias.zero_()
        block.norm.bias.fill_(2.0)
        block.mixed_norm.bias.fill_(3.0)
    share = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    pairs = torch.tensor([[[0, 0], [1, 0]]])
    state = block(torch.tensor([[[5.0], [7.0]]]), share, pairs, pairs)
    torch.testing.assert_close(state.flatten(), torch.tensor([5 + 3 * 1.7616, 7 + 3 * 1.7616]), atol=1e-3, rtol=0)


def test_heads_must_share_the_width():
    for encoder in (SASRec, HSTU):
        with pytest.raises(ValueError, match="width 8 is not a multiple of heads 3"):
            encoder(8, heads=3)
