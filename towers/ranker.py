"""The ranker: a network with a tower for each thing worth predicting, and one value made of them.

Shapes: B requests · K candidates · D width · C moment columns · U profile columns · X numbers · T tasks · H heads: tasks, value.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.features import NUMBERS
from towers.piecewise import Spread
from towers.watch_time import WatchTime

TASKS = ("click", "complete", "watch", "skip", "rating")
HEADS = ("click", "complete", "watch_seconds", "skip", "rating", "value")
WANTED = ("click", "complete", "watch", "rating")
MOST = 1e9  # that a weight may be, short of infinite


class Answers(NamedTuple):
    """What only the data know of the tasks: the watch times, the least and the greatest rating, and which tasks have any label."""

    watch_time: WatchTime
    rating_range: tuple[float, float]
    known: tuple[bool, ...]


class Ranker(nn.Module):
    """Query, moment, profile, candidate rows and their numbers to one value per candidate and head.

    `network` (`towers.network`) makes what gives the logits; to these is added a line of the standardised numbers, which begins as
    retrieval's dot product. `query`, `candidate`, `number` and `profile` say how their columns are spread. `value_weight` says how much
    each wanted task counts in value, and for skip, from 0 to 1, the share of value that a certain skip takes away; a task without any
    label counts nothing.

    Raises:
        ValueError: a weight below 0 or of no task, one of skip above 1, or no weight above 0 for a wanted task that has labels.
    """

    def __init__(
        self, *, width: int, moment_sizes: tuple[int, ...], query: Spread, candidate: Spread, number: Spread, profile: Spread,
        answers: Answers, network: Callable[..., nn.Module], value_weight: Mapping[str, float],
    ):  # fmt: skip
        super().__init__()
        self.duration = NUMBERS.index("log_duration_seconds")
        self.network = network(
            width=width, moment_sizes=moment_sizes, query=query, candidate=candidate, number=number, profile=profile, tasks=len(TASKS)
        )
        self.skip = nn.Linear(len(number.mean), len(TASKS), bias=False)
        nn.init.zeros_(self.skip.weight)
        for task in ("click", "complete", "watch"):  # they begin as retrieval's order, and must learn to depart from it
            self.skip.weight.data[TASKS.index(task), NUMBERS.index("dot")] = 1.0
        self.watch_time = deepcopy(answers.watch_time)  # the data keep theirs where they are
        low, high = answers.rating_range
        for name, buffer in {
            "number_mean": number.mean, "number_std": number.std, "slope_T": torch.ones(len(TASKS)), "shift_T": torch.zeros(len(TASKS)),
            "rating_low": torch.tensor(float(low)), "rating_span": torch.tensor(float(high - low)),
            "value_T": value_share(value_weight, answers.known),
            "skip_cost": torch.tensor(float(value_weight.get("skip", 0.0)) * answers.known[TASKS.index("skip")]),
        }.items():  # fmt: skip
            self.register_buffer(name, buffer.clone())

    def logits(self, query: Tensor, moment: Tensor, profile: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, T), one per task, before calibration."""
        told_BKT = self.network(query, moment, profile, candidate.to(query.dtype), number)
        return told_BKT + self.skip((number - self.number_mean) / self.number_std)

    def calibrated(self, logit_BKT: Tensor) -> Tensor:
        """(B, K, T) in [0, 1]: σ(slope · logit + shift) of each task, slope above 0 (Platt 1999). Watch is a place among the watch times of
        items of about that duration, rating one between the least and the greatest."""
        return (logit_BKT * self.slope_T + self.shift_T).sigmoid()

    def value(self, place_BKT: Tensor) -> Tensor:
        """(B, K) in [0, 1]: the weighted mean of what is wanted, less the share that a skip takes. A rating is given of what was clicked,
        so it counts as often. Nothing in it is the same for every candidate, so that value tells as much between them as its parts do."""
        click, complete, watch, skip, rating = place_BKT.unbind(-1)
        return (torch.stack([click, complete, watch, skip, click * rating], -1) @ self.value_T) * (1 - self.skip_cost * skip)

    @torch.jit.unused
    def worth(self, target_BKT: Tensor) -> Tensor:
        """What items turned out to be worth, (B, K): the value of what came of them, over the tasks with a known outcome; NaN: none has."""
        click, complete, watch, skip, rating = target_BKT.unbind(-1)
        rated = torch.where(click == 0, 0.0, click * rating)
        good_BKT = torch.stack([click, complete, watch, skip, rated], -1)
        known_BKT = ~good_BKT.isnan()
        wanted = (good_BKT.nan_to_num() @ self.value_T) / (known_BKT.to(good_BKT.dtype) @ self.value_T)
        return wanted * (1 - self.skip_cost * skip.nan_to_num())

    def forward(self, query: Tensor, moment: Tensor, profile: Tensor, candidate: Tensor, number: Tensor) -> Tensor:
        """(B, K, H) in the order of `HEADS`: probabilities of a click and of completion, seconds of watching, probability of a skip, rating
        in the log's units, value."""
        return self.answer(self.logits(query, moment, profile, candidate, number), number)

    def answer(self, logit_BKT: Tensor, number: Tensor) -> Tensor:
        """What `forward` answers, (B, K, H), from the logits."""
        place_BKT = self.calibrated(logit_BKT)
        click, complete, watch, skip, rating = place_BKT.unbind(-1)
        seconds = self.watch_time(watch, number[:, :, self.duration])
        return torch.stack([click, complete, seconds, skip, self.rating_low + self.rating_span * rating, self.value(place_BKT)], dim=-1)


def value_share(weight: Mapping[str, float], known: tuple[bool, ...]) -> Tensor:
    """What share of value each task is, (T,), summing to one over the wanted tasks whose labels are known. Raises ValueError as `Ranker`
    does."""
    if odd := [name for name in weight if name not in TASKS or not 0 <= weight[name] <= (1 if name == "skip" else MOST)]:
        raise ValueError(
            f"value_weight: {odd[0]} = {weight[odd[0]]}; expected numbers of at least 0 for {', '.join(TASKS)}, that of skip at most 1"
        )
    share_T = torch.tensor([float(weight.get(name, 0.0)) * (there and name in WANTED) for name, there in zip(TASKS, known, strict=True)])
    if not share_T.sum() > 0:
        labelled = [name for name, there in zip(TASKS, known, strict=True) if there]
        raise ValueError(
            f"value_weight is 0 for every wanted task that has labels ({', '.join(labelled) or 'none has'}); weigh one of them"
        )
    return share_T / share_T.sum()
