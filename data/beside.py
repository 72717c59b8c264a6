"""What stood beside a click and was skipped: real negatives, seen by the same eyes at the same moment.

Shapes: B rows · E events · P impressions · S places of a slate.
"""

from typing import NamedTuple, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from data.bias import Bias
from data.features import MOMENT
from data.impressions import Observed, Rows, frame, shown
from data.log import Log

MOST = 20
"""Places of a slate that are looked at, from the top: a request may show hundreds, and the rest were hardly seen."""


class Beside(NamedTuple):
    """Event e stands among the impressions first_E ≤ p < first_E + count_E (count 0: nothing is known). `log_slope_P` is −∞ where an
    impression was clicked, or nobody knows: only what was skipped is a negative. S is the most places that any event has."""

    first_E: np.ndarray | Tensor
    count_E: np.ndarray | Tensor
    log_slope_E: np.ndarray | Tensor
    weight_E: np.ndarray | Tensor
    item_row_P: np.ndarray | Tensor
    log_slope_P: np.ndarray | Tensor
    S: int

    def where(self, keep_E: np.ndarray) -> Self:
        """Of the events kept."""
        return self._replace(**{name: getattr(self, name)[keep_E] for name in self._fields if name.endswith("_E")})

    def weighed(self, weight_E: np.ndarray) -> Self:
        """Each event's choice weighs that much more."""
        return self._replace(weight_E=self.weight_E * weight_E)

    def on(self, device: torch.device) -> Self:
        """As tensors there."""
        return type(self)(*(torch.tensor(column, device=device) for column in self[:-1]), self.S)

    def of(self, event_B: Tensor, item_row_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Items (B, S); log(slope there / slope of the event's own place), −∞ where nothing was skipped; and the weight of each choice,
        (B,), 0 where there was none to make."""
        step_S = torch.arange(self.S, device=event_B.device)
        there_BS = step_S < self.count_E[event_B][:, None]
        place_BS = torch.where(there_BS, self.first_E[event_B][:, None] + step_S, 0)
        row_BS = self.item_row_P[place_BS]
        odds_BS = self.log_slope_P[place_BS] - self.log_slope_E[event_B][:, None]
        odds_BS = odds_BS.masked_fill(~there_BS | (row_BS == item_row_B[:, None]), float("-inf"))
        return row_BS, odds_BS, self.weight_E[event_B] * (odds_BS > float("-inf")).any(1)


def nothing_beside(events: int) -> Beside:
    """Of events that are not asked what stood beside them."""
    nothing_E, nothing_P = np.zeros(events, np.int64), np.zeros(1, np.int64)
    even_E = np.zeros(events, np.float32)
    return Beside(nothing_E, nothing_E, even_E, even_E + 1, nothing_P, np.full(1, -np.inf, np.float32), 0)


def beside(log: Log, bias: Bias, observed: Observed) -> Beside:
    """The slate of each event's request, if the log has it and was done with it in the event's part, and how likely each place of it was to
    be looked at by `bias`, whose estimators know what `observed` says.

    Raises:
        ValueError: the log has no impressions, so that nothing stood beside anything.
    """
    impressions = frame(log)
    if not len(impressions):
        raise ValueError(
            "bias.beside asks what stood beside each click, but the log has no impressions;"
            " give them (data.impressions=…), or choose bias=popularity, bias=none or bias.beside=0"
        )
    told = shown(log, impressions)
    place_P = np.arange(len(impressions)) - np.searchsorted(told.request_P, told.request_P)
    slates = impressions.select("request_id", shown="part").with_row_index("first").group_by("request_id")
    slates = slates.agg(pl.col("first").min(), pl.col("shown").max(), count=pl.len())
    events = log.split.events.select("request_id", "part").join(slates, on="request_id", how="left", maintain_order="left")
    answered = pl.when(pl.col("shown") <= pl.col("part")).then("count").fill_null(0).cast(pl.Int64)  # what was passed over may come later
    count_E = np.minimum(events.select(answered).to_series().to_numpy(), MOST)
    device_E = log.moment_EC[:, MOMENT.index("device")]
    both = zip(
        (told.item_row_P, told.logged_P, told.position_P, told.device_P),
        (log.item_row_E, log.propensity_E, log.position_E, device_E),
        strict=True,
    )
    slope_PE = bias.examination(observed, Rows(*(np.concatenate(pair) for pair in both))).slope_N
    slope_P, slope_E = slope_PE[: len(place_P)], slope_PE[len(place_P) :]
    skipped_P = (told.clicked_P == 0) & (place_P < MOST)
    log_slope_P = np.where(skipped_P, np.log(slope_P), -np.inf).astype(np.float32)
    return Beside(
        events["first"].fill_null(0).to_numpy().astype(np.int64), count_E, np.log(slope_E).astype(np.float32),
        np.ones(len(count_E), np.float32), told.item_row_P, log_slope_P, int(count_E.max(initial=0)),
    )  # fmt: skip
