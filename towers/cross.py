"""Crosses of explicit degree: each layer multiplies what is there by the input once more.

Shapes: N candidates of all requests · D width · R rank.
"""

import torch
from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """DCN-v2 (Wang et al. 2021, arXiv 2008.13535): x_{l+1} = x_0 ⊙ (W x_l + b) + x_l. With a `rank` W is U·V of that rank, at 2·D·R
    products instead of D²; without, W is whole.

    Every layer starts as the identity (W = U·V with U = 0), so that what it learns is a departure from its input.
    """

    def __init__(self, width: int, *, layers: int, rank: int | None = None):
        super().__init__()
        self.down = nn.ModuleList(nn.Identity() if rank is None else nn.Linear(width, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(width if rank is None else rank, width) for _ in range(layers))
        for layer in self.up:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, input_ND: Tensor) -> Tensor:
        """(N, D) → (N, D), of degree `layers` + 1 in the input."""
        x_ND = input_ND
        for down, up in zip(self.down, self.up):  # noqa: B905 - TorchScript knows no strict
            x_ND = torch.addcmul(x_ND, input_ND, up(down(x_ND)))
        return x_ND
