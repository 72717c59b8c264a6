"""What the tasks of a ranker share: one trunk, or experts that each task mixes as it likes.

Both map (N, D) to (T, N, M): of each task, what its tower reads.

Shapes: N candidates of all requests · D width · T tasks · M expert width · E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Experts(nn.Module):
    """E networks of one layer and of one shape: (N, D) → (N, E, M)."""

    def __init__(self, width: int, *, experts: int, hidden: int, dropout: float):
        super().__init__()
        self.experts = experts
        self.layer = nn.Linear(width, experts * hidden)
        self.drop = nn.Dropout(float(dropout))

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) → (N, E, M)."""
        return self.drop(F.gelu(self.layer(x_ND))).unflatten(1, (self.experts, -1))


class SharedTrunk(nn.Module):
    """All tasks read the same (shared bottom; Caruana 1997)."""

    def __init__(self, width: int, tasks: int, *, hidden: int, dropout: float):
        super().__init__()
        self.tasks, self.width = tasks, hidden
        self.expert = Experts(width, experts=1, hidden=hidden, dropout=dropout)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) → (T, N, M)."""
        return self.expert(x_ND).transpose(0, 1).expand(self.tasks, -1, -1)


class MixtureOfExperts(nn.Module):
    """Each task reads its own mean of the experts, weighed by a softmax gate of the input (MMoE; Ma et al., KDD 2018,
    doi:10.1145/3219819.3220007). With one expert it is `SharedTrunk`."""

    def __init__(self, width: int, tasks: int, *, hidden: int, dropout: float, experts: int):
        super().__init__()
        self.tasks, self.width, self.experts = tasks, hidden, experts
        self.expert = Experts(width, experts=experts, hidden=hidden, dropout=dropout)
        self.gate = nn.Linear(width, tasks * experts)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) → (T, N, M)."""
        gate_NTE = self.gate(x_ND).unflatten(1, (self.tasks, self.experts)).softmax(-1)
        return torch.bmm(gate_NTE, self.expert(x_ND)).transpose(0, 1)


class TaskTowers(nn.Module):
    """A small network for each task: (T, N, M) → (N, T)."""

    def __init__(self, width: int, tasks: int, *, hidden: int):
        super().__init__()
        self.first = nn.Parameter(torch.empty(tasks, width, hidden).uniform_(-(width**-0.5), width**-0.5))
        self.first_bias = nn.Parameter(torch.zeros(tasks, 1, hidden))
        self.last = nn.Parameter(torch.empty(tasks, hidden, 1).normal_(std=0.01))
        self.last_bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, x_TNM: Tensor) -> Tensor:
        """One logit per candidate and task."""
        inner_TNh = F.gelu(torch.baddbmm(self.first_bias, x_TNM, self.first))
        return torch.bmm(inner_TNh, self.last)[:, :, 0].T + self.last_bias
