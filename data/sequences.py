"""Batches for training at every position: windows of many users packed into rows, and a question at each event of a window.

A state that is read off one event answers what comes next, and the pass that made it made all the states before it: a user of n events
costs one pass of n tokens, not n passes. Rows are packed because histories are short: padding one to a row of 50 would leave five sixths
of an Amazon log's cells empty.

Shapes: B questions · P rows · L tokens of a row · W windows of an epoch · N tokens of a batch · E events · U users · C moment columns.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.datamodule import Events
from data.features import age_minutes

NOBODY = -1
"""The state of a question that is asked before the first event of its user."""


class SequenceBatch(NamedTuple):
    """Questions, and the packed rows they are read off: int64 but for weights and odds (float32).

    A row holds windows one behind the other: `window_BL` numbers them from 1, 0 pads, and `place_BL` counts from a window's first event.
    `age_minutes_BL` is an event's age when the window's last question is asked. Of `history_row_BL` to `place_BL` the B is P, rows and not
    questions: other batches have a row for each question, and a loss need not know which they are. `state_B` is the token, p · L + l, that
    a question is read off, or `NOBODY`: what came before it in its window is all that it may know. `since_minutes_B` is that event's age
    when the question is asked, 0 of nobody.
    """

    user_row_B: Tensor
    item_row_B: Tensor
    history_row_BL: Tensor
    event_code_BL: Tensor
    age_minutes_BL: Tensor
    window_BL: Tensor
    place_BL: Tensor
    state_B: Tensor
    since_minutes_B: Tensor
    moment_BC: Tensor
    weight_B: Tensor
    now_B: Tensor
    skipped_row_BS: Tensor
    log_odds_BS: Tensor
    choice_weight_B: Tensor


class Windows(NamedTuple):
    """Window w is events first_W[w] ≤ e < first_W[w] + length_W[w], and after its last comes one more event of the same user."""

    first_W: np.ndarray
    length_W: np.ndarray


def windows(offset_U1: np.ndarray, asked_E: np.ndarray, *, length: int, rng: np.random.Generator) -> Windows:
    """Cut every user's events but the last into windows of at most `length`; those that a question is asked in.

    Who has no more than `length` is one window, of none where there is one event. Others are cut every `length` events from a random place
    on, so that over the epochs each question is asked of short memories and of long ones.
    """
    token_U = np.maximum(offset_U1[1:] - offset_U1[:-1] - 1, 0)
    first_part_U = np.where(token_U > length, rng.integers(1, length + 1, len(token_U)), token_U)
    count_U = (np.diff(offset_U1) > 0) + -(-(token_U - first_part_U) // length)
    user_W = np.repeat(np.arange(len(token_U)), count_U)
    turn_W = np.arange(len(user_W)) - (count_U.cumsum() - count_U)[user_W]
    begin_W = np.where(turn_W == 0, 0, first_part_U[user_W] + (turn_W - 1) * length)
    end_W = np.minimum(first_part_U[user_W] + turn_W * length, token_U[user_W])
    first_W, length_W = offset_U1[:-1][user_W] + begin_W, end_W - begin_W
    before_E1 = np.concatenate([[0], asked_E.cumsum()])
    kept_W = before_E1[first_W + length_W + 1] > before_E1[first_W]
    return Windows(first_W[kept_W], length_W[kept_W])


def rows_of(length_W: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay windows one behind the other into rows of `width`, a new row where the next does not fit: row and column of each window."""
    row_W, column_W = np.empty_like(length_W), np.empty_like(length_W)
    row, filled = 0, 0
    for place, length in enumerate(length_W.tolist()):
        if filled + length > width:
            row, filled = row + 1, 0
        row_W[place], column_W[place] = row, filled
        filled += length
    return row_W, column_W


