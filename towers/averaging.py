"""Weights that are a running mean of those trained: as good as several models, and at serving one."""

from collections.abc import Callable

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


def moving_average(decay: float) -> WeightAveraging:
    """Lightning's callback with an exponential moving average whose decay grows from 0.1 to `decay`, min(decay, (1 + n) / (10 + n)) at the
    n-th step: a short run is not weighed down by where it began.

    Raises:
        ValueError: a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; expected a number from 0 (no averaging) to below 1")
    return WeightAveraging(multi_avg_fn=growing(decay), use_buffers=False)


def growing(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """averaged ← averaged + (1 − d) · (current − averaged), in place, as `AveragedModel` calls it."""

    def update(averaged: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        kept = min(decay, (1 + float(steps)) / (10 + float(steps)))
        torch._foreach_lerp_(averaged, current, 1 - kept)

    return update
