"""Columns of numbers as a network reads them best: standardised, and as ramps between their quantiles.

Shapes: N rows · X columns · P points of a quantile function · Q ramps.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

POINTS = 65


class Spread(NamedTuple):
    """How columns are spread over the rows to learn from: mean (X,), standard deviation (X,), and their quantiles at P even steps from 0
    to 1 (X, P)."""

    mean: Tensor
    std: Tensor
    quantile: Tensor

    @classmethod
    def of(cls, column_NX: np.ndarray) -> "Spread":
        """Of rows; a column that hardly varies is left at its mean."""
        quantile_PX = np.quantile(column_NX, np.linspace(0, 1, POINTS), axis=0)
        told = (column_NX.mean(0), np.maximum(column_NX.std(0), 1e-3), quantile_PX.T)
        return cls(*(torch.as_tensor(np.ascontiguousarray(table, np.float32)) for table in told))


class Standard(nn.Module):
    """Columns of mean 0 and standard deviation 1. A unit vector of 64 columns is an eighth in each: as it is, it would be learned that much
    slower than a number."""

    def __init__(self, spread: Spread):
        super().__init__()
        self.register_buffer("mean", spread.mean.clone())
        self.register_buffer("std", spread.std.clone())

    def forward(self, column: Tensor) -> Tensor:
        """Any shape (…, X)."""
        return (column - self.mean) / self.std


class Piecewise(nn.Module):
    """A linear layer of standardised columns and of Q ramps of each, from 0 to 1 between one quantile and the next (piecewise linear
    encoding, Gorishniy et al. 2022, arXiv 2203.05556): any function of a column that bends at its quantiles, where a plain layer has a
    straight line."""

    def __init__(self, spread: Spread, width: int, *, ramps: int):
        super().__init__()
        columns, points = spread.quantile.shape
        edge_XQ1 = spread.quantile[:, torch.linspace(0, points - 1, ramps + 1).round().long()]
        rise_XQ = edge_XQ1.diff(dim=1).clamp_min(1e-6)  # of one value that many rows share a step is made
        self.standard = Standard(spread)
        self.register_buffer("foot_XQ", edge_XQ1[:, :-1].clone())
        self.register_buffer("rise_XQ", rise_XQ)
        self.layer = nn.Linear(columns * (1 + ramps), width, bias=False)
        nn.init.zeros_(self.layer.weight.data[:, columns:])

    def forward(self, column: Tensor) -> Tensor:
        """(…, X) → (…, width)."""
        ramp = ((column.unsqueeze(-1) - self.foot_XQ) / self.rise_XQ).clamp(0, 1)
        return self.layer(torch.cat([self.standard(column), ramp.flatten(-2)], dim=-1))
