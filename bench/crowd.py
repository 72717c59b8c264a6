"""The simulated world's people before the real server: they come, look down the page by position, click what attracts them, and tell.

Everything they do is done by the world's own functions (`data.outcomes`); only the slates are somebody else's.

Letters: R requests · S places of a page · I items of the catalogue.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import polars as pl

from data.audience import DAY_MS, DEVICES, END_MS, Audience, Catalogue, draw_request_times
from data.outcomes import Requests, Slates, attract, look_and_click, write_down
from data.schema import Tables
from data.world import Truth, World
from serve.contract import Request
from serve.engine import Engine

EVENTS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Crowd:
    """The people and the titles of a world, after its log ended."""

    world: World
    catalogue: Catalogue
    audience: Audience

    @classmethod
    def of(cls, world: World) -> Self:
        """Those of this world."""
        return cls(world, *world.populate())

    def visits(self, day: int, count: int, rng: np.random.Generator) -> Requests:
        """Who comes on this day after the log's end, and when: about `count` people, the active oftener, nobody twice."""
        here_U = rng.random(len(self.audience.activity_U)) < np.minimum(count * self.audience.activity_U, 1)
        user_row_R = np.flatnonzero(here_U)
        time_ms_R = END_MS + day * DAY_MS + draw_request_times(self.audience, user_row_R, rng) % DAY_MS
        usual_R = rng.random(len(user_row_R)) < 0.75
        device_R = np.where(usual_R, self.audience.device_U[user_row_R], rng.integers(0, len(DEVICES), len(user_row_R)))
        return Requests(np.arange(len(user_row_R)), user_row_R, time_ms_R, device_R, np.zeros(len(user_row_R), np.int64))

    def respond(self, requests: Requests, item_RS: np.ndarray, rng: np.random.Generator) -> tuple[Slates, pl.DataFrame]:
        """What happens to these pages (-1 where a place is empty), and the events of it, whose request_id is the world's: `request_ids`."""
        slates, here = Slates.empty(*item_RS.shape), np.arange(len(item_RS))
        slates.item[:] = item_RS
        slates.propensity[:] = 1.0  # which of the world's rows none is used: what was shown, and by which chance, the server tells
        attract(slates, here, requests, self.catalogue, self.audience, self.world.turn)
        nothing_RI = np.zeros((len(item_RS), len(self.catalogue.quality_I)), bool)  # the page is the server's: nothing is taken from it
        look_and_click(slates, here, requests, self.world.attention, nothing_RI, rng)
        return slates, write_down(slates, requests, self.catalogue, self.audience, rng).events


def day_of_visits(engine: Engine, crowd: Crowd, day: int, *, visits: int, count: int, mmr_lambda: float, seed: int) -> Slates:
    """One day: everybody who comes is answered by the engine, in the order of time; then they look and click, and the engine is told."""
    rng = np.random.default_rng([seed, day])
    requests = crowd.visits(day, visits, rng)
    item_RS = np.full((len(requests.owner_R), count), -1)
    for r in np.argsort(requests.time_ms_R, kind="stable"):
        user_id, device = crowd.audience.table["user_id"][int(requests.user_row_R[r])], DEVICES[requests.device_R[r]]
        request = Request(
            user_id, int(requests.time_ms_R[r]), count=count, device=device, mmr_lambda=mmr_lambda, request_id=f"d{day}-r{user_id[1:]}-000"
        )  # fmt: skip
        slate, _ = engine.recommend(request)
        if slate.answered_by not in ("personalised", "popular"):
            raise RuntimeError(f"{request.request_id} was answered by {slate.answered_by!r}: a page the models did not make is no evidence")
        rows = [int(shown.item_id[1:]) for shown in slate.recommendations]
        item_RS[r, : len(rows)] = rows
    slates, events = crowd.respond(requests, item_RS, rng)
    named = events.with_columns(pl.format("d{}-{}", pl.lit(day), name).alias(name) for name in ("event_id", "request_id"))
    for body in bodies(named):
        engine.record(body)
    return slates


def bodies(events: pl.DataFrame) -> Iterator[bytes]:
    """Events as the server's own door takes them, so many at a time."""
    told = [{name: value for name, value in row.items() if value is not None} for row in events.iter_rows(named=True)]
    for start in range(0, len(told), EVENTS_AT_ONCE):
        yield json.dumps(told[start : start + EVENTS_AT_ONCE]).encode()


class Shown(NamedTuple):
    """What was shown on some pages, place by place, and what the simulation knows of it: the item's row, the probability that it attracts
    whom it was shown to, and that it was looked at."""

    pages: int
    item_N: np.ndarray
    attraction_N: np.ndarray
    examination_N: np.ndarray

    @classmethod
    def of(cls, days: Sequence[Slates]) -> Self:
        """All pages of these days."""
        columns = ([getattr(day, name)[day.shown] for day in days] for name in ("item", "attraction", "examination"))
        return cls(sum(len(day.item) for day in days), *(np.concatenate(column) for column in columns))

    @classmethod
    def before(cls, tables: Tables, truth: Truth) -> Self:
        """What the old policy showed in the log that everything begins with, its randomised tenth left out."""
        own_N = (tables.impressions["arm"] == "policy").to_numpy()
        item_N = tables.impressions["item_id"].str.slice(1).cast(pl.Int64).to_numpy()
        pages = tables.impressions.filter(own_N)["request_id"].n_unique()
        return cls(pages, item_N[own_N], truth.attraction_N[own_N], truth.examination_N[own_N])


def figures(shown: Shown, items: int) -> dict[str, float]:
    """How satisfied people truly were with what they were shown, and how it was spread over the catalogue.

    satisfaction     mean probability that what was shown attracts whom it was shown to, had they looked
    clicks_expected  per page, as they do look
    coverage         share of the catalogue that was shown to anybody
    effective_share  exp(entropy of exposure) as a share of the catalogue: 1 where all items are shown alike
    gini             of exposure over the catalogue: 0 all alike, 1 all one item's
    top_share        of the exposure, what the most shown 1 % of the catalogue has
    gini_seen        the same as gini, of what was looked at
    """
    shown_I = np.bincount(shown.item_N, minlength=items).astype(float)
    seen_I = np.bincount(shown.item_N, weights=shown.examination_N, minlength=items)
    share_I = shown_I[shown_I > 0] / shown_I.sum()
    return {
        "pages": float(shown.pages),
        "satisfaction": float(shown.attraction_N.mean()),
        "clicks_expected": float((shown.attraction_N * shown.examination_N).sum() / shown.pages),
        "coverage": float((shown_I > 0).mean()),
        "effective_share": float(np.exp(-(share_I * np.log(share_I)).sum()) / items),
        "gini": gini(shown_I),
        "top_share": float(np.sort(shown_I)[::-1][: max(1, round(items / 100))].sum() / shown_I.sum()),
        "gini_seen": gini(seen_I),
    }


def gini(value_I: np.ndarray) -> float:
    """Mean absolute difference of two items' values over twice the mean: 0 where all are alike."""
    rank_I = np.arange(1, len(value_I) + 1)
    return float(((2 * rank_I - len(value_I) - 1) * np.sort(value_I)).sum() / (len(value_I) * value_I.sum()))


def answered(slates: list[Slates]) -> Counter[str]:
    """How many places were shown, looked at and clicked."""
    return Counter({name: int(sum(getattr(day, name).sum() for day in slates)) for name in ("shown", "examined", "clicked")})
