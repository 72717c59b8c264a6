"""Dropout: what stays, how often, and what it is multiplied by."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from towers.dropout import Dropout


@given(rate=st.sampled_from([0.1, 0.2, 0.5, 0.9]), seed=st.integers(0, 2**31))
def test_a_number_is_dropped_at_the_rate_or_divided_by_what_remains(rate, seed):
    torch.manual_seed(seed)
    out = Dropout(rate)(torch.ones(200_000))
    kept = out != 0
    torch.testing.assert_close(out[kept], torch.full((int(kept.sum()),), 1 / (1 - rate)), rtol=2e-4, atol=0)
    assert abs(float(kept.float().mean()) - (1 - rate)) < 6 * (rate * (1 - rate) / 200_000) ** 0.5 + 2**-16


def test_the_four_masks_of_one_draw_are_independent():
    torch.manual_seed(0)
    kept_NS = (Dropout(0.3)(torch.ones(100_000, 4)) != 0).float()
    correlation_SS = torch.corrcoef(kept_NS.T) - torch.eye(4)
    assert float(correlation_SS.abs().max()) < 5 / 100_000**0.5


@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (2, 0)])
def test_any_shape_and_stride_and_the_gradient_is_the_mask(shape):
    x = torch.full(shape, 2.0).T if len(shape) == 2 else torch.full(shape, 2.0)
    x.requires_grad_()
    torch.manual_seed(1)
    out = Dropout(0.5)(x)
    out.sum().backward()
    torch.testing.assert_close(out, x * x.grad, rtol=0, atol=0)
    assert bool(((x.grad == 0) | (x.grad == 2)).all())


def test_one_seed_draws_one_mask_and_evaluation_drops_nothing_scripted_or_not():
    drop, x = Dropout(0.4), torch.randn(9, 5)
    torch.manual_seed(2)
    first = drop(x)
    torch.manual_seed(2)
    assert torch.equal(drop(x), first) and not torch.equal(first, x)
    assert drop.eval()(x) is x and torch.equal(torch.jit.script(drop)(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1, float("nan")])
def test_a_rate_that_is_no_chance_is_refused(rate):
    with pytest.raises(ValueError, match="not in"):
        Dropout(rate)
