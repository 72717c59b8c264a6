"""What a batch chooses among: candidates, and how often each of them would have been drawn.

Negatives are callables: the items of a batch → `Candidates`; and `log_q` of candidates, by which `towers.losses.sampled_softmax` corrects.

Shapes: B rows · M distinct candidates · N rows asked for, or negatives · R distinct rows · P popularity columns · I catalogue.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from data.frequency import inclusion, log_in_batch
from towers.two_tower import PRIOR_SCALE


class Distinct(NamedTuple):
    """Distinct rows in rising order, and where each of the rows asked for stands among them."""

    row_R: Tensor
    place_N: Tensor


def distinct(row_N: Tensor, count: int) -> Distinct:
    """`torch.unique` of rows below `count`; by marking instead of sorting, unless the rows are few beside the catalogue."""
    if len(row_N) * 16 < count:
        return Distinct(*row_N.unique(return_inverse=True))
    there_I = torch.zeros(count, dtype=torch.bool, device=row_N.device)
    there_I[row_N] = True
    return Distinct(there_I.nonzero()[:, 0], (there_I.cumsum(0) - 1)[row_N])


class Candidates(NamedTuple):
    """What a batch chooses among: distinct rows, each query's own column, and the columns that are negatives; None: all are."""

    row_M: Tensor
    target_B: Tensor
    negative_N: Tensor | None = None


def choose(row_B: Tensor, count: int, extra: tuple[Tensor, ...] = ()) -> Candidates:
    """The distinct rows among a batch, the batches of all processes, and `extra`."""
    rows = (row_B, *every_rank(row_B), *extra)
    row_M, place_N = distinct(torch.cat(rows) if len(rows) > 1 else row_B, count)
    return Candidates(row_M, place_N[: len(row_B)])


def every_rank(row_B: Tensor) -> list[Tensor]:
    """The rows of each process, this one's among them; none where there is but one."""
    if not torch.distributed.is_initialized():
        return []
    gathered = [torch.empty_like(row_B) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, row_B)
    return gathered


class InBatchNegatives:
    """The distinct items of the batch (of all processes), and `uniform` more drawn evenly from the catalogue (mixed negatives,
    Yang et al. 2020, doi:10.1145/3366424.3386195). A candidate drawn twice is one column, so no negative is another copy of a positive."""

    def __init__(self, *, count_I: np.ndarray, batch_size: int, uniform: int = 0):
        self.uniform = uniform
        self.item_count = len(count_I)
        self.log_q_I = torch.as_tensor(log_in_batch(count_I, batch_size=batch_size, uniform=uniform))

    def __call__(self, item_row_B: Tensor) -> Candidates:
        """Candidates of one batch, by its rows' items."""
        if not self.uniform:
            return choose(item_row_B, self.item_count)
        return choose(item_row_B, self.item_count, (torch.randint(self.item_count, (self.uniform,), device=item_row_B.device),))

    def log_q(self, row_M: Tensor, prior_MP: Tensor) -> Tensor:
        """log P(the row is a candidate), (M,), over the whole log."""
        self.log_q_I = self.log_q_I.to(row_M.device)
        return self.log_q_I.index_select(0, row_M)


class InBatchOfTheHour:
    """The distinct items of a batch that is one stretch of time (`data.datamodule.by_hour`), drawn as often as they were popular just then.

    So q is the popularity columns themselves: log q is their prior of power one, which cancels out of the softmax with what the query gives
    them, and taste learns what is left when popularity is known (streaming frequency estimation, Yi et al. 2019, with a half-life).
    """

    def __init__(self, *, count_I: np.ndarray, batch_size: int):
        self.item_count = len(count_I)

    def __call__(self, item_row_B: Tensor) -> Candidates:
        """Candidates of one batch, by its rows' items."""
        return choose(item_row_B, self.item_count)

    def log_q(self, row_M: Tensor, prior_MP: Tensor) -> Tensor:
        """log of how popular each row was, up to a constant, (M,).

        Raises:
            ValueError: the model has no popularity columns, which are this q.
        """
        if not prior_MP.shape[1]:
            raise ValueError(
                "InBatchOfTheHour takes its q from popularity columns; give task.module.popularity_half_lives_days at least one"
            )
        return prior_MP.mean(1) / PRIOR_SCALE


class SampledNegatives:
    """Some `count` items of the catalogue, drawn by (training rows)^`power`: 0 draws evenly, 1 by popularity, .75 as word2vec does.

    Each item is drawn or not by its own chance (`data.frequency.inclusion`), so that none comes twice, log q is exact, and as many as the
    catalogue has are the catalogue. Items of the batch are candidates of their own rows alone, negatives only if drawn.
    """

    def __init__(self, *, count_I: np.ndarray, batch_size: int, count: int, power: float):
        self.item_count = len(count_I)
        self.drawn_I = torch.as_tensor(inclusion(np.maximum(count_I, 0.5) ** power, count), dtype=torch.float32)

    def __call__(self, item_row_B: Tensor) -> Candidates:
        """Candidates of one batch, by its rows' items."""
        self.drawn_I = self.drawn_I.to(item_row_B.device)
        drawn_N = (torch.rand_like(self.drawn_I) < self.drawn_I).nonzero()[:, 0]
        row_M, place = distinct(torch.cat([item_row_B, drawn_N]), self.item_count)
        return Candidates(row_M, place[: len(item_row_B)], place[len(item_row_B) :])

    def log_q(self, row_M: Tensor, prior_MP: Tensor) -> Tensor:
        """log P(the row is drawn), (M,)."""
        return self.drawn_I.index_select(0, row_M).log()


class WholeCatalogue:
    """Every item is a candidate: the full softmax, for catalogues small enough to score at each step."""

    def __init__(self, *, count_I: np.ndarray, batch_size: int):
        self.item_count = len(count_I)

    def __call__(self, item_row_B: Tensor) -> Candidates:
        """Candidates of one batch: all rows, uncorrected."""
        row_M = torch.arange(self.item_count, device=item_row_B.device)
        return Candidates(row_M, item_row_B)

    def log_q(self, row_M: Tensor, prior_MP: Tensor) -> Tensor:
        """0, (M,): every row is always a candidate."""
        return torch.zeros(len(row_M), device=row_M.device)
