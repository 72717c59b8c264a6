"""Batches for retrieval: tensors live on the training device, a batch is a slice of a shuffled index.

Shapes: B rows · L history length · C moment columns · E events · S places of a slate · T targets · I catalogue.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.beside import Beside, beside, nothing_beside
from data.bias import Bias
from data.features import MOMENT, pack
from data.impressions import Rows, observed
from data.log import Log, Queries, days_before_end, queries, target_events
from data.split import TEST, TRAIN, VALIDATION

MADE_AT_ONCE = 16_384
"""Rows whose columns are gathered in one go: a gather of one small batch is mostly the call."""


class RetrievalBatch(NamedTuple):
    """Who wanted what, when (ms UTC), after which history, and what stood beside it and was skipped (`data.beside`; S = 0 where that is not
    asked). int64 but for weights and odds (float32)."""

    user_row_B: Tensor
    item_row_B: Tensor
    history_row_BL: Tensor
    event_code_BL: Tensor
    age_minutes_BL: Tensor
    moment_BC: Tensor
    weight_B: Tensor
    now_B: Tensor
    skipped_row_BS: Tensor
    log_odds_BS: Tensor
    choice_weight_B: Tensor


class Events(NamedTuple):
    """The columns of a log as tensors on one device."""

    offset_U1: Tensor
    user_row_E: Tensor
    item_row_E: Tensor
    event_code_E: Tensor
    timestamp_E: Tensor
    moment_EC: Tensor
    weight_E: Tensor
    beside: Beside

    @classmethod
    def of(cls, log: Log, weight_E: np.ndarray, device: torch.device, beside: Beside | None = None) -> "Events":
        """`log` on `device`, with what stood beside each event, where that is asked for."""
        columns = (log.offset_U1, log.user_row_E, log.item_row_E, log.event_code_E, log.timestamp_E, log.moment_EC, weight_E)
        beside = nothing_beside(len(log.item_row_E)) if beside is None else beside
        return cls(*(torch.as_tensor(column, device=device) for column in columns), beside.on(device))

    def batch(self, event_B: Tensor, *, length: int) -> RetrievalBatch:
        """Each event as the answer to the question asked just before it happened."""
        user_row_B, item_row_B, now_B = self.user_row_E[event_B], self.item_row_E[event_B], self.timestamp_E[event_B]
        history = pack(
            self.item_row_E, self.event_code_E, self.timestamp_E,
            start_B=self.offset_U1[user_row_B], end_B=event_B, now_B=now_B, length=length,
        )  # fmt: skip
        return RetrievalBatch(
            user_row_B, item_row_B, *history.arrays(), self.moment_EC[event_B], self.weight_E[event_B], now_B,
            *self.beside.of(event_B, item_row_B),
        )  # fmt: skip


def shuffled(timestamp_N: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Any row beside any other: the order of one epoch, (N,) or a little shorter."""
    return torch.randperm(len(timestamp_N), generator=generator)


