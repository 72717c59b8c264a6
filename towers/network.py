"""What stands between what a ranker is told and its logits: networks that read everything together, or user and item apart.

Each is called as `network(width, moment_sizes, query, candidate, number, profile, tasks)` with how the columns of the four are spread.

Shapes: B requests · K candidates · D width · H hidden · C moment columns · U profile columns · X numbers · T tasks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from towers.mixture import TaskTowers
from towers.piecewise import Piecewise, Spread, Standard
from towers.ranker import TASKS

MANY = 256  # candidates of one query from which on their products are joined


class Body(nn.Module):
    """From a first layer to logits: crosses of what it gives, the trunk `cross(hidden)` and `trunk(hidden, tasks)` make, task towers."""

    def __init__(
        self, tasks: int, *, hidden: int, dropout: float, tower: int, cross: Callable[..., nn.Module], trunk: Callable[..., nn.Module]
    ):
        super().__init__()
        self.hidden, self.tasks = hidden, tasks
        self.first = nn.Sequential(nn.GELU(), nn.Dropout(float(dropout)))
        self.cross = cross(hidden)
        self.trunk = trunk(hidden, tasks)
        self.tower = TaskTowers(self.trunk.width, tasks, hidden=tower)

    def forward(self, first_BKH: Tensor) -> Tensor:
        """(B, K, H) → (B, K, T)."""
        told_NT = self.tower(self.trunk(self.cross(self.first(first_BKH).flatten(0, 1))))
        return told_NT.view(first_BKH.shape[0], first_BKH.shape[1], self.tasks)


class Moment(nn.Module):
    """When, where and who: the sum of an embedding for each column, (B, C) → (B, H)."""

    def __init__(self, sizes: tuple[int, ...], hidden: int):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, hidden) for size in sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, moment: Tensor) -> Tensor:
        """(B, C) → (B, H)."""
        total_BH = torch.zeros(moment.shape[0], self.tables[0].embedding_dim, device=moment.device)
        for column, table in enumerate(self.tables):
            total_BH = total_BH + table(moment[:, column])
        return total_BH


class Joint(nn.Module):
    """One body reads everything together. The query's part of the first layer is computed once per request and added to every candidate's;
    query × candidate, element by element, is the first cross."""

    def __init__(
        self, *, width: int, moment_sizes: tuple[int, ...], query: Spread, candidate: Spread, number: Spread, profile: Spread, tasks: int,
        ramps: int, body: Callable[[int], Body],
    ):  # fmt: skip
        super().__init__()
        self.many = MANY
        self.standard_query, self.standard_candidate = Standard(query), Standard(candidate)
        self.body = body(tasks)
        hidden = self.body.hidden
        self.moment = Moment(moment_sizes, hidden)
        self.query = nn.Linear(width, hidden, bias=False)
        self.profile = Piecewise(profile, hidden, ramps=ramps)
        self.candidate = nn.Linear(width, hidden)
        self.product = nn.Linear(width, hidden, bias=False)
        self.number = Piecewise(number, hidden, ramps=ramps)

    def forward(self, query: Tensor, moment: Tensor, profile: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, T)."""
        query_BD, candidate_BKD = self.standard_query(query), self.standard_candidate(candidate)
        user_BH = self.query(query_BD) + self.profile(profile) + self.moment(moment)
        return self.body(user_BH.unsqueeze(1) + self.crossed(query_BD, candidate_BKD) + self.number(number))

    def crossed(self, query: Tensor, candidate_BKD: Tensor) -> Tensor:
        """A·c + X·(c ⊙ q), (B, K, H), of each candidate c. As X·(c ⊙ q) is (X · diag q)·c, the two products are one wherever a query
        has so many candidates that making A + X · diag q costs less than the second."""
        if candidate_BKD.shape[1] < self.many:
            return self.candidate(candidate_BKD) + self.product(candidate_BKD * query.unsqueeze(1))
        weight_BHD = self.candidate.weight + self.product.weight * query.unsqueeze(1)
        return torch.baddbmm(self.candidate.bias, candidate_BKD, weight_BHD.transpose(1, 2))


