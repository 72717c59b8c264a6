"""Two towers, each callable alone. An item is a row: its input half feeds histories and the ranker, its vector half is retrieved.

Shapes: B rows · L history · D width · C moment columns · F item features · R distinct items.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.datamodule import RetrievalBatch
from data.features import EVENT_CODES, PAD
from towers.encoders import AGE_BUCKETS, age_bucket
from towers.rowwise_adagrad import lookup_distinct

PRIOR_SCALE = 0.03
"""What a popularity column of a vector is multiplied by: small, so that nearness of items stays a matter of taste."""


def prior(popularity_RP: Tensor) -> Tensor:
    """Popularity columns of item vectors, (R, P), from decayed counts: 0 for an item nobody touched of late."""
    return PRIOR_SCALE * torch.log1p(popularity_RP / 0.1)


def beside(taste_RD: Tensor, prior_RP: Tensor) -> Tensor:
    """Columns of taste, then those of popularity; the former as they are where there are no latter."""
    return torch.cat([taste_RD, prior_RP], dim=1) if prior_RP.shape[1] else taste_RD


def taste_of(x_RD: Tensor, columns: int) -> Tensor:
    """The first `columns` of x; x itself where it has no others."""
    return x_RD if x_RD.shape[1] == columns else x_RD[:, :columns]


class UnitNorm(nn.Module):
    """To the unit sphere: the dot product of two such vectors is their cosine."""

    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, D) → (B, D) of length 1."""
        return F.normalize(x_BD, dim=-1)


class Powers(nn.Linear):
    """How much each of `priors` popularity columns counts for whoever asks, read off (B, `told`): at a temperature of 0.1 the columns begin
    as a prior of power one."""

    def __init__(self, told: int, priors: int):
        super().__init__(told, priors)
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.bias)
        self.requires_grad_(priors > 0)  # of none there is nothing to learn, and DDP waits for every gradient that is announced
        self.start = 0.1 / PRIOR_SCALE / max(priors, 1)

    def forward(self, told_BD: Tensor) -> Tensor:
        """(B, told) → (B, P)."""
        return self.start * F.linear(told_BD, self.weight, self.bias)


class ItemTower(nn.Module):
    """Content, and an id embedding where the item was trained on, to a row.

    In training each item loses its id with probability `id_dropout`, so that an item without one still gets a vector from its content
    (DropoutNet, Volkovs et al. 2017). `content_std` is the spread of the last content layer's weights at the start: the smaller, the more
    a model without `UnitNorm` begins as its popularity columns.
    """

    def __init__(
        self, *, width: int, features: int, priors: int, hidden: int, id_dropout: float, dropout: float, content_std: float, norm: nn.Module
    ):
        super().__init__()
        self.width = width
        self.priors = priors
        self.id_dropout = float(id_dropout)
        self.content = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Dropout(float(dropout)), nn.Linear(hidden, width))
        nn.init.normal_(self.content[-1].weight, std=content_std)
        nn.init.zeros_(self.content[-1].bias)
        self.project = nn.Linear(width, width - priors)
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.norm = norm

    def input(self, id_RD: Tensor, feature_RF: Tensor) -> Tensor:
        """The input half, (R, D)."""
        if self.training and self.id_dropout > 0:
            id_RD = id_RD * (torch.rand(id_RD.shape[0], 1, device=id_RD.device) >= self.id_dropout)
        return id_RD + self.content(feature_RF)

    def vector(self, input_RD: Tensor, prior_RP: Tensor) -> Tensor:
        """The retrieval half, (R, D): D − P columns of taste from the input half, then the P columns of popularity."""
        return beside(self.norm(self.project(input_RD)), prior_RP)

    def forward(self, feature: Tensor) -> Tensor:
        """The whole row of items known by content alone: (B, F) → (B, 2 D) float16, input half first."""
        input_BD = self.input(torch.zeros(feature.shape[0], self.width, device=feature.device), feature)
        nobody_yet_BP = torch.zeros(feature.shape[0], self.priors, device=feature.device)
        return torch.cat([input_BD, self.vector(input_BD, nobody_yet_BP)], dim=1).half()


