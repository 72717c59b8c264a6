"""The retrieval task: which items does this user want now? It only wires towers, negatives, loss and optimiser.

Shapes: B rows · L history length · D width · M distinct candidates · R distinct items · I catalogue · Q queries.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pytorch_lightning as L
import torch
import torch.distributed
from torch import Tensor, nn

from data.datamodule import RetrievalBatch, RetrievalData
from data.features import HOUR_MS, ItemClock, pack
from data.log import Log, Queries, hour_after, popularity_clocks
from towers.asking import Asked, every_row
from towers.blocked import of_rows
from towers.evaluation import DotProduct, ItemLists, Ranking, beside_popularity, per_user, rank, slices, summary
from towers.losses import choice_among_shown, sampled_softmax
from towers.negatives import Candidates, distinct
from towers.reliability import Reliability, softmax_reliability
from towers.rowwise_adagrad import RowWiseAdagrad, TablesAndDense, lookup_distinct
from towers.two_tower import prior
from towers.unbiased import judged, tell_diagnostics, weighted_means


def joint(total: Tensor) -> Tensor:
    """A sum over every process, divided by their number.

    Lightning averages gradients over processes. Each divides its weighted losses by this, so that the average is
    Σ w·loss / Σ w (or / N) of the joined batch.
    """
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        total = total / torch.distributed.get_world_size()
    return total


def there(**columns: Tensor | None) -> dict[str, Tensor]:
    """The columns that a batch has: a loss that cannot heed one is not called as if it were not there."""
    return {name: column for name, column in columns.items() if column is not None}


class RetrievalTask(L.LightningModule):
    """Trains a user tower and an item tower. The partials are called with what only the data know.

    `item_tower(width, features, priors)`, `user_tower(width, moment_sizes, users, priors)` and `negatives(count_I, batch_size)` make the
    parts; `ask` says how a batch is asked (`towers.asking`); `loss` is called as `towers.losses.sampled_softmax` is, with `row_B` where
    rows share queries and `negative_N` where not all candidates are negatives; `dense_optimizer(params)` is for the networks, row-wise
    Adagrad at `table_lr` for the embedding tables, `scheduler(optimizer)` for the learning rates of both. `graph(log)` spreads the items'
    own embeddings over who liked what; `dense_optimizer` moves them then. For each of `popularity_half_lives_days` an item's vector has a
    column that says how popular it was just before the hour (train those with batches `by_hour`: a batch has one hour, that of its earliest
    row). `popularity_age_days` is how old those columns may be when they are asked: 0 where they are refreshed by the hour, the length of
    the test where a table is made once and then tested.
    """

    def __init__(
        self,
        *,
        data: RetrievalData,
        width: int,
        item_tower: Callable[..., nn.Module],
        user_tower: Callable[..., nn.Module],
        negatives: Callable[..., Callable[[Tensor], Candidates]],
        temperature: float,
        table_lr: float,
        table_std: float,
        table_start: float,
        popularity_half_lives_days: tuple[float, ...],
        popularity_age_days: float,
        dense_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        loss: Callable[..., Tensor] = sampled_softmax,
        ask: Callable[..., Asked] = every_row,
        graph: Callable[..., nn.Module] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
        ks: tuple[int, ...] = (10, 20, 100),
    ):
        super().__init__()
        log, catalogue = data.log, data.log.catalogue
        self.width, self.temperature, self.ks = width, temperature, tuple(ks)
        self.table_lr, self.table_start, self.age_days = table_lr, table_start, popularity_age_days
        self.loss, self.normaliser, self.beside, self.dense_optimizer = loss, data.bias.normaliser, data.bias.beside, dense_optimizer
        self.ask, self.scheduler = ask, scheduler
        self.history_length = data.history_length
        self.seed = data.seed
        self.item_id = nn.Embedding(len(catalogue.item_ids), width, sparse=True)
        nn.init.normal_(self.item_id.weight, std=table_std)
        met_I = np.bincount(data.train_log.item_row_E, minlength=len(catalogue.item_ids)) > 0
        with torch.no_grad():  # an item that no training event is of starts as its content alone
            self.item_id.weight[torch.as_tensor(~met_I)] = 0.0
        self.graph = graph(log=data.train_log) if graph else None
        self.half_lives_days = tuple(popularity_half_lives_days)
        priors = len(self.half_lives_days)
        self.item_tower = item_tower(width=width, features=catalogue.feature_IF.shape[1], priors=priors)
        self.user_tower = user_tower(width=width, moment_sizes=log.vocabulary.sizes, users=len(log.user_ids), priors=priors)
        self.train_log = data.train_log
        self.clocks: tuple[ItemClock, ...] = ()
        count_I = log.item_count()
        self.make_negatives = partial(negatives, count_I=count_I)
        self.negatives = self.make_negatives(batch_size=data.batch_size)
        self.register_buffer("feature_IF", torch.as_tensor(catalogue.feature_IF), persistent=False)
        self.register_buffer("count_I", torch.as_tensor(count_I), persistent=False)
        self.rankings: dict[str, Ranking] = {}
        self.reliability: dict[str, Reliability] = {}

    def compile_towers(self) -> None:
        """`torch.compile` what a step spends its time in: the user tower, and the item tower's content network where it has one."""
        self.user_tower.compile()
        for part in self.item_tower.children():
            part.compile()

    def clocks_of(self, log: Log) -> tuple[ItemClock, ...]:
        """One clock of `log` for each half-life, on the device of the model."""
        return tuple(
            clock.to(lambda array: torch.as_tensor(array, device=self.device)) for clock in popularity_clocks(log, self.half_lives_days)
        )

    def configure_callbacks(self) -> list[L.Callback]:
        """Negatives that know how many batches are joined, and are told of epochs and batches if they wish to be."""
        if self.trainer.world_size > 1:
            self.negatives = self.make_negatives(batch_size=self.trainer.datamodule.batch_size * self.trainer.world_size)
        return [self.negatives] if isinstance(self.negatives, L.Callback) else []

    def on_fit_start(self) -> None:
        """The clocks of the training part, where the model now is, and what the bias leaves of it."""
        self.clocks = self.clocks_of(self.train_log)
        tell_diagnostics(self.trainer.datamodule.diagnostics(), self.trainer.loggers)

    def training_step(self, batch: RetrievalBatch, _) -> Tensor:
        """One batch: choose candidates, look up what it needs once, ask, and pick the right one."""
        candidates = self.negatives(batch.item_row_B)
        row_M, hour = candidates.row_M, self.hour_known(batch.now_B) if self.clocks else None
        asked_N = torch.cat([row_M, batch.skipped_row_BS.flatten()]) if batch.skipped_row_BS.numel() else row_M
        asked_ND, input_RD, history_BL = self.look_up(asked_N, batch.history_row_BL)
        vector_ND = self.item_tower.vector(asked_ND, self.priors(asked_N, hour))
        asked = self.ask(self.user_tower, batch, input_RD, history_BL)
        vector_MD, skipped_BSD = vector_ND[: len(row_M)], vector_ND[len(row_M) :].view(*batch.skipped_row_BS.shape, vector_ND.shape[1])
        loss = self.loss(
            asked.query_QD,
            vector_MD,
            target_B=candidates.target_B,
            log_q_M=self.negatives.log_q(row_M, self.priors(row_M, hour)),
            weight_B=batch.weight_B,
            temperature=self.temperature,
            weight_sum=joint(self.normaliser(batch.weight_B)),
            **there(row_B=asked.row_B, negative_N=candidates.negative_N),
        )
        if self.beside:
            query_BD = of_rows(asked.query_QD, asked.row_B)
            loss = loss + self.beside * choice_among_shown(
                (query_BD * vector_MD[candidates.target_B]).sum(1) / self.temperature,
                torch.einsum("bd,bsd->bs", query_BD, skipped_BSD) / self.temperature,
                log_odds_BS=batch.log_odds_BS,
                weight_B=batch.choice_weight_B,
                normaliser=lambda weight_B: joint(weight_B.sum()),
            )
        self.epoch_loss += loss.detach()
        self.epoch_rows += len(batch.item_row_B)
        return loss

    def look_up(self, row_M: Tensor, history_row_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the candidates (M, D), of the distinct items of candidates and histories (R, D), and where each event of the
        histories stands among those."""
        if not history_row_BL.numel():  # a tower that reads no history
            input_MD = self.item_tower.input(self.ids(row_M), self.feature_IF.index_select(0, row_M))
            return input_MD, input_MD, history_row_BL
        asked = torch.cat([row_M, history_row_BL.flatten()])
        row_R, place_N = distinct(asked, len(self.count_I))
        input_RD = self.item_tower.input(self.ids(row_R), self.feature_IF.index_select(0, row_R))
        return input_RD.index_select(0, place_N[: len(row_M)]), input_RD, place_N[len(row_M) :].view(history_row_BL.shape)

    def ids(self, row_R: Tensor) -> Tensor:
        """What is learned of distinct items themselves, (R, D): their embeddings, spread over the graph where there is one."""
        return lookup_distinct(self.item_id, row_R) if self.graph is None else self.graph(self.item_id.weight).index_select(0, row_R)

    def hour_known(self, now_B: Tensor) -> Tensor:
        """The hour whose popularity a batch may see: that of its earliest row, or one up to `popularity_age_days` before."""
        return now_B.min() // HOUR_MS - int(24 * self.age_days * torch.rand(()))

    def priors(self, row_M: Tensor, hour: Tensor | None) -> Tensor:
        """Popularity columns (M, P) of items just before an hour; none, whatever the hour, where the model has none."""
        if not self.clocks:
            return torch.zeros(len(row_M), 0, device=row_M.device)
        return prior(torch.stack([clock.before(row_M, hour)[0] for clock in self.clocks], dim=1))

    @torch.no_grad()
    def item_rows(self, log: Log) -> Tensor:
        """The item table just after `log`, (I, 2 D) float32: the input half, then the vector half. In eval mode, as it is exported."""
        id_ID = self.item_id.weight if self.graph is None else self.graph(self.item_id.weight)
        input_ID = self.item_tower.input(id_ID, self.feature_IF)
        row_I, hour = torch.arange(len(input_ID), device=self.device), torch.tensor(hour_after(log), device=self.device)
        clocks, self.clocks = self.clocks, self.clocks_of(log)
        vector_ID = self.item_tower.vector(input_ID, self.priors(row_I, hour))
        self.clocks = clocks
        return torch.cat([input_ID, vector_ID], dim=1)

    @torch.no_grad()
    def queries(self, asked: Queries, input_ID: Tensor) -> Tensor:
        """Query vectors (Q, D) of all questions, some at a time: as many as keep their histories small."""
        block = max(1, min(4096, (1 << 18) // max(1, self.history_length)))
        blocks = [self._query_block(asked, slice(start, start + block), input_ID) for start in range(0, len(asked.user_row_Q), block)]
        return torch.cat(blocks)

    def _query_block(self, asked: Queries, rows: slice, input_ID: Tensor) -> Tensor:
        log = asked.history
        history = pack(
            log.item_row_E, log.event_code_E, log.timestamp_E,
            start_B=asked.start_Q[rows], end_B=asked.end_Q[rows], now_B=asked.now_Q[rows], length=self.history_length,
        )  # fmt: skip
        columns = (
            asked.user_row_Q[rows],
            asked.user_row_Q[rows],
            *history.arrays(),
            asked.moment_QC[rows],
            asked.now_Q[rows],
            asked.now_Q[rows],
            *(np.zeros((len(asked.now_Q[rows]), 0)) for _ in range(3)),
        )
        batch = RetrievalBatch(*(torch.as_tensor(column, device=self.device) for column in columns))
        return self.user_tower.ask(batch, input_ID, batch.history_row_BL)

    def vectors(self, asked: Queries) -> tuple[Tensor, Tensor]:
        """Queries (Q, D) of all questions, and the vectors (I, D) of all items just before them."""
        input_ID, vector_ID = self.item_rows(asked.history).split(self.width, dim=1)
        return self.queries(asked, input_ID), vector_ID

    def rank(self, asked: Queries) -> Ranking:
        """Full ranking of the whole catalogue for all questions."""
        query_QD, vector_ID = self.vectors(asked)
        as_tensor = lambda array: torch.as_tensor(array, device=self.device)  # noqa: E731
        return rank(
            DotProduct(query_QD, vector_ID),
            torch.arange(len(query_QD), device=self.device),
            ItemLists(as_tensor(asked.target_offset), as_tensor(asked.target_row)),
            ItemLists(as_tensor(asked.seen_offset), as_tensor(asked.seen_row)),
            item_count=len(vector_ID),
            depth=max(*self.ks, 100),
            seen_policy=asked.seen_policy,
        )

    def validation_step(self, part: int, _) -> None:
        """Rank the validation questions, each target weighed as training would; means only, since this runs every few epochs."""
        data: RetrievalData = self.trainer.datamodule
        weight_T = torch.as_tensor(data.target_weight(part), device=self.device)
        values = weighted_means(self.rank(data.questions(part)), self.ks, weight_T)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, batch_size=1)

    def test_step(self, part: int, _) -> None:
        """Rank the test questions: means with intervals, slices, and what the lists are like."""
        asked = self.trainer.datamodule.questions(part)
        ranking = self.rank(asked)
        self.rankings["test"] = ranking
        self.test_user_row = torch.as_tensor(asked.user_row_Q)
        self.test_history_length = torch.as_tensor(np.diff(asked.seen_offset))
        seen = ItemLists(torch.as_tensor(asked.seen_offset), torch.as_tensor(asked.seen_row))
        content_IF = self.feature_IF if float(self.feature_IF.std(0).max()) > 0 else self.item_rows(asked.history)[:, self.width :]
        figures = summary(per_user(ranking, self.ks))
        figures |= slices(ranking, self.ks, history_length_U=self.test_history_length.to(self.device), train_count_I=self.count_I)
        figures |= beside_popularity(ranking, seen, min(self.ks), train_count_I=self.count_I, item_vector_ID=content_IF)
        vectors = self.vectors(asked)
        figures |= judged(self.trainer.datamodule.log, part, asked, *vectors)
        there = ItemLists(*(column.to(self.device) for column in seen))
        self.reliability["softmax"] = softmax_reliability(*vectors, ranking.targets, there, temperature=self.temperature)
        figures |= {"users": float(len(ranking.user_row_U)), "seen_targets": float(ranking.seen_target_count)}
        self.log_dict({f"test/{name}": value for name, value in figures.items()}, batch_size=1)

    def on_train_epoch_start(self) -> None:
        """What is random in an epoch depends on seed and epoch alone: a resumed run draws what it would have drawn."""
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)
        self.epoch_loss = torch.zeros((), device=self.device)
        self.epoch_rows = 0
        self.epoch_start, self.epoch_end = time.perf_counter(), None

    def on_validation_start(self) -> None:
        """What comes now is not training."""
        self.epoch_end = time.perf_counter()

    def pairs_per_second(self) -> float:
        """Rows of this epoch so far by its seconds of training so far."""
        return self.epoch_rows * self.trainer.world_size / max((self.epoch_end or time.perf_counter()) - self.epoch_start, 1e-9)

    def on_train_epoch_end(self) -> None:
        """Mean loss and speed of the epoch."""
        steps = max(self.trainer.num_training_batches, 1)
        self.log_dict({"train/loss": self.epoch_loss / steps, "train/pairs_per_second": self.pairs_per_second()})

    def configure_optimizers(self) -> dict[str, object]:
        """Row-wise Adagrad for the tables that are looked up sparsely, `dense_optimizer` for the rest; the learning rates of both by
        `scheduler`, epoch by epoch, where there is one."""
        looked_up = [] if self.graph else [self.item_id.weight]  # a graph moves every row at each step
        tables = [*looked_up, *self.user_tower.tables()]
        dense = [p for p in self.parameters() if p.requires_grad and not any(p is table for table in tables)]
        optimizers = [RowWiseAdagrad(tables, lr=self.table_lr, start=self.table_start)] if tables else []
        optimizers += [self.dense_optimizer(dense)] if dense else []
        optimizer = TablesAndDense(optimizers) if len(optimizers) > 1 else optimizers[0]
        return {"optimizer": optimizer} | ({"lr_scheduler": self.scheduler(optimizer)} if self.scheduler else {})
