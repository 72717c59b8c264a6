"""The ranking task: of what was retrieved, what comes first? It only wires: ranker, losses, figures, and the two stages together.

Shapes: B groups of a batch · K items per group · X numbers · H heads · D width · I catalogue · Q queries.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor, nn

from data.features import PackedHistory, candidate_numbers
from data.log import Log
from data.split import TEST
from towers.evaluation import ItemLists, Ranking, beside_popularity, per_user, rank, slices, summary
from towers.losses import weighted_bce, weighted_squared_error
from towers.metrics import auc, bootstrap_difference, calibration_error, grouped_auc, log_loss
from towers.ranking_data import RankingBatch, RankingData, ask, history_at


class Proposed(NamedTuple):
    """What retrieval proposes for B test questions, best first: dot products and item rows (B, K), beside the questions themselves."""

    question_B: np.ndarray
    query_BD: Tensor
    history: PackedHistory
    dot_BK: Tensor
    item_row_BK: Tensor


Order = Callable[[Proposed], Tensor]
"""Scores (B, K) of what was proposed."""


def by_dot(proposed: Proposed) -> Tensor:
    """Retrieval's own order."""
    return proposed.dot_BK


class RankingTask(L.LightningModule):
    """Trains a ranker on groups. `ranker(width, moment_sizes, number_mean, number_std)` makes it, `optimizer(params)` trains it.

    The loss is the sum over heads of the weighted loss over known labels; `head_weight` says how much each counts.
    """

    def __init__(
        self, *, data: RankingData, ranker: Callable[..., nn.Module], head_weight: tuple[float, ...],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], ks: tuple[int, ...] = (10, 20, 100),
    ):  # fmt: skip
        super().__init__()
        self.ranker = ranker(
            width=data.model.width, moment_sizes=data.log.vocabulary.sizes, number_mean=data.number_mean, number_std=data.number_std
        )
        self.logits = self.ranker.logits
        self.head_weight, self.make_optimizer, self.ks, self.seed = tuple(head_weight), optimizer, tuple(ks), data.seed
        self.register_buffer("row_IW", data.model.row_IW, persistent=False)
        self.width = data.model.width
        self.register_buffer("count_I", torch.as_tensor(data.log.item_count()), persistent=False)
        self.rankings: dict[str, Ranking] = {}

    def compile_towers(self) -> None:
        """`torch.compile` the ranker as a step calls it."""
        self.logits = torch.compile(self.ranker.logits)

    def predict(self, batch: RankingBatch) -> Tensor:
        """Logits (B, K, H) of a batch."""
        return self.logits(batch.query_BD, batch.moment_BC, self.row_IW[batch.item_row_BK, : self.width], batch.number_BKX)

    def training_step(self, batch: RankingBatch, _) -> Tensor:
        """Each head by its own loss over the labels it knows."""
        loss = self.loss(batch)
        self.epoch_loss += loss.detach()
        self.epoch_rows += int((batch.weight_BK > 0).sum())
        return loss

    def loss(self, batch: RankingBatch) -> Tensor:
        """Click and completion by cross-entropy, seconds by squared error of log(1 + seconds)."""
        logit_BKH, label, weight = self.predict(batch), batch.label_BKY, batch.weight_BK
        losses = (
            weighted_bce(logit_BKH[..., 0], label[..., 0], weight_B=weight),
            weighted_bce(logit_BKH[..., 1], label[..., 1], weight_B=weight),
            weighted_squared_error(logit_BKH[..., 2], label[..., 2].log1p(), weight_B=weight),
        )
        return sum(part * loss for part, loss in zip(self.head_weight, losses, strict=True))

    def validation_step(self, part: int, _) -> None:
        """Loss and click figures of the held-out groups."""
        batch = self.trainer.datamodule.held(part, self.device)
        self.log("val/loss", self.loss(batch), batch_size=1)
        self.log_dict({f"val/{name}": value for name, value in self.judge(batch).items()}, batch_size=1)

    def test_step(self, part: int, _) -> None:
        """Click figures of the test groups; then the whole way, retrieval and ranking, against retrieval alone."""
        data: RankingData = self.trainer.datamodule
        batch = data.held(part, self.device)
        figures = self.judge(batch) if len(batch.query_BD) else {}
        if len(data.asked.user_row_Q):
            reranked, alone = self.two_stages(data, self.by_ranker(data)), self.two_stages(data, by_dot)
            self.rankings["test"] = reranked
            self.test_user_row = torch.as_tensor(data.asked.user_row_Q)
            self.test_history_length = torch.as_tensor(np.diff(data.asked.seen_offset))
            figures |= summary(per_user(reranked, self.ks))
            mine, theirs = per_user(reranked, self.ks), per_user(alone, self.ks)
            figures |= {f"retrieval_alone/{name}": float(value.mean()) for name, value in theirs.items()}
            for name in (f"ndcg_at_{self.ks[1]}", f"recall_at_{self.ks[1]}"):
                lead = bootstrap_difference(mine[name], theirs[name])
                figures |= {f"lead_over_retrieval/{name}{end}": value for end, value in zip(("", "_low", "_high"), lead, strict=True)}
            count_I, seen = self.count_I.cpu(), ItemLists(torch.as_tensor(data.asked.seen_offset), torch.as_tensor(data.asked.seen_row))
            figures |= slices(reranked, self.ks, history_length_U=self.test_history_length, train_count_I=count_I)
            content_IF = torch.as_tensor(data.log.catalogue.feature_IF)
            content_IF = content_IF if float(content_IF.std(0).max()) > 0 else data.vectors(TEST)
            figures |= beside_popularity(reranked, seen, min(self.ks), train_count_I=count_I, item_vector_ID=content_IF)
        self.log_dict({f"test/{name}": float(value) for name, value in figures.items()}, batch_size=1)

    def judge(self, batch: RankingBatch) -> dict[str, float]:
        """AUC (over all, and within groups), log loss and calibration of the click head, where both labels are there."""
        with torch.no_grad():
            logit_BK = self.predict(batch)[..., 0]
        known = ~batch.label_BKY[..., 0].isnan() & (batch.weight_BK > 0)
        logit, label = logit_BK[known].cpu(), batch.label_BKY[..., 0][known].cpu()
        group = torch.arange(len(logit_BK), device=known.device)[:, None].expand_as(known)[known].cpu()
        if label.min() == label.max():
            return {"click_log_loss": log_loss(logit, label)}
        clicked = known & (batch.label_BKY[..., 0] > 0)
        mixed = bool((clicked.any(1) & (known & ~clicked).any(1)).any())  # where every request showed one item, none has an order
        within = {"click_gauc": grouped_auc(logit, label, group).value} if mixed else {}
        return within | {
            "click_auc": auc(logit, label),
            "click_log_loss": log_loss(logit, label),
            "click_calibration_error": calibration_error(logit.sigmoid(), label),
        }

    def by_ranker(self, data: RankingData) -> Order:
        """The ranker's order of what was proposed for the test questions."""
        asked, catalogue, ranker = data.asked, data.log.catalogue, self.ranker.cpu()
        clock = asked.history.clock(half_life_days=data.half_life_days)

        def order(proposed: Proposed) -> Tensor:
            number_BKX = candidate_numbers(
                dot_BK=proposed.dot_BK.nan_to_num(neginf=-1.0).numpy(), item_row_BK=proposed.item_row_BK.numpy(), history=proposed.history,
                now_B=asked.now_Q[proposed.question_B], clock=clock, genre_IG=catalogue.genre_IG, release_day_I=catalogue.release_day_I,
            )  # fmt: skip
            candidate_BKD = data.model.row_IW[proposed.item_row_BK, : self.width]
            moment_BC = torch.as_tensor(asked.moment_QC[proposed.question_B])
            return ranker.logits(proposed.query_BD, moment_BC, candidate_BKD, torch.as_tensor(number_BKX))[..., 0]

        return order

    @torch.no_grad()
    def two_stages(self, data: RankingData, order: Order) -> Ranking:
        """Full ranking in two stages: retrieval proposes `depth` unseen items, `order` scores them, everything else is out."""
        asked = data.asked
        history = history_at(asked.history, asked.start_Q, asked.end_Q, asked.now_Q, data.model.history_length)
        query_QD = ask(data.model, history, asked.moment_QC)
        seen = ItemLists(torch.as_tensor(asked.seen_offset), torch.as_tensor(asked.seen_row))
        targets = ItemLists(torch.as_tensor(asked.target_offset), torch.as_tensor(asked.target_row))
        seen_user, vector_ID = seen.user_index(), data.vectors(TEST)

        def score(question_B: Tensor) -> Tensor:
            score_BI = query_QD[question_B] @ vector_ID.T
            mine = torch.isin(seen_user, question_B)
            score_BI[seen_user[mine] - question_B[0], seen.item_row[mine]] = -torch.inf
            dot_BK, item_row_BK = score_BI.topk(min(data.depth, score_BI.shape[1]), dim=1)
            part = PackedHistory(*(array[question_B.numpy()] for array in history.arrays()))
            ordered_BK = order(Proposed(question_B.numpy(), query_QD[question_B], part, dot_BK, item_row_BK))
            return torch.full_like(score_BI, -torch.inf).scatter_(1, item_row_BK, ordered_BK.masked_fill(dot_BK.isneginf(), -torch.inf))

        everyone = torch.arange(len(query_QD))
        return rank(score, everyone, targets, seen, item_count=len(vector_ID), depth=max(*self.ks, 100), block_users=256)

    def item_rows(self, log: Log) -> Tensor:
        """The item table of the retrieval model, (I, 2 D), as it was saved."""
        return self.row_IW.float()

    def on_train_epoch_start(self) -> None:
        """What is random in an epoch depends on seed and epoch alone."""
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)
        self.epoch_loss, self.epoch_rows = torch.zeros((), device=self.device), 0
        self.epoch_start, self.epoch_end = time.perf_counter(), None

    def on_validation_start(self) -> None:
        """What comes now is not training."""
        self.epoch_end = time.perf_counter()

    def pairs_per_second(self) -> float:
        """Judged items of this epoch so far by its seconds of training so far."""
        return self.epoch_rows * self.trainer.world_size / max((self.epoch_end or time.perf_counter()) - self.epoch_start, 1e-9)

    def on_train_epoch_end(self) -> None:
        """Mean loss and speed of the epoch."""
        self.log_dict(
            {"train/loss": self.epoch_loss / max(self.trainer.num_training_batches, 1), "train/pairs_per_second": self.pairs_per_second()}
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser for everything."""
        return self.make_optimizer(self.ranker.parameters())
