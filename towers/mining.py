"""Hard negatives: items that the model itself, as it stands, would propose to a user who never took them.

Shapes: B rows · M distinct candidates · K mined items of a user · H of them drawn for a row · Q questions · U users · I catalogue ·
P popularity columns.
"""

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor

from data.datamodule import RetrievalBatch
from data.frequency import log_in_batch
from data.log import Log, Queries
from data.split import seen_targets_miss
from towers.evaluation import DotProduct, ItemLists, rank
from towers.negatives import Candidates, choose, every_rank


class MinedNegatives(L.Callback):
    """The distinct items of the batch, and for each of its rows `hard` more of its user's mined items.

    Mined before each epoch, by exact search over the whole catalogue with the vectors of that moment (as ANCE refreshes its index, Xiong et
    al. 2021, arXiv 2007.00808): the `pool` best of each user, after the `skip` best of all, that nothing in their training part is of. They
    stand beside the batch's easy ones, of which there have to be many more (Huang et al. 2020, arXiv 2006.11632, who also found the very
    best too hard: hence `skip`).

    log q is that of the batch: a row brings an item as its own with probability q, or as mined with the share of rows whose user has it
    among theirs, times 1 − (1 − 1/pool)^hard; never both. Over the rows of a batch the softmax so estimates the full one, as with other
    negatives. For the very row that it was drawn for, an item is there more often than log q says, by up to hard / pool: that emphasis
    is what mining is for, and vanishes as batches grow.

    Raises:
        ValueError: a user has fewer than `skip` + `pool` items left to be proposed.
    """

    def __init__(self, *, count_I: np.ndarray, batch_size: int, pool: int, hard: int, skip: int = 0):
        self.count_I, self.batch_size = count_I, batch_size
        self.pool, self.hard, self.skip = pool, hard, skip

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Mine for every user of the training part."""
        log, event = trainer.datamodule.train_log, trainer.datamodule.train_event
        asked = at_the_end(log)
        task.eval()
        best_QK = self.best(*task.vectors(asked), asked)
        task.train()
        self.mined_UK = best_QK.new_zeros(len(log.user_ids), self.pool)
        self.mined_UK[torch.as_tensor(asked.user_row_Q, device=best_QK.device)] = best_QK
        rows_Q = np.bincount(log.user_row_E[event], minlength=len(log.user_ids))[asked.user_row_Q]
        rows_I = np.bincount(best_QK.cpu().numpy().ravel(), weights=rows_Q.repeat(self.pool), minlength=len(self.count_I))
        mined_I = rows_I / len(event) * (1 - (1 - 1 / self.pool) ** self.hard)
        self.log_q_I = torch.as_tensor(log_in_batch(self.count_I, batch_size=self.batch_size, mined_I=mined_I), device=best_QK.device)

    def best(self, query_QD: Tensor, vector_ID: Tensor, asked: Queries) -> Tensor:
        """Rows of the items that each question finds first, after the first `skip`, without those seen: (Q, pool)."""
        targets, seen = (
            ItemLists(torch.as_tensor(offset, device=query_QD.device), torch.as_tensor(row, device=query_QD.device))
            for offset, row in ((asked.target_offset, asked.target_row), (asked.seen_offset, asked.seen_row))
        )
        everyone_Q = torch.arange(len(query_QD), device=query_QD.device)
        found = rank(
            DotProduct(query_QD, vector_ID), everyone_Q, targets, seen, item_count=len(vector_ID), depth=self.skip + self.pool
        ).top_item_row_UK
        if (found < 0).any():
            raise ValueError(f"a user has fewer than skip + pool = {self.skip} + {self.pool} items that they did not take; mine fewer")
        return found[:, self.skip :]

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: RetrievalBatch, batch_idx: int) -> None:
        """Who asks in the batch that comes: the candidates are told of its items alone."""
        self.user_row_B = batch.user_row_B

    def __call__(self, item_row_B: Tensor) -> Candidates:
        """Candidates of one batch, by its rows' items."""
        mined_BK = self.mined_UK.index_select(0, self.user_row_B)
        drawn_BH = torch.randint(self.pool, (len(item_row_B), self.hard), device=item_row_B.device)
        hard_N = mined_BK.gather(1, drawn_BH).flatten()
        return choose(item_row_B, len(self.count_I), (hard_N, *every_rank(hard_N)))

    def log_q(self, row_M: Tensor, prior_MP: Tensor) -> Tensor:
        """log P(the row is a candidate), (M,), over the whole log."""
        return self.log_q_I.index_select(0, row_M)


def at_the_end(log: Log) -> Queries:
    """What each user who is in `log` would ask after their last event there, with nothing to find: their items are seen."""
    user_row_Q = np.flatnonzero(np.diff(log.offset_U1))
    start_Q, end_Q = log.offset_U1[user_row_Q], log.offset_U1[user_row_Q + 1]
    nothing = np.zeros(len(user_row_Q) + 1, np.int64)
    return Queries(
        log, user_row_Q, start_Q, end_Q, log.timestamp_E[end_Q - 1], log.moment_EC[end_Q - 1],
        nothing, np.zeros(0, np.int64), np.concatenate([[0], end_Q]), log.item_row_E, seen_targets_miss,
    )  # fmt: skip
