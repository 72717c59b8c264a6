"""A user tower that reads a history once and can be asked after each of its events: trained at every position, served at the newest.

Shapes: B questions · P packed rows · L tokens of a row · D width · C moment columns · R distinct items.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.datamodule import RetrievalBatch
from data.features import EVENT_CODES, PAD
from data.sequences import NOBODY, SequenceBatch
from towers.dropout import Dropout
from towers.encoders import AGE_BUCKETS, age_bucket
from towers.two_tower import Powers, beside, taste_of


class SequenceTower(nn.Module):
    """A history of item rows, and the moment, to a query, by an encoder whose state at an event knows that event and earlier ones only.

    So an event must look the same whenever it is remembered: it is told by its item and its kind, and how long ago it was is left to
    encoders that ask how far two events lie apart (`towers.encoders.HSTU`). The query adds to the state how long ago the newest event was
    and the moment; before a first event, the state is one that was learned of nobody. `priors` are as in `towers.two_tower.UserTower`.

    `encoder(width)` maps (P, L, D), windows, places and ages to states (P, L, D); `users` is told to every user tower and not used here.
    """

    def __init__(
        self,
        *,
        width: int,
        moment_sizes: tuple[int, ...],
        users: int,
        priors: int,
        encoder: Callable[[int], nn.Module],
        dropout: float,
        norm: nn.Module,
    ):
        super().__init__()
        self.event = nn.Embedding(EVENT_CODES, width, padding_idx=PAD)
        self.since = nn.Embedding(AGE_BUCKETS, width)
        self.moment = nn.ModuleList(nn.Embedding(size, width) for size in moment_sizes)
        for table in (self.event, self.since, *self.moment):
            nn.init.zeros_(table.weight)  # what a log does not tell stays nothing
        self.nobody = nn.Parameter(torch.zeros(width))
        self.encoder = encoder(width)
        self.drop = Dropout(dropout)
        self.taste = width - priors
        self.prior = Powers(width, priors)
        self.norm = norm

    def forward(self, history: Tensor, event_code: Tensor, age_minutes: Tensor, moment: Tensor) -> Tensor:
        """Query (B, D) from item inputs (B, L, D), event codes (B, L; 0 pads on the left), ages in minutes (B, L) and the moment (B, C)."""
        there_BL = (event_code != 0).long()
        place_BL = (there_BL.cumsum(1) - 1).clamp(min=0)
        state_BD = self.states(history.to(self.nobody.dtype), event_code, age_minutes, there_BL, place_BL)[:, -1]
        known_B1 = there_BL[:, -1:] > 0
        since_BD = self.since(age_bucket(age_minutes[:, -1])) * known_B1
        return self.query(torch.where(known_B1, state_BD, self.nobody), since_BD, moment)

    def states(self, history_PLD: Tensor, event_code_PL: Tensor, age_minutes_PL: Tensor, window_PL: Tensor, place_PL: Tensor) -> Tensor:
        """The state after every event, (P, L, D)."""
        return self.encoder(self.drop(history_PLD + self.event(event_code_PL)), window_PL, place_PL, age_minutes_PL)

    def query(self, state_BD: Tensor, since_BD: Tensor, moment_BC: Tensor) -> Tensor:
        """Queries (B, D) of states (B, D), at their moments."""
        told_BD = state_BD + since_BD
        for column, table in enumerate(self.moment):
            told_BD = told_BD + table(moment_BC[:, column])
        return beside(self.norm(taste_of(told_BD, self.taste)), self.prior(told_BD))

    @torch.jit.unused
    def ask(self, batch: RetrievalBatch | SequenceBatch, input_RD: Tensor, history_BL: Tensor) -> Tensor:
        """Queries (B, D) of a batch whose histories stand at places `history_BL` of `input_RD`, whether packed or one for each question."""
        history_BLD = F.embedding(history_BL, input_RD)
        if isinstance(batch, RetrievalBatch):
            return self(history_BLD, batch.event_code_BL, batch.age_minutes_BL, batch.moment_BC)
        state_PLD = self.states(history_BLD, batch.event_code_BL, batch.age_minutes_BL, batch.window_BL, batch.place_BL)
        known_B1 = (batch.state_B != NOBODY)[:, None]
        state_BD = state_PLD.flatten(0, 1).index_select(0, batch.state_B.clamp(min=0))
        since_BD = self.since(age_bucket(batch.since_minutes_B)) * known_B1
        return self.query(torch.where(known_B1, state_BD, self.nobody), since_BD, batch.moment_BC)

    @torch.jit.unused
    def tables(self) -> list[nn.Parameter]:
        """Tables looked up sparsely: none, its embeddings are small."""
        return []