class Additive(nn.Module):
    """Two bodies whose logits are added: one reads query and profile, one the candidate, both the numbers and the moment.

    Query and candidate meet in the numbers alone (dot product, matches), where retrieval brought together what is known of the two: from
    some ten thousand rows a network learns crosses of 64 × 64 columns that hold for no others (kuairand-pure, `bench/results`).
    """

    def __init__(
        self, *, width: int, moment_sizes: tuple[int, ...], query: Spread, candidate: Spread, number: Spread, profile: Spread, tasks: int,
        ramps: int, vector_ramps: int, body: Callable[[int], Body],
    ):  # fmt: skip
        super().__init__()
        self.of_user, self.of_item = body(tasks), body(tasks)
        hidden = self.of_user.hidden
        self.user_moment, self.item_moment = Moment(moment_sizes, hidden), Moment(moment_sizes, hidden)
        self.query = Piecewise(query, hidden, ramps=vector_ramps)
        self.profile = Piecewise(profile, hidden, ramps=ramps)
        self.candidate = Piecewise(candidate, hidden, ramps=vector_ramps)
        self.number = Piecewise(number, 2 * hidden, ramps=ramps)  # of both bodies

    def forward(self, query: Tensor, moment: Tensor, profile: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, T)."""
        user_BH = self.query(query) + self.profile(profile) + self.user_moment(moment)
        item_BKH = self.candidate(candidate) + self.item_moment(moment).unsqueeze(1)
        of_user_BKH, of_item_BKH = self.number(number).chunk(2, dim=-1)
        return self.of_user(user_BH.unsqueeze(1) + of_user_BKH) + self.of_item(item_BKH + of_item_BKH)


class Several(nn.Module):
    """The mean of `count` networks that learn apart: of every batch, which is in no order, each trains on a share of its own, and what one
    learned by heart the others did not. `member(**told)` makes each. A step costs what one network's does; an answer, and the epochs to
    learn as much, `count` times more."""

    def __init__(self, *, member: Callable[..., nn.Module], count: int, **told):
        super().__init__()
        self.members = nn.ModuleList(member(**told) for _ in range(count))

    def forward(self, query: Tensor, moment: Tensor, profile: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, T): in training each share by its own network, else the mean of all."""
        shares, answers = len(self.members), []
        for share, network in enumerate(self.members):
            start, end = (share * len(query) // shares, (share + 1) * len(query) // shares) if self.training else (0, len(query))
            answers.append(network(query[start:end], moment[start:end], profile[start:end], candidate[start:end], number[start:end]))
        return torch.cat(answers) if self.training else torch.stack(answers).mean(0)


class Apart(nn.Module):
    """A network for each of the tasks named `alone`, and one for all others, which therefore cannot quarrel over what they share.

    `network(tasks=…, **told)` makes each. Raises ValueError for a name that is no task's.
    """

    def __init__(self, *, network: Callable[..., nn.Module], alone: Sequence[str], tasks: int, **told):
        super().__init__()
        if odd := [name for name in alone if name not in TASKS]:
            raise ValueError(f"alone: {odd[0]}; expected some of {', '.join(TASKS)}")
        apart = [TASKS.index(name) for name in alone]
        together = [task for task in range(tasks) if task not in apart]
        self.networks = nn.ModuleList(network(tasks=len(group), **told) for group in [together, *([task] for task in apart)])
        self.register_buffer("column_T", torch.tensor([*together, *apart]).argsort())

    def forward(self, query: Tensor, moment: Tensor, profile: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, T)."""
        told = [network(query, moment, profile, candidate, number) for network in self.networks]
        return torch.cat(told, dim=-1)[:, :, self.column_T]
