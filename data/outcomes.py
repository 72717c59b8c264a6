"""What comes of a slate in the simulated world: eyes, clicks, watching, and the tables they are written down in.

Letters: R requests, S slots of a slate, I items of the catalogue, B users of a block, N impression rows.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import polars as pl

from data.audience import DEVICES, REGIONS, TASTE_STRENGTH, Audience, Catalogue, attraction_logit, ids, sigmoid
from data.schema import EVENTS, IMPRESSIONS, check_table

SOURCE = "simulated world"
ARMS = ("policy", "uniform")
SOURCES = (("popularity", "taste"), ("uniform",))  # of each arm
SKIPPED, CLICKED, COMPLETED = 0.06, 0.15, 0.9  # share watched: less than the first is a skip, than the second a mere click


@dataclass(frozen=True, slots=True)
class Attention:
    """Position k is looked at with probability k^-exponent (Joachims et al. 2017), the exponent being the device's own, times
    1 - neighbour · (attraction of the item above): what stands under something tempting is overlooked.

    `trust` is by position the probability that what was looked at and did not attract is clicked all the same, because it stands there
    (Agarwal et al. 2019); none below its end. Such a click is followed by the watching that the item deserves.
    """

    exponent_by_device: tuple[float, float, float]
    neighbour: float = 0.0
    trust: tuple[float, ...] = ()

    def examination(self, device_R: np.ndarray, attraction_RS: np.ndarray) -> np.ndarray:
        """Probability that each slot is looked at, [R, S], slots from the top."""
        above_RS = np.concatenate([np.zeros((len(attraction_RS), 1)), attraction_RS[:, :-1]], axis=1)
        exponent_R1 = np.array(self.exponent_by_device)[device_R, None]
        return np.arange(1.0, attraction_RS.shape[1] + 1) ** -exponent_R1 * (1 - self.neighbour * above_RS)

    def click_if_examined(self, attraction_RS: np.ndarray) -> np.ndarray:
        """Probability that what is looked at is clicked, [R, S]: it attracts, or it does not and its place is trusted."""
        trust_S = np.zeros(attraction_RS.shape[1])
        known = min(len(self.trust), len(trust_S))
        trust_S[:known] = self.trust[:known]
        return attraction_RS + (1 - attraction_RS) * trust_S


class Requests(NamedTuple):
    """Requests of a block by user, then by time; `owner_R` is the user's row in the block, `user_row_R` in the audience."""

    owner_R: np.ndarray
    user_row_R: np.ndarray
    time_ms_R: np.ndarray
    device_R: np.ndarray
    arm_R: np.ndarray


class Slates(NamedTuple):
    """What stood in each slot, column 0 being position 1, and what came of it; filled in place. `item` is -1 where nothing stood."""

    item: np.ndarray
    propensity: np.ndarray
    cosine: np.ndarray
    attraction: np.ndarray
    examination: np.ndarray
    shown: np.ndarray
    examined: np.ndarray
    clicked: np.ndarray

    @classmethod
    def empty(cls, requests: int, slots: int) -> Self:
        """Room for that many slates, nothing shown."""
        numbers = [np.zeros((requests, slots)) for _ in range(4)]
        return cls(np.full((requests, slots), -1), *numbers, *(np.zeros((requests, slots), bool) for _ in range(3)))


class Block(NamedTuple):
    """The log of some users, and what only the simulation knows about each of its impressions (arrays of one length)."""

    events: pl.DataFrame
    impressions: pl.DataFrame
    examination_N: np.ndarray
    examined_N: np.ndarray
    attraction_N: np.ndarray


def attract(slates: Slates, here: np.ndarray, requests: Requests, catalogue: Catalogue, audience: Audience, turn: float) -> None:
    """Fill in how much each item of the slates `here` attracts its user at that moment."""
    item_RS, user_row_R, time_ms_R = slates.item[here], requests.user_row_R[here], requests.time_ms_R[here]
    cosine_RS = np.einsum("rd,rsd->rs", audience.taste_at(user_row_R, time_ms_R, turn), catalogue.vector_ID[item_RS])
    slates.cosine[here] = cosine_RS
    slates.attraction[here] = sigmoid(
        attraction_logit(
            cosine_RS,
            catalogue.quality_I[item_RS],
            catalogue.length_I[item_RS],
            catalogue.released_ms_I[item_RS],
            time_ms_R[:, None],
            audience.local_hour(user_row_R, time_ms_R)[:, None],
        )
    )