def by_hour(timestamp_N: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """A batch is a stretch of time, the stretches in any order: negatives are of the same days as positives, and what changes by the hour
    is the same for all rows of a batch. Where the stretches begin shifts from epoch to epoch."""
    in_time = timestamp_N.cpu().argsort(stable=True)
    first = int(torch.randint(min(batch_size, len(in_time)), (1,), generator=generator)) if len(in_time) >= 2 * batch_size else 0
    stretches = in_time[first:].split(batch_size)
    whole = [stretch for stretch in stretches if len(stretch) == batch_size] or [in_time]
    return torch.cat([whole[place] for place in torch.randperm(len(whole), generator=generator).tolist()])


def by_user(timestamp_N: Tensor, batch_size: int, generator: torch.Generator, *, stretch: int = 256) -> Tensor:
    """Rows as the log has them, each user's one after another, in stretches of `stretch` in any order: a batch is much of few users, and
    where each user is asked once (`towers.asking.every_user`) that much less work. Where stretches begin shifts from epoch to epoch."""
    shift = int(torch.randint(len(timestamp_N), (1,), generator=generator))
    stretches = torch.arange(len(timestamp_N)).roll(shift).split(stretch)
    return torch.cat([stretches[place] for place in torch.randperm(len(stretches), generator=generator).tolist()])


class Batches:
    """One epoch: the rows of this rank in an order that (seed, epoch) alone decides, so that a resumed run sees what it would have seen.

    The rows that do not fill the last batch wait for another epoch's shuffle. With fewer rows than a batch, the batch is all of them.
    Ranks take turns within each batch, so that all see the same stretch of an ordered epoch. `make` gathers the columns of many rows at
    once, and batches are slices of them.
    """

    def __init__(
        self, row_N: Tensor, make: Callable[[Tensor], NamedTuple], *, order: Callable[[int, torch.Generator], Tensor], batch_size: int,
        seed: int, epoch: int, rank: int = 0, ranks: int = 1,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order_N = order(batch_size * ranks, generator)
        order_N = order_N[rank::ranks][: len(order_N) // ranks]
        self.row_N = row_N[order_N.to(row_N.device)]
        self.make = make
        self.batch_size = min(batch_size, len(self.row_N))

    def __len__(self) -> int:
        return len(self.row_N) // self.batch_size

    def __iter__(self) -> Iterator[NamedTuple]:
        for row_S in self.row_N[: len(self) * self.batch_size].split(max(1, MADE_AT_ONCE // self.batch_size) * self.batch_size):
            several = self.make(row_S)
            yield from map(several._make, zip(*(column.split(self.batch_size) for column in several), strict=True))


def each_alone(
    events: Events, row_N: Tensor, *, length: int, order: Callable[[Tensor, int, torch.Generator], Tensor], batch_size: int, seed: int,
    epoch: int, rank: int, ranks: int,
) -> Batches:  # fmt: skip
    """One epoch of questions, each with a history of its own: `RetrievalBatch`."""
    return Batches(
        row_N, lambda event_B: events.batch(event_B, length=length), order=partial(order, events.timestamp_E[row_N]), batch_size=batch_size,
        seed=seed, epoch=epoch, rank=rank, ranks=ranks,
    )  # fmt: skip


class WholeLists:
    """One epoch of users with all that they chose, for `towers.asking.every_list`. Called as `each_alone` is.

    A row is a question, and its history is its own event: a user is the sum of theirs. A batch is whole users, of some `batch_size` rows
    in all, as `order` has the users by when they were last there. `length` is for those who are asked later. Ranks take turns within
    each batch.
    """

    def __init__(
        self, events: Events, row_N: Tensor, *, length: int, order: Callable[[Tensor, int, torch.Generator], Tensor], batch_size: int,
        seed: int, epoch: int, rank: int = 0, ranks: int = 1,
    ):  # fmt: skip
        self.events, self.row_N = events, row_N
        count_U = events.user_row_E[row_N].unique_consecutive(return_counts=True)[1].cpu()
        end_U = count_U.cumsum(0)
        users = max(1, min(len(count_U), round(batch_size * len(count_U) / len(row_N)))) * ranks
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order_U = order(events.timestamp_E.cpu()[row_N.cpu()[end_U - 1]], users, generator)
        self.batches = [users_S[rank::ranks] for users_S in order_U.split(users) if len(users_S) >= ranks]
        self.start_U, self.count_U = end_U - count_U, count_U

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[RetrievalBatch]:
        for user_S in self.batches:
            count_S = self.count_U[user_S]
            place_B = torch.arange(int(count_S.sum())) + torch.repeat_interleave(
                self.start_U[user_S] - (count_S.cumsum(0) - count_S), count_S
            )
            batch = self.events.batch(self.row_N[place_B.to(self.row_N.device)], length=0)
            yield batch._replace(history_row_BL=batch.item_row_B[:, None])


def whole_part(part: int, *, there: bool) -> DataLoader:
    """A loader of one batch, the number of a part, or of none: an evaluation asks all its questions at once."""
    return DataLoader([part] if there else [], batch_size=None)


def _rows(log: Log, event_N: np.ndarray) -> Rows:
    device_N = log.moment_EC[event_N, MOMENT.index("device")]
    return Rows(log.item_row_E[event_N], log.propensity_E[event_N], log.position_E[event_N], device_N)


class RetrievalData(L.LightningDataModule):
    """Rows, questions and weights of one log.

    `bias` says what each training row weighs, by how likely it was to be shown and looked at (`data.bias`).
    `recency_half_life_days` halves the weight of a row with its age; null weighs all alike. `order` is `shuffled`, `by_hour` or `by_user`.
    `epoch` makes the batches of one: `each_alone`, a history for each question, or `data.sequences.Packed`, a question at each event.

    Raises:
        ValueError: the training part has no liked event.
    """

    def __init__(
        self,
        log: Log,
        *,
        batch_size: int,
        history_length: int,
        bias: Bias,
        recency_half_life_days: float | None,
        order: Callable[[Tensor, int, torch.Generator], Tensor],
        seed: int,
        epoch: Callable[..., Iterable[NamedTuple]] = each_alone,
    ):
        super().__init__()
        self.log = log
        self.batch_size = batch_size
        self.history_length = history_length
        self.order, self.epoch = order, epoch
        self.seed = seed
        self._asked: dict[int, Queries] = {}
        self._target_weight: dict[int, np.ndarray] = {}
        self.train_log = log.before(VALIDATION)
        self.train_event = self.train_log.liked(TRAIN)
        if not len(self.train_event):
            raise ValueError(
                f"the training part has no liked event among {len(self.train_log.item_row_E):,}; is liked_from={log.liked_from} too high?"
            )
        self.bias, self.observed = bias, observed(log, before=VALIDATION)
        self.weight_E = np.zeros(len(self.train_log.item_row_E), np.float32)
        self.weight_E[self.train_event] = bias.click_weight(self.observed, _rows(self.train_log, self.train_event))
        age_E = np.ones(len(self.weight_E), np.float32)
        if recency_half_life_days is not None:
            age_E = np.exp2(-days_before_end(self.train_log) / recency_half_life_days).astype(np.float32)
        self.weight_E *= age_E
        train_E = log.part_E < VALIDATION
        self.beside = beside(log, bias, self.observed).where(train_E).weighed(age_E) if bias.beside else None

    def diagnostics(self) -> dict[str, float]:
        """What the bias leaves of the training rows and of the validation targets (`data.overlap`), by name."""
        rows = {"train": _rows(self.train_log, self.train_event), "val": _rows(self.log, target_events(self.log, VALIDATION))}
        found = {part: self.bias.diagnosed(self.observed, of).numbers() for part, of in rows.items()}
        return {f"{part}_{name}": value for part, numbers in found.items() for name, value in numbers.items()}

    def target_weight(self, part: int) -> np.ndarray:
        """What each target of `questions(part)` weighs by the bias of training, float32 (T,): what a model is chosen by is as biased as
        what it learns from. Of the log, the estimators know the training part alone."""
        if part not in self._target_weight:
            self._target_weight[part] = self.bias.click_weight(self.observed, _rows(self.log, target_events(self.log, part)))
        return self._target_weight[part]

    def train_dataloader(self) -> Iterable[NamedTuple]:
        """This epoch's batches, on the trainer's device."""
        trainer = self.trainer
        device = trainer.strategy.root_device
        events = Events.of(self.train_log, self.weight_E, device, self.beside)
        return self.epoch(
            events, torch.as_tensor(self.train_event, device=device), length=self.history_length, order=self.order,
            batch_size=self.batch_size, seed=self.seed, epoch=trainer.current_epoch, rank=trainer.global_rank, ranks=trainer.world_size,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader:
        """The validation part as one batch: its number, for `questions`. Empty where the split has no such part."""
        return whole_part(VALIDATION, there=bool(len(self.questions(VALIDATION).user_row_Q)))

    def test_dataloader(self) -> DataLoader:
        """The test part as one batch: its number, for `questions`."""
        return whole_part(TEST, there=bool(len(self.questions(TEST).user_row_Q)))

    def questions(self, part: int) -> Queries:
        """All questions of a part, made once."""
        if part not in self._asked:
            self._asked[part] = queries(self.log, part)
        return self._asked[part]

    def transfer_batch_to_device(self, batch: NamedTuple, device: torch.device, dataloader_idx: int) -> NamedTuple:
        """Nothing to do: batches are cut on the device, and questions are moved by the task in blocks."""
        return batch
