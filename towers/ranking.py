"""The ranking task: of what was retrieved, what comes first? It only wires: ranker, losses, figures, and the two stages together.

Shapes: B groups of a batch · K items per group · X numbers · T tasks · H heads · D width · I catalogue · Q queries.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor, nn

from data.features import NUMBERS, PackedHistory, candidate_numbers, profile
from data.log import Log
from data.split import TEST, VALIDATION
from towers.calibration import platt
from towers.evaluation import ItemLists, Ranking, beside_popularity, per_user, rank, removed, slices, summary
from towers.losses import weighted_bce
from towers.metrics import bootstrap_difference
from towers.ranker import HEADS, TASKS
from towers.ranking_batch import DURATION, RankingBatch, targets
from towers.ranking_data import RankingData, ask, history_at
from towers.ranking_figures import beside_retrieval, judged, reliable
from towers.reliability import Reliability
from towers.retrieval import joint
from towers.unbiased import tell_diagnostics

logger = logging.getLogger(__name__)


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
    """Trains a ranker on groups. `ranker(width, moment_sizes, query, candidate, number, profile, answers)` makes it, `optimizer(params)`
    trains it.

    The loss is the weighted sum over tasks of the weighted cross-entropy over known targets, all of which are places in [0, 1];
    `task_weight` says how much each counts. A task without labels trains nothing. `averaging()` is the callback that makes the weights that
    are validated, saved and served from those that are trained.
    """

    def __init__(
        self, *, data: RankingData, ranker: Callable[..., nn.Module], task_weight: Mapping[str, float],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], averaging: Callable[[], L.Callback],
        ks: tuple[int, ...] = (10, 20, 100),
    ):  # fmt: skip
        super().__init__()
        self.ranker = ranker(
            width=data.model.width, moment_sizes=data.log.vocabulary.sizes, query=data.query_spread, candidate=data.candidate_spread,
            number=data.number_spread, profile=data.profile_spread, answers=data.answers,
        )  # fmt: skip
        self.logits = self.ranker.logits
        self.answers = data.answers._replace(watch_time=self.ranker.watch_time)  # the one that moves with the model
        self.normaliser, self.averaging = data.bias.normaliser, averaging
        self.task_weight = {task: task_weight[task] for task, known in zip(TASKS, data.answers.known, strict=True) if known}
        self.make_optimizer, self.ks, self.seed = optimizer, tuple(ks), data.seed
        self.register_buffer("row_IW", data.model.row_IW, persistent=False)
        self.width = data.model.width
        self.register_buffer("count_I", torch.as_tensor(data.log.item_count()), persistent=False)
        self.rankings: dict[str, Ranking] = {}
        self.reliability: dict[str, Reliability] = {}

    def configure_callbacks(self) -> list[L.Callback]:
        """The averaging of weights, which belongs to what is trained rather than to how."""
        return [self.averaging()]

    def compile_towers(self) -> None:
        """`torch.compile` the ranker as a step calls it."""
        self.logits = torch.compile(self.ranker.logits)

    def predict(self, batch: RankingBatch) -> Tensor:
        """Logits (B, K, T) of a batch."""
        candidate_BKD = self.row_IW[batch.item_row_BK, : self.width]
        return self.logits(batch.query_BD, batch.moment_BC, batch.profile_BU, candidate_BKD, batch.number_BKX)

    def training_step(self, batch: RankingBatch, _) -> Tensor:
        """Each task by the targets it knows."""
        loss = self.loss(batch)
        self.epoch_loss += loss.detach()
        self.epoch_rows += int(batch.there_BK.sum())
        return loss

    def loss(self, batch: RankingBatch) -> Tensor:
        """Σ over tasks of task_weight · Σ w·CE / Σ w."""
        logit_BKT = self.predict(batch)
        return sum(
            share
            * weighted_bce(
                logit_BKT[..., task], batch.target_BKT[..., task], weight_B=batch.weight_BKT[..., task],
                normaliser=lambda weight_BK: joint(self.normaliser(weight_BK)),
            )
            for task, share in ((TASKS.index(name), share) for name, share in self.task_weight.items())
        )  # fmt: skip

    def validation_step(self, part: int, _) -> None:
        """Loss and figures of the held-out groups."""
        batch = self.trainer.datamodule.held(part, self.device)
        self.log("val/loss", self.loss(batch), batch_size=1)
        self.log_dict({f"val/{name}": value for name, value in self.judge(batch).items()}, batch_size=1)

    def on_fit_start(self) -> None:
        """What the bias leaves of the rows to learn from."""
        tell_diagnostics(self.trainer.datamodule.diagnostics(), self.trainer.loggers)

    def on_test_start(self) -> None:
        """Calibrate by the groups that were held out: they chose the epoch, and trained no weight."""
        data: RankingData = self.trainer.datamodule
        if len(data.choose_groups.now_G):
            self.calibrate(data.held(VALIDATION, self.device))
        else:
            logger.warning("ranker: no held-out group to calibrate by; probabilities are the bare ones")

    @torch.no_grad()
    def calibrate(self, batch: RankingBatch) -> None:
        """Set the slope and shift of every task that has labels."""
        logit_BKT = self.predict(batch)
        for task in (TASKS.index(name) for name in self.task_weight):
            columns = (table[..., task].flatten().float().cpu().numpy() for table in (logit_BKT, batch.target_BKT, batch.weight_BKT))
            self.ranker.slope_T[task], self.ranker.shift_T[task] = platt(*columns)

    def test_step(self, part: int, _) -> None:
        """Figures of the test groups; then the whole way, retrieval and ranking, against retrieval alone."""
        data: RankingData = self.trainer.datamodule
        batch = data.held(part, self.device)
        figures = self.judge(batch) | self.beside_retrieval(batch) if len(batch.query_BD) else {}
        self.reliability = self.reliable(batch)
        if len(data.asked.user_row_Q):
            reranked, alone = self.two_stages(data, self.by_ranker(data)), self.two_stages(data, by_dot)
            self.rankings["test"] = reranked
            self.test_user_row = torch.as_tensor(data.asked.user_row_Q)
            self.test_history_length = torch.as_tensor(np.diff(data.asked.seen_offset))
            figures |= summary(per_user(reranked, self.ks))
            mine, theirs = per_user(reranked, self.ks), per_user(alone, self.ks)
            figures |= {f"retrieval_alone/{name}": float(value.mean()) for name, value in theirs.items()}
            figures |= {"users": float(len(reranked.user_row_U)), "seen_targets": float(reranked.seen_target_count)}
            for name in (f"ndcg_at_{self.ks[1]}", f"recall_at_{self.ks[1]}"):
                lead = bootstrap_difference(mine[name], theirs[name])
                figures |= {f"lead_over_retrieval/{name}{end}": value for end, value in zip(("", "_low", "_high"), lead, strict=True)}
            count_I, seen = self.count_I.cpu(), ItemLists(torch.as_tensor(data.asked.seen_offset), torch.as_tensor(data.asked.seen_row))
            figures |= slices(reranked, self.ks, history_length_U=self.test_history_length, train_count_I=count_I)
            content_IF = torch.as_tensor(data.log.catalogue.feature_IF)
            content_IF = content_IF if float(content_IF.std(0).max()) > 0 else data.vectors(TEST)
            figures |= beside_popularity(reranked, seen, min(self.ks), train_count_I=count_I, item_vector_ID=content_IF)
        self.log_dict({f"test/{name}": float(value) for name, value in figures.items()}, batch_size=1)

    @torch.no_grad()
    def judge(self, batch: RankingBatch) -> dict[str, float]:
        """Figures of every head, and of value against what each item turned out to be worth."""
        logit_BKT = self.predict(batch)
        return judged(logit_BKT, self.ranker.answer(logit_BKT, batch.number_BKX), batch, self.worth(batch))

    @torch.no_grad()
    def reliable(self, batch: RankingBatch) -> dict[str, Reliability]:
        """How often what each head calls likely comes true."""
        return reliable(self.ranker.answer(self.predict(batch), batch.number_BKX), batch)

    @torch.no_grad()
    def beside_retrieval(self, batch: RankingBatch) -> dict[str, float]:
        """Value's order of what was shown against retrieval's own."""
        value_BK = self.ranker.answer(self.predict(batch), batch.number_BKX)[..., HEADS.index("value")]
        return beside_retrieval(value_BK, batch.number_BKX[..., NUMBERS.index("dot")], batch, self.worth(batch))

    def worth(self, batch: RankingBatch) -> Tensor:
        """What each item turned out to be worth, (B, K), as the log tells it: nothing is undone."""
        return self.ranker.worth(targets(batch.label_BKY, batch.number_BKX[..., DURATION].contiguous(), self.answers))

    def by_ranker(self, data: RankingData) -> Order:
        """The order, by value, of what was proposed for the test questions."""
        asked, ranker = data.asked, self.ranker.cpu()
        clock = asked.history.clock(half_life_days=data.half_life_days)

        def order(proposed: Proposed) -> Tensor:
            number_BKX = candidate_numbers(
                dot_BK=proposed.dot_BK.nan_to_num(neginf=-1.0).numpy(), item_row_BK=proposed.item_row_BK.numpy(), history=proposed.history,
                now_B=asked.now_Q[proposed.question_B], clock=clock, **data.of_items(),
            )  # fmt: skip
            candidate_BKD = data.model.row_IW[proposed.item_row_BK, : self.width]
            moment_BC = torch.as_tensor(asked.moment_QC[proposed.question_B])
            profile_BU = torch.as_tensor(profile(proposed.history, data.log.catalogue.genre_IG))
            return ranker(proposed.query_BD, moment_BC, profile_BU, candidate_BKD, torch.as_tensor(number_BKX))[..., HEADS.index("value")]

        return order

    @torch.no_grad()
    def two_stages(self, data: RankingData, order: Order) -> Ranking:
        """Full ranking in two stages: retrieval proposes `depth` items in the running, `order` scores them, everything else is out."""
        asked = data.asked
        history = history_at(asked.history, asked.start_Q, asked.end_Q, asked.now_Q, data.model.history_length)
        query_QD = ask(data.model, history, asked.moment_QC)
        seen = ItemLists(torch.as_tensor(asked.seen_offset), torch.as_tensor(asked.seen_row))
        targets = ItemLists(torch.as_tensor(asked.target_offset), torch.as_tensor(asked.target_row))
        vector_ID = data.vectors(TEST)
        gone, _ = removed(seen, targets, asked.seen_policy, item_count=len(vector_ID))
        gone_user = gone.user_index()

        def score(question_B: Tensor) -> Tensor:
            score_BI = query_QD[question_B] @ vector_ID.T
            mine = torch.isin(gone_user, question_B)
            score_BI[gone_user[mine] - question_B[0], gone.item_row[mine]] = -torch.inf
            dot_BK, item_row_BK = score_BI.topk(min(data.depth, score_BI.shape[1]), dim=1)
            part = PackedHistory(*(array[question_B.numpy()] for array in history.arrays()))
            ordered_BK = order(Proposed(question_B.numpy(), query_QD[question_B], part, dot_BK, item_row_BK))
            return torch.full_like(score_BI, -torch.inf).scatter_(1, item_row_BK, ordered_BK.masked_fill(dot_BK.isneginf(), -torch.inf))

        everyone = torch.arange(len(query_QD))
        return rank(
            score, everyone, targets, seen, item_count=len(vector_ID), depth=max(*self.ks, 100), block_users=256,
            seen_policy=asked.seen_policy,
        )  # fmt: skip

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