class Packed:
    """One epoch of `SequenceBatch`, in an order that (seed, epoch) alone decides. Called as `data.datamodule.each_alone` is.

    A batch is `batch_size` tokens, in rows as long as a history, so of a little fewer questions. The rows that do not fill the last batch
    wait for another epoch's shuffle; ranks take turns within each batch.
    """

    def __init__(
        self, events: Events, row_N: Tensor, *, length: int, order: Callable[[Tensor, int, torch.Generator], Tensor], batch_size: int,
        seed: int, epoch: int, rank: int = 0, ranks: int = 1,
    ):  # fmt: skip
        self.events, self.length = events, length
        self.asked_E = torch.zeros(len(events.item_row_E), dtype=torch.bool, device=row_N.device)
        self.asked_E[row_N] = True
        rng = np.random.default_rng((seed, epoch))
        cut = windows(events.offset_U1.cpu().numpy(), self.asked_E.cpu().numpy(), length=length, rng=rng)
        last_W = torch.as_tensor(cut.first_W + cut.length_W)
        tokens_W = max(1, round(float(cut.length_W.mean()))) if len(cut.length_W) else 1
        order_W = order(
            events.timestamp_E.cpu()[last_W], max(1, batch_size // tokens_W), torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        )
        self.first_W, self.length_W = cut.first_W[order_W.numpy()], cut.length_W[order_W.numpy()]
        self.row_W, self.column_W = rows_of(self.length_W, length)
        rows = int(self.row_W[-1]) + 1 if len(self.row_W) else 0
        self.rank, self.ranks = rank, ranks
        self.rows = min(max(1, batch_size // length), rows // ranks)

    def __len__(self) -> int:
        return int(self.row_W[-1] + 1) // (self.rows * self.ranks) if self.rows else 0

    def __iter__(self) -> Iterator[SequenceBatch]:
        together = self.rows * self.ranks
        bound = np.searchsorted(self.row_W, np.arange(len(self) + 1) * together)
        for number, (start, stop) in enumerate(pairwise(bound)):
            row_W = self.row_W[start:stop] - number * together
            mine_W = start + np.flatnonzero(row_W % self.ranks == self.rank)
            yield self.batch(mine_W, (self.row_W[mine_W] - number * together) // self.ranks)

    def batch(self, window_W: np.ndarray, row_W: np.ndarray) -> SequenceBatch:
        """These windows in these rows of one batch."""
        events, device = self.events, self.asked_E.device
        first_W, length_W, column_W, row_W = (
            torch.as_tensor(column, device=device)
            for column in (self.first_W[window_W], self.length_W[window_W], self.column_W[window_W], row_W)
        )
        window_N = torch.repeat_interleave(torch.arange(len(first_W), device=device), length_W)
        place_N = torch.arange(len(window_N), device=device) - (length_W.cumsum(0) - length_W)[window_N]
        event_N, cell_N = first_W[window_N] + place_N, row_W[window_N] * self.length + column_W[window_N] + place_N
        age_N = age_minutes(events.timestamp_E[(first_W + length_W)[window_N]], events.timestamp_E[event_N])

        def laid(column_N: Tensor) -> Tensor:
            return torch.zeros(self.rows * self.length, dtype=torch.int64, device=device).scatter_(0, cell_N, column_N).view(self.rows, -1)

        asked_N = self.asked_E[event_N + 1]
        of_nobody_W = self.asked_E[first_W] & (events.offset_U1[events.user_row_E[first_W]] == first_W)
        event_B = torch.cat([event_N[asked_N] + 1, first_W[of_nobody_W]])
        state_B = torch.cat([cell_N[asked_N], torch.full_like(first_W[of_nobody_W], NOBODY)])
        item_row_B, now_B = events.item_row_E[event_B], events.timestamp_E[event_B]
        since_B = age_minutes(now_B, events.timestamp_E[torch.where(state_B == NOBODY, event_B, event_B - 1)])
        return SequenceBatch(
            events.user_row_E[event_B], item_row_B, laid(events.item_row_E[event_N]), laid(events.event_code_E[event_N]), laid(age_N),
            laid(window_N + 1), laid(place_N), state_B, since_B, events.moment_EC[event_B], events.weight_E[event_B], now_B,
            *events.beside.of(event_B, item_row_B),
        )  # fmt: skip
