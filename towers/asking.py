"""How a batch is asked: the queries of its rows, each user's once, or chunk by chunk. `task.module.ask` names one.

Shapes: B rows · L history length · D width · R distinct items · Q queries.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data.datamodule import RetrievalBatch


class Asked(NamedTuple):
    """Queries (Q, D), and which of them each row asks; None: row b asks query b."""

    query_QD: Tensor
    row_B: Tensor | None


def every_row(tower: nn.Module, batch: RetrievalBatch, input_RD: Tensor, history_BL: Tensor) -> Asked:
    """A query for each row, for towers that read what was before it."""
    return Asked(tower.ask(batch, input_RD, history_BL), None)


def every_user(tower: nn.Module, batch: RetrievalBatch, input_RD: Tensor, history_BL: Tensor) -> Asked:
    """A query for each distinct user, for towers that look at nothing else: so many rows of logits there are, not one a pair."""
    user_row_Q, row_B = batch.user_row_B.unique(return_inverse=True)
    return Asked(tower.ask(batch._replace(user_row_B=user_row_Q), input_RD, history_BL), row_B)


def every_list(tower: nn.Module, batch: RetrievalBatch, input_RD: Tensor, history_BL: Tensor) -> Asked:
    """A query for each distinct user, of all of the user's rows together (`data.datamodule.WholeLists`), for towers of a sum."""
    user_row_Q, row_B = batch.user_row_B.unique(return_inverse=True)
    sum_QD = input_RD.new_zeros(len(user_row_Q), input_RD.shape[1]).index_add(0, row_B, F.embedding(history_BL[:, 0], input_RD))
    return Asked(tower.query(sum_QD), row_B)


def in_chunks(tower: nn.Module, batch: RetrievalBatch, input_RD: Tensor, history_BL: Tensor, *, rows: int) -> Asked:
    """A query for each row, `rows` of them at a time: what the tower keeps for its gradient is of one chunk, however large the batch.

    Gradient caching (Gao et al. 2021, arXiv 2101.06983): queries are computed and forgotten, the loss of the whole batch takes its gradient
    at them, and each chunk is computed anew to pass its part on. Random numbers are those of the first time, so that the gradient is
    the whole batch's, dropout or none, for one more pass forward.
    """
    query_BD = input_RD.new_empty(len(history_BL), input_RD.shape[1])  # one place: many small ones would lie between what chunks free
    for start in range(0, len(query_BD), rows):
        part = slice(start, start + rows)
        chunk = RetrievalBatch(*(column[part] for column in batch))
        query_BD[part] = checkpoint(tower.ask, chunk, input_RD, history_BL[part], use_reentrant=False)
    return Asked(query_BD, None)
