"""The ranker: one trunk, a head for each thing worth predicting.

Shapes: B requests · K candidates · D width · C moment columns · X numbers · H heads (click, complete, watch_seconds).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.features import NUMBERS

HEADS = ("click", "complete", "watch_seconds")
MANY = 256  # candidates of one query from which on their products are joined


class Ranker(nn.Module):
    """Query, moment, candidate rows and their numbers to one value per candidate and head.

    The query's part of the first layer is computed once per request and added to every candidate's; query × candidate, element by element,
    is the cross. `number_mean` and `number_std` (X,) standardise the numbers.
    """

    def __init__(self, *, width: int, moment_sizes: tuple[int, ...], number_mean: Tensor, number_std: Tensor, hidden: int, dropout: float):
        super().__init__()
        self.many = MANY
        self.moment = nn.ModuleList(nn.Embedding(size, hidden) for size in moment_sizes)
        for table in self.moment:
            nn.init.normal_(table.weight, std=0.02)
        self.query = nn.Linear(width, hidden, bias=False)
        self.candidate = nn.Linear(width, hidden)
        self.cross = nn.Linear(width, hidden, bias=False)
        self.number = nn.Linear(len(number_mean), hidden, bias=False)
        self.trunk = nn.Sequential(
            nn.GELU(), nn.Dropout(float(dropout)), nn.Linear(hidden, hidden // 2), nn.GELU(), nn.Dropout(float(dropout))
        )
        self.head = nn.Linear(hidden // 2, len(HEADS))
        nn.init.normal_(self.head.weight, std=0.01)
        self.skip = nn.Linear(len(number_mean), len(HEADS), bias=False)
        nn.init.zeros_(self.skip.weight)
        self.skip.weight.data[:, NUMBERS.index("dot")] = 1.0  # it begins as retrieval's order, and must learn to depart from it
        self.register_buffer("number_mean", number_mean.clone())
        self.register_buffer("number_std", number_std.clone())

    def logits(self, query: Tensor, moment: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, H) before any squashing: logits of click and complete, log(1 + seconds) of watching."""
        user_BD = self.query(query)
        for column, table in enumerate(self.moment):
            user_BD = user_BD + table(moment[:, column])
        number_BKX = (number - self.number_mean) / self.number_std
        first = user_BD.unsqueeze(1) + self.crossed(query, candidate.to(query.dtype)) + self.number(number_BKX)
        return self.head(self.trunk(first)) + self.skip(number_BKX)

    def crossed(self, query: Tensor, candidate_BKD: Tensor) -> Tensor:
        """A·c + X·(c ⊙ q), (B, K, hidden), of each candidate c. As X·(c ⊙ q) is (X · diag q)·c, the two products are one wherever a query
        has so many candidates that making A + X · diag q costs less than the second."""
        if candidate_BKD.shape[1] < self.many:
            return self.candidate(candidate_BKD) + self.cross(candidate_BKD * query.unsqueeze(1))
        weight_BHD = self.candidate.weight + self.cross.weight * query.unsqueeze(1)
        return torch.baddbmm(self.candidate.bias, candidate_BKD, weight_BHD.transpose(1, 2))

    def forward(self, query: Tensor, moment: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, H): probability of a click, probability of completion, seconds expected to be watched."""
        logit_BKH = self.logits(query, moment, candidate, number)
        return torch.cat([logit_BKH[..., :2].sigmoid(), torch.expm1(F.relu(logit_BKH[..., 2:]))], dim=-1)