def look_and_click(
    slates: Slates, here: np.ndarray, requests: Requests, attention: Attention, clicked_BI: np.ndarray, rng: np.random.Generator
) -> None:
    """Play the requests `here` in each user's order: drop what the user clicked since the slate was planned, close the gaps, look, click.

    Dropping leaves the propensities of the others as they are, because each item's own inclusion probability is prescribed.
    """
    owner = requests.owner_R[here]
    nth = np.arange(len(here)) - np.searchsorted(owner, owner)
    look, want = rng.random((2, len(here), slates.item.shape[1]))
    by_nth = np.argsort(nth, kind="stable")
    for now in np.split(by_nth, np.cumsum(np.bincount(nth))[:-1]):  # at most one request of each user at a time
        rows, who = here[now], owner[now, None]
        gone = (slates.item[rows] < 0) | clicked_BI[who, slates.item[rows]]
        closed = np.argsort(gone, axis=1, kind="stable")
        for column in (slates.item, slates.propensity, slates.cosine, slates.attraction):
            column[rows] = np.take_along_axis(column[rows], closed, 1)
        shown = ~np.take_along_axis(gone, closed, 1)
        examination = attention.examination(requests.device_R[rows], slates.attraction[rows])
        examined = shown & (look[now] < examination)
        clicked = examined & (want[now] < attention.click_if_examined(slates.attraction[rows]))
        slates.shown[rows], slates.examination[rows], slates.examined[rows], slates.clicked[rows] = shown, examination, examined, clicked
        row, slot = np.nonzero(clicked)
        clicked_BI[who[row, 0], slates.item[rows[row], slot]] = True


def write_down(slates: Slates, requests: Requests, catalogue: Catalogue, audience: Audience, rng: np.random.Generator) -> Block:
    """The rows of the impressions and events tables, and the truth beside each impression."""
    request_N, slot_N = np.nonzero(slates.shown)
    item_N, propensity_N, cosine_N, attraction_N, examination_N, _, examined_N, clicked_N = (column[request_N, slot_N] for column in slates)
    engaged_N = 0.2 + 0.7 * TASTE_STRENGTH * (cosine_N - 0.35) - 0.3 * catalogue.length_I[item_N]
    part_N = np.where(clicked_N, sigmoid(engaged_N + 1.6 * rng.standard_normal(len(item_N))), 0.0)
    user_row_N = requests.user_row_R[request_N]
    nth_R = np.arange(len(requests.owner_R)) - np.searchsorted(requests.owner_R, requests.owner_R)
    request_id_R = ids("r", requests.user_row_R) + "-" + pl.Series(nth_R).cast(pl.String).str.zfill(3)
    arm_N, device_N = requests.arm_R[request_N], requests.device_R[request_N]
    impressions = pl.DataFrame(
        {
            "request_id": request_id_R[request_N],
            "item_id": catalogue.table["item_id"][item_N],
            "user_id": audience.table["user_id"][user_row_N],
            "position": (slot_N + 1).astype(np.int32),
            "sources": pl.Series([list(names) for names in SOURCES])[arm_N],
            "propensity": propensity_N,
            "arm": pl.Series(ARMS)[arm_N],
            "release": "simulated",
            "timestamp": requests.time_ms_R[request_N],
            "device": pl.Series(DEVICES)[device_N],
            "region": pl.Series(REGIONS)[audience.region_U[user_row_N]],
            "clicked": clicked_N,
            "completed": part_N >= COMPLETED,
            "skipped": clicked_N & (part_N < SKIPPED),
            "watch_duration_seconds": (part_N * catalogue.duration_seconds_I[item_N]).astype(np.float32),
        }
    )
    impressions = check_table(impressions, IMPRESSIONS, table="impressions", source=SOURCE)
    events = _events_of(impressions, part_N, cosine_N, rng)
    return Block(events, impressions, examination_N, examined_N, attraction_N)


def _events_of(impressions: pl.DataFrame, part_N: np.ndarray, cosine_N: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    at_N = np.flatnonzero(impressions["clicked"].to_numpy())
    shown, part_N, cosine_N = impressions[at_N], part_N[at_N], cosine_N[at_N]
    how_far_N = np.searchsorted([SKIPPED, CLICKED, COMPLETED], part_N, side="right")
    opened_seconds_N = 2 + 3 * shown["position"].to_numpy() + 3 * rng.random(len(at_N))  # the eyes travel down before the hand moves
    watched_seconds_N = shown["watch_duration_seconds"].to_numpy().astype(np.float64)
    ended_ms_N = shown["timestamp"].to_numpy() + (1000 * (opened_seconds_N + watched_seconds_N)).astype(np.int64)
    stars_N = np.clip(np.round(3.4 + 3 * (cosine_N - 0.35) + 0.9 * rng.standard_normal(len(at_N))), 1, 5)  # a scale has ends
    rated_N = (rng.random(len(at_N)) < 0.125) & (part_N >= CLICKED)
    rated_ms_N = ended_ms_N + rng.integers(5_000, 60_000, len(at_N))
    seen = shown.select("request_id", "user_id", "item_id", "device", "region", "position", "watch_duration_seconds").with_columns(
        event_type=pl.Series(["skip", "click", "watch", "complete"])[how_far_N],
        timestamp=pl.Series(ended_ms_N),
        rating=pl.lit(None, pl.Float32),
    )
    rated = seen.with_columns(
        event_type=pl.lit("rate"),
        timestamp=pl.Series(rated_ms_N),
        rating=pl.Series(stars_N, dtype=pl.Float32),
        watch_duration_seconds=pl.lit(None, pl.Float32),
    ).filter(rated_N)
    events = pl.concat([seen, rated]).with_columns(event_id=pl.format("{}-{}-{}", "request_id", "position", "event_type"))
    return check_table(events.drop("position").sort("user_id", "timestamp", "event_id"), EVENTS, table="events", source=SOURCE)
