"""What reads a history: (B, L, D) of events, oldest first, and which of them are there → one state per user, (B, D).

Every encoder scripts to TorchScript and gives a defined state for an empty history. Shapes: B rows · L history · D width · H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MeanEncoder(nn.Module):
    """A weighted mean; how much an event weighs is read off the event itself. An empty history is the zero state."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Linear(width, 1)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)

    def forward(self, event_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """State (B, D). `there_BL` is False where the history is padding."""
        weight_BL1 = F.softplus(self.weight(event_BLD)) * there_BL.unsqueeze(-1).to(event_BLD.dtype)
        return torch.bmm(weight_BL1.transpose(1, 2), event_BLD).squeeze(1) / weight_BL1.sum(1).clamp_min(1e-6)


class AttentionBlock(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer (Kang & McAuley 2018, arXiv 1808.09781; pre-norm as Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = float(dropout)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(float(dropout)),
            nn.Linear(4 * width, width),
            nn.Dropout(float(dropout)),
        )

    def forward(self, x_BLD: Tensor, see_B1LL: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D); `see_B1LL` is True where a position may look at another."""
        B, L, D = x_BLD.shape
        qkv = self.qkv(self.norm(x_BLD)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], see_B1LL, self.dropout if self.training else 0.0)
        x_BLD = x_BLD + F.dropout(self.out(mixed.transpose(1, 2).reshape(B, L, D)), self.dropout, self.training)
        return x_BLD + self.feed(x_BLD)


class AttentionEncoder(nn.Module):
    """Self-attention over the history, read at its newest event. Positions are counted back from now.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, *, blocks: int = 1, heads: int = 2, dropout: float = 0.2, max_length: int = 1000):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.position = nn.Parameter(torch.randn(max_length, width) * 0.02)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, event_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """State (B, D) at the newest position. `there_BL` is False where the history is padding; an empty one gives the zero state."""
        L = event_BLD.shape[1]
        causal_LL = torch.ones(L, L, dtype=torch.bool, device=event_BLD.device).tril()
        itself_LL = torch.eye(L, dtype=torch.bool, device=event_BLD.device)  # padding looks at itself: no row of attention is empty
        see_B1LL = ((causal_LL & there_BL[:, None, :]) | itself_LL)[:, None]
        x_BLD = event_BLD + self.position[:L].flip(0)
        for block in self.blocks:
            x_BLD = block(x_BLD, see_B1LL)
        return self.norm(x_BLD[:, -1]) * there_BL[:, -1:].to(x_BLD.dtype)
