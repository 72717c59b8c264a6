"""Dropout whose masks cost little on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """In training a number is 0 with chance `rate`, or else divided by what remains (Srivastava et al. 2014); outside training it stays.

    On a CPU torch draws its masks one Bernoulli variable at a time, which takes longer than the network between two of them. Here
    each 64 random bits are the masks of four numbers, so that `rate` is rounded down to a 65,536th; the divisor is of the rate so rounded,
    and the mean as it should be. Other devices, and TorchScript, draw as torch does.

    Raises:
        ValueError: `rate` is negative, or not below 1.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = float(rate)
        if not 0 <= self.rate < 1:
            raise ValueError(f"a dropout rate of {rate} is not in [0, 1)")

    def forward(self, x: Tensor) -> Tensor:
        """As `x`, whatever its shape."""
        if not self.training or self.rate == 0.0:
            return x
        if torch.jit.is_scripting() or x.device.type != "cpu":
            return F.dropout(x, self.rate, True)
        dropped = int(self.rate * 65536)
        bits = torch.randint(-9223372036854775807, 9223372036854775807, ((x.numel() + 3) // 4,)).view(torch.int16)
        kept = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.ge(bits[: x.numel()].view_as(x), dropped - 32768, out=kept)
        return x * kept.div_(1 - dropped / 65536)