class UserTower(nn.Module):
    """A history of item rows, and the moment, to a query. It knows no user id: its size does not grow with the users.

    The query's first D − P columns are taste, its last `priors` = P say how much each popularity column
    of an item counts for this user now.

    `encoder` maps (B, L, D) and a mask to a state (B, D); `moment_sizes` is how many values each moment column may take;
    `users` is told to every user tower and not used by this one.
    """

    def __init__(
        self,
        *,
        width: int,
        moment_sizes: tuple[int, ...],
        users: int,
        priors: int,
        encoder: Callable[[int], nn.Module],
        hidden: int,
        dropout: float,
        norm: nn.Module,
    ):
        super().__init__()
        self.event = nn.Embedding(EVENT_CODES, width, padding_idx=PAD)
        self.age = nn.Embedding(AGE_BUCKETS, width)
        self.moment = nn.ModuleList(nn.Embedding(size, width) for size in moment_sizes)
        for table in (self.event, self.age, *self.moment):
            nn.init.normal_(table.weight, std=0.02)
        self.encoder = encoder(width)
        self.drop = nn.Dropout(float(dropout))
        self.mix = nn.Sequential(nn.Linear(2 * width, hidden), nn.GELU(), nn.Dropout(float(dropout)), nn.Linear(hidden, width))
        self.taste = width - priors
        self.prior = Powers(2 * width, priors)
        self.norm = norm

    def forward(self, history: Tensor, event_code: Tensor, age_minutes: Tensor, moment: Tensor) -> Tensor:
        """Query (B, D) from item inputs (B, L, D), event codes (B, L; 0 pads), ages in minutes (B, L) and the moment (B, C)."""
        age_BL = age_bucket(age_minutes)
        event_BLD = self.drop(history.to(self.event.weight.dtype) + self.said(event_code, age_BL))
        state_BD = self.encoder(event_BLD, event_code != 0)
        moment_BD = torch.zeros_like(state_BD)
        for column, table in enumerate(self.moment):
            moment_BD = moment_BD + table(moment[:, column])
        both_BD = torch.cat([state_BD, moment_BD], dim=1)
        taste_BD = taste_of(state_BD + self.mix(both_BD), self.taste)
        return beside(self.norm(taste_BD), self.prior(both_BD))

    def said(self, event_code: Tensor, age_BL: Tensor) -> Tensor:
        """What was done and how long ago, (B, L, D): the sum of two embeddings. Outside training every pair's sum is made once and looked
        up: there are fewer pairs than events, and a lookup costs as much as a sum."""
        if self.training:
            return self.event(event_code) + self.age(age_BL)
        pair_PD = (self.event.weight.unsqueeze(1) + self.age.weight.unsqueeze(0)).flatten(0, 1)
        return F.embedding(event_code * self.age.num_embeddings + age_BL, pair_PD)

    @torch.jit.unused
    def ask(self, batch: RetrievalBatch, input_RD: Tensor, history_BL: Tensor) -> Tensor:
        """Queries (B, D) of a batch whose history stands at places `history_BL` of `input_RD`."""
        history_BLD = F.embedding(history_BL, input_RD)  # as input_RD[history_BL], with a backward that does not sort
        return self(history_BLD, batch.event_code_BL, batch.age_minutes_BL, batch.moment_BC)

    @torch.jit.unused
    def tables(self) -> list[nn.Parameter]:
        """Tables looked up sparsely: none, its embeddings are small."""
        return []


class IdItemTower(nn.Module):
    """An item is its embedding and nothing else; for logs of ids, and as the plain two-tower of the literature."""

    def __init__(self, *, width: int, features: int, priors: int, norm: nn.Module):
        super().__init__()
        self.width = width
        self.taste = width - priors
        self.norm = norm

    def input(self, id_RD: Tensor, feature_RF: Tensor) -> Tensor:
        """The input half, (R, D): the id embedding itself."""
        return id_RD

    def vector(self, input_RD: Tensor, prior_RP: Tensor) -> Tensor:
        """The retrieval half, (R, D): D − P columns of taste, then the P columns of popularity."""
        return beside(self.norm(taste_of(input_RD, self.taste)), prior_RP)

    def forward(self, feature: Tensor) -> Tensor:
        """The row of items without an embedding, (B, F) → (B, 2 D) float16: nothing, so that they are never near and never in the way."""
        return torch.zeros(feature.shape[0], 2 * self.width, device=feature.device, dtype=torch.float16)


class IdUserTower(nn.Module):
    """A user is their embedding and nothing else. It grows with the users and cannot answer a stranger: a yardstick, not for serving."""

    def __init__(self, *, width: int, moment_sizes: tuple[int, ...], users: int, priors: int, norm: nn.Module, std: float = 0.1):
        super().__init__()
        self.taste = width - priors
        self.prior = nn.Parameter(torch.full((priors,), 0.1 / PRIOR_SCALE / max(priors, 1)), requires_grad=priors > 0)
        self.table = nn.Embedding(users, width, sparse=True)
        nn.init.normal_(self.table.weight, std=std)
        self.norm = norm

    def forward(self, user_row: Tensor) -> Tensor:
        """Query (B, D) of distinct users, in rising order."""
        id_BD = lookup_distinct(self.table, user_row)
        return beside(self.norm(taste_of(id_BD, self.taste)), self.prior.expand(len(id_BD), -1))

    def ask(self, batch: RetrievalBatch, input_RD: Tensor, history_BL: Tensor) -> Tensor:
        """Queries (B, D) of a batch, whatever its history."""
        row_R, place_B = batch.user_row_B.unique(return_inverse=True)
        return F.embedding(place_B, self(row_R))

    def tables(self) -> list[nn.Parameter]:
        """Tables looked up sparsely."""
        return [self.table.weight]
