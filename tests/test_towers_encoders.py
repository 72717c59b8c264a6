"""Encoders: padding has no say, an empty history has a state, and what is scripted answers the same."""

import pytest
import torch

from towers.encoders import AttentionEncoder, MeanEncoder

MAKERS = {"mean": lambda: MeanEncoder(8), "attention": lambda: AttentionEncoder(8, blocks=2, heads=2, dropout=0.0)}


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = MAKERS[name]().eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@pytest.fixture(params=MAKERS)
def encoder(request):
    return made(request.param)


def test_padding_has_no_say(encoder):
    events, there = torch.randn(3, 6, 8), torch.tensor([[False] * 2 + [True] * 4] * 3)
    other = events.clone()
    other[:, :2] = 100.0
    torch.testing.assert_close(encoder(events, there), encoder(other, there))


def test_more_padding_changes_nothing(encoder):
    events, there = torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)
    padded = torch.cat([torch.zeros(3, 5, 8), events], dim=1)
    longer = torch.cat([torch.zeros(3, 5, dtype=torch.bool), there], dim=1)
    torch.testing.assert_close(encoder(events, there), encoder(padded, longer))


def test_an_empty_history_is_the_zero_state(encoder):
    assert torch.equal(encoder(torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)), torch.zeros(2, 8))


def test_a_batch_is_its_rows(encoder):
    events, there = torch.randn(5, 6, 8), torch.rand(5, 6) < 0.7
    there[:, -1] = True
    torch.testing.assert_close(encoder(events, there), torch.cat([encoder(e[None], t[None]) for e, t in zip(events, there, strict=True)]))


def test_scripted_answers_the_same(encoder):
    events, there = torch.randn(4, 6, 8), torch.rand(4, 6) < 0.7
    torch.testing.assert_close(torch.jit.script(encoder)(events, there), encoder(events, there))


def test_the_mean_by_hand():
    encoder = MeanEncoder(2)  # fresh, every event weighs the same
    events = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]])
    torch.testing.assert_close(encoder(events, torch.tensor([[True, True, False]])), torch.tensor([[2.0, 1.0]]))


def test_attention_knows_order_and_the_mean_does_not():
    events, there = torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)
    turned = events[:, [1, 0, 2, 3]]
    mean, attention = made("mean"), made("attention")
    torch.testing.assert_close(mean(events, there), mean(turned, there))
    assert not torch.allclose(attention(events, there), attention(turned, there), atol=1e-4)


def test_heads_must_share_the_width():
    with pytest.raises(ValueError, match="width 8 is not a multiple of heads 3"):
        AttentionEncoder(8, heads=3)
