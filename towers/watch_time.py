"""Seconds of watching as a place among the seconds that items of about that duration are watched, and back.

A long item is watched longer, whatever it is worth: squared error on seconds learns the duration. D2Q (duration-deconfounded quantile,
Zhan et al., KDD 2022, arXiv 2206.06003) cuts the training rows into groups of about equal duration, learns the quantile of the watch time
within its group, and reads an answer back through the group's quantile function.

What is learned is the mean place: half of 80 % who never watch and of 20 % who do. The quantile function at that place would say 0 seconds
of all such items alike. So an answer is read back through the watch times that have this mean place: of all distributions of places, the
one that assumes the least (`places`), whose mean or median the seconds are.

Shapes: N rows · G groups · P points of a quantile function · E edges between groups.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def places(points: int) -> Tensor:
    """How watch times spread over P places, given their mean place: (P, P), a row for each mean from 0 to 1 in even steps.

    Of all distributions with that mean the one of greatest entropy, whose probabilities are a geometric series along the places (Jaynes
    1957, doi:10.1103/PhysRev.106.620): all the same at a half, ever steeper towards the ends.
    """
    place_P = torch.arange(points, dtype=torch.float64)
    low_P, high_P = torch.full_like(place_P, -60), torch.full_like(place_P, 60)  # of log ratios; at 60 all is at one end
    for _ in range(60):
        middle_P = (low_P + high_P) / 2
        short_P = (middle_P[:, None] * place_P).softmax(1) @ place_P < place_P
        low_P, high_P = torch.where(short_P, middle_P, low_P), torch.where(short_P, high_P, middle_P)
    return (middle_P[:, None] * place_P).softmax(1)


def mean(second_GP: Tensor) -> Tensor:
    """What is watched on average, (G, P): more than nothing of all that somebody may watch."""
    return second_GP @ places(second_GP.shape[1]).to(second_GP.dtype).T


def median(second_GP: Tensor) -> Tensor:
    """What half watch longer than, (G, P): the least absolute error; 0 wherever more than half leave at once."""
    middle_P = (places(second_GP.shape[1]).cumsum(1) >= 0.5 - 1e-9).double().argmax(1)
    return second_GP[:, middle_P]


class WatchTime(nn.Module):
    """Quantile functions of watch time by duration. `edge_E` are log(1 + seconds) at which the next group of durations begins; group 0 is
    of unknown durations. `second_GP` (G, P) are each group's quantiles at P even steps from 0 to 1 (type 7 of Hyndman & Fan 1996);
    `centre(second_GP)`, `mean` or `median`, says what is answered of watch times whose mean place is each of these steps, (G, P)."""

    def __init__(self, edge_E: Tensor, second_GP: Tensor, *, centre: Callable[[Tensor], Tensor] = mean):
        super().__init__()
        self.register_buffer("edge_E", edge_E.float().clone())
        self.register_buffer("second_GP", second_GP.float().clone())
        self.register_buffer("answer_GP", centre(second_GP.double()).float())

    @classmethod
    def fit(
        cls, second_N: np.ndarray, log_duration_N: np.ndarray, *, groups: int, points: int, rows: int,
        centre: Callable[[Tensor], Tensor] = mean,
    ) -> "WatchTime":  # fmt: skip
        """From rows whose watch time is known: at most `groups` groups of about equally many rows, each of at least `rows`.

        `log_duration_N` is 0 where the duration is unknown; a group without rows, and a log without watch times, has the quantiles of all.
        """
        edge_E = _edges(log_duration_N[log_duration_N > 0], groups, rows)
        group_N = np.searchsorted(edge_E, log_duration_N.astype(np.float32), side="right")
        step_P = np.linspace(0, 1, points)
        pooled_P = np.quantile(second_N, step_P) if len(second_N) else step_P
        second_GP = [
            np.quantile(second_N[mine_N], step_P) if (mine_N := group_N == group).any() else pooled_P for group in range(len(edge_E) + 1)
        ]
        return cls(torch.as_tensor(edge_E), torch.as_tensor(np.stack(second_GP)), centre=centre)

    def group(self, log_duration: Tensor) -> Tensor:
        """Which group a duration is in, int64, any shape."""
        return torch.bucketize(log_duration.contiguous(), self.edge_E, right=True)

    @torch.jit.unused
    def quantile(self, second_N: Tensor, log_duration_N: Tensor) -> Tensor:
        """The place in [0, 1] of watch times among those of their group, (N,); NaN stays NaN. Equal times share the mean of their places
        (mid-rank): where most rows are of 0 seconds, 0 has about half their share, not 0."""
        quantile_N = torch.full_like(second_N, torch.nan)
        last = self.second_GP.shape[1] - 1
        group_N = self.group(log_duration_N)
        for group, second_P in enumerate(self.second_GP):
            mine_N = (group_N == group) & ~second_N.isnan()
            asked = second_N[mine_N].contiguous()
            low = torch.searchsorted(second_P, asked).clamp(max=last)
            high = torch.searchsorted(second_P, asked, right=True) - 1
            before, after = second_P[(low - 1).clamp(min=0)], second_P[low]
            between = low - 1 + (asked - before) / (after - before).clamp(min=1e-9)
            place = torch.where(after == asked, (low + high) / 2, between)
            quantile_N[mine_N] = (place / last).clamp(0, 1)
        return quantile_N

    def forward(self, place: Tensor, log_duration: Tensor) -> Tensor:
        """Seconds of watch times whose mean place is in [0, 1], any shape: of each one's group, straight between its points."""
        points = self.answer_GP.shape[1]
        step = place * (points - 1)
        low = step.floor().long().clamp(0, points - 2)
        at = self.group(log_duration) * points + low
        answer_F = self.answer_GP.flatten()
        return torch.lerp(answer_F[at], answer_F[at + 1], step - low)


def _edges(log_duration_N: np.ndarray, groups: int, rows: int) -> np.ndarray:
    """Where known durations are cut: half way between two that stand side by side, nearest to equal shares; before all of them 0 ends."""
    duration, count = np.unique(log_duration_N, return_counts=True)
    share, between = count.cumsum()[:-1] / max(len(log_duration_N), 1), (duration[:-1] + duration[1:]) / 2
    parts = max(min(groups, len(log_duration_N) // rows), 1)
    cuts = {int(np.abs(share - part / parts).argmin()) for part in range(1, parts)} if len(share) else set()
    return np.array([np.finfo(np.float32).tiny, *between[sorted(cuts)]], np.float32)
