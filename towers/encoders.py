"""What reads a history: (B, L, D) of events, oldest first, and which of them are there → one state per user, (B, D).

Every encoder scripts to TorchScript and gives a defined state for an empty history. Shapes: B rows · L history · D width · H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towers.dropout import Dropout

AGE_BUCKETS = 32


def age_bucket(age_minutes: Tensor) -> Tensor:
    """Which of `AGE_BUCKETS` an age lies in, by its logarithm: the buckets double, the last holds all from 4,000 years on."""
    return torch.log2(age_minutes.float() + 1).long().clamp(max=31)


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
        self.drop = Dropout(dropout)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(4 * width, width),
            Dropout(dropout),
        )

    def forward(self, x_BLD: Tensor, see_B1LL: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D); `see_B1LL` is True where a position may look at another."""
        B, L, D = x_BLD.shape
        qkv = self.qkv(self.norm(x_BLD)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], see_B1LL, self.dropout if self.training else 0.0)
        x_BLD = x_BLD + self.drop(self.out(mixed.transpose(1, 2).reshape(B, L, D)))
        return x_BLD + self.feed(x_BLD)


class AttentionEncoder(nn.Module):
    """Self-attention over the history, read at its newest event. Positions are counted back from now.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, *, blocks: int = 1, heads: int = 2, dropout: float = 0.2, max_length: int = 1000):
        super().__init__()
        _check(width, heads)
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


def visible(window_BL: Tensor) -> Tensor:
    """Which event (last dimension) a state may know: its own and earlier ones of its window, bool (B, L, L)."""
    same_BLL = window_BL[:, :, None] == window_BL[:, None, :]
    return same_BLL & torch.ones_like(same_BLL[0]).tril()


def _check(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")


class SASRec(nn.Module):
    """Causal self-attention with learned positions (Kang & McAuley 2018, arXiv 1808.09781), pre-norm, as eSASRec found it best
    (Tikhonovich et al. 2025, arXiv 2508.06450).

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, *, blocks: int = 1, heads: int = 1, dropout: float = 0.2, max_length: int = 1000):
        super().__init__()
        _check(width, heads)
        self.position = nn.Embedding(max_length, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, event_BLD: Tensor, window_BL: Tensor, place_BL: Tensor, age_minutes_BL: Tensor) -> Tensor:
        """States (B, L, D), of which those of padding mean nothing."""
        see_B1LL = visible(window_BL)[:, None]
        x_BLD = event_BLD + self.position(place_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, see_B1LL)
        return self.norm(x_BLD)


class HSTUBlock(nn.Module):
    """SiLU(QKᵀ + b) V instead of a softmax, gated by U: how much of something was there is kept, not only how it compares.

    Hierarchical sequential transduction unit (Zhai et al. 2024, arXiv 2402.17152, equations 1 to 3). Their 1/n before the norm is here the
    number of events a state knows: the norm undoes either.
    """

    def __init__(self, width: int, heads: int, dropout: float, max_length: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.uvqk = nn.Linear(width, 4 * width)
        self.mixed_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.drop = Dropout(dropout)
        self.place = nn.Embedding(max_length, heads)
        self.time = nn.Embedding(AGE_BUCKETS, heads)
        for table in (self.place, self.time):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x_BLD: Tensor, share_BLL: Tensor, back_BLL: Tensor, age_bucket_BLL: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D). Of every pair: 1 / (number of events known), 0 for an event that is not; places back; age bucket."""
        B, L, D = x_BLD.shape
        u, v, q, k = F.silu(self.uvqk(self.norm(x_BLD))).view(B, L, 4, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias_BHLL = (self.place(back_BLL) + self.time(age_bucket_BLL)).permute(0, 3, 1, 2)
        weight_BHLL = F.silu(q @ k.transpose(2, 3) + bias_BHLL) * share_BLL[:, None]
        mixed_BLD = self.mixed_norm((weight_BHLL @ v).transpose(1, 2).reshape(B, L, D)) * u.transpose(1, 2).reshape(B, L, D)
        return x_BLD + self.out(self.drop(mixed_BLD))


class HSTU(nn.Module):
    """Stacked `HSTUBlock`s. How far back an event stands and how long before the question it was bias every pair; nothing is told of
    absolute places. The question after an event is asked when the next of its window happens, or at age 0.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, *, blocks: int = 2, heads: int = 1, dropout: float = 0.2, max_length: int = 1000):
        super().__init__()
        _check(width, heads)
        self.blocks = nn.ModuleList(HSTUBlock(width, heads, dropout, max_length) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, event_BLD: Tensor, window_BL: Tensor, place_BL: Tensor, age_minutes_BL: Tensor) -> Tensor:
        """States (B, L, D), of which those of padding mean nothing."""
        see_BLL = visible(window_BL)
        share_BLL = see_BLL.to(event_BLD.dtype) / see_BLL.sum(2, keepdim=True).clamp(min=1)
        back_BLL = (place_BL[:, :, None] - place_BL[:, None, :]).clamp(min=0)
        asked_BL = F.pad(age_minutes_BL[:, 1:] * (window_BL[:, 1:] == window_BL[:, :-1]).long(), [0, 1])
        age_bucket_BLL = age_bucket((age_minutes_BL[:, None, :] - asked_BL[:, :, None]).clamp(min=0))
        for block in self.blocks:
            event_BLD = block(event_BLD, share_BLL, back_BLL, age_bucket_BLL)
        return self.norm(event_BLD)
