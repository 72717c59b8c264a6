"""A simulated audience with known tastes, attention and regions: ground truth to test estimators and models against.

A request comes, a logging policy draws a slate (`data.logging_policy`), eyes travel down it, and what is looked at *and* attracts is
clicked (`data.outcomes`). Only chance whose probability is written down decides what is shown, so every impression row carries an
exact `propensity`. No model or estimator may import this file.

**What `propensity` means.** The probability that this item stands *anywhere* in this request's slate, given what the policy knew
when it drew: the user's estimated taste, what was clicked before, what is released and allowed. It is conditional on the row's `arm`:

- `policy` (nine of ten requests): a slate drawn by systematic sampling (Madow 1949), whose inclusion probabilities are prescribed,
  not estimated. Most mass follows believed popularity and estimated taste, a known share is uniform, no item is certain. The slate
  is ordered by the policy's noisy score, so that low positions hold what the policy thought less of.
- `uniform` (one of ten): a slate of n items of equal inclusion probability n/E, E items being eligible, in random order: an
  experiment on items and on positions.

`propensity` says nothing about being *looked at*: that is `Truth.examination_N`. Since clicked = examined and attracted, drawn
independently, clicked / (propensity · examination) is unbiased for the attraction of every item the user may still be shown
(Schnabel et al. 2016; Joachims et al. 2017).

**What an event is.** A click leaves one event, named for how far it went: `skip` (under 6 % watched), `click` (under 15 %), `watch`,
`complete` (from 90 % on). It is stamped with the moment it ended. One in eight of the last two is followed by a `rate` event of 1 to 5.
An item once clicked is not shown again to the same user. Rows stand by user, then by time. `Items.popularity_score`, `avg_rating` and
`content_embedding` stay empty: whatever they said here, they would know the future.

Letters: B users of a block, R requests, S slots of a slate, I items of the catalogue, D the latent width, N impression rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from data.audience import (
    DAY_MS,
    DEVICES,
    START_MS,
    Audience,
    Catalogue,
    attraction_logit,
    draw_audience,
    draw_catalogue,
    draw_request_times,
    landmarks,
    sigmoid,
)
from data.logging_policy import Policy
from data.outcomes import SOURCE, Attention, Block, Requests, Slates, attract, look_and_click, write_down
from data.schema import ITEMS, USERS, Tables, check, check_table

WEEK_MS = 7 * DAY_MS
ROWS_PER_FILE = 1_000_000
PILOT_USERS = 256


@dataclass(frozen=True, slots=True)
class Truth:
    """What no log tells. The arrays stand row for row beside `Tables.impressions`.

    `examination_N` is the probability that the row was looked at, `examined_N` whether it was, `attraction_N` the probability that it
    attracts who looks, and so is clicked (with `Attention.trust` some of the rest is clicked too), `propensity_N` the probability of
    standing in the slate (see the module).
    """

    catalogue: Catalogue
    audience: Audience
    turn: float
    examination_N: np.ndarray
    examined_N: np.ndarray
    attraction_N: np.ndarray
    propensity_N: np.ndarray

    def relevance(self, user_row_B: np.ndarray, time_ms_B: np.ndarray) -> np.ndarray:
        """Probability that each item attracts each user who looks at it at that moment, [B, I]; rows as in `Tables.users` and `items`.

        It knows neither position nor policy, and is asked block by block because the whole would not fit.
        """
        items, people = self.catalogue, self.audience
        time_ms_B = np.asarray(time_ms_B)
        cosine_BI = people.taste_at(user_row_B, time_ms_B, self.turn) @ items.vector_ID.T
        hour_B1 = people.local_hour(user_row_B, time_ms_B)[:, None]
        return sigmoid(attraction_logit(cosine_BI, items.quality_I, items.length_I, items.released_ms_I, time_ms_B[:, None], hour_B1))


@dataclass(frozen=True, slots=True)
class World:
    """One definition of a world: the same fields always give the same rows, in memory or streamed.

    `events` is how many rows the events table aims at: the number of requests is set by a pilot on the first users, and the outcome
    lies within some percent. `turn` is the angle in radians by which a taste moves during the log's eight weeks.

    Raises:
        ValueError: a size is below 1, or users would click more of the catalogue than leaves the policy a choice.
    """

    users: int
    items: int
    events: int
    seed: int
    attention: Attention
    policy: Policy = Policy()
    turn: float = 1.2

    def __post_init__(self) -> None:
        for name, size in (("users", self.users), ("items", self.items), ("events", self.events)):
            if size < 1:
                raise ValueError(f"World: {name}={size}, expected at least 1.")
        if self.items < 4 * self.policy.slots or self.events / self.users > self.items / 3:
            raise ValueError(
                f"World: {self.items} items are too few for {self.events / self.users:.0f} events a user on slates of {self.policy.slots}; "
                f"take at least {max(4 * self.policy.slots, int(3 * self.events / self.users) + 1)} items, or fewer events."
            )

    @classmethod
    def mild(cls, *, users: int, items: int, events: int, seed: int) -> Self:
        """Eyes tire slowly: position 8 is looked at half as often as the top."""
        return cls(users, items, events, seed, Attention((0.33, 0.33, 0.33)))

    @classmethod
    def strong(cls, *, users: int, items: int, events: int, seed: int) -> Self:
        """Eyes stay at the top, where the policy puts what it wrongly believes popular: raw clicks teach the policy's beliefs."""
        return cls(users, items, events, seed, Attention((1.5, 1.5, 1.5)), Policy(popularity=1.5, popularity_error=1.5, order_noise=0.2))

    @classmethod
    def misspecified(cls, *, users: int, items: int, events: int, seed: int) -> Self:
        """Attention depends on the device and on the neighbouring item, so that no curve of the position alone fits."""
        return cls(users, items, events, seed, Attention((1.6, 0.4, 0.9), neighbour=0.7))

    def populate(self) -> tuple[Catalogue, Audience]:
        """The items and the users, before anything happens between them."""
        rng = np.random.default_rng([self.seed, 0])
        genre_GD, tag_TD = landmarks(rng)
        return draw_catalogue(self.items, genre_GD, tag_TD, rng), draw_audience(self.users, genre_GD, np.random.default_rng([self.seed, 1]))

    def simulate(self) -> tuple[Tables, Truth]:
        """The whole log in memory, and the truth about it."""
        catalogue, audience = self.populate()
        blocks = list(self.blocks(catalogue, audience))
        impressions = pl.concat([block.impressions for block in blocks])
        events = pl.concat([block.events for block in blocks])
        tables = check(events, catalogue.table, audience.table, impressions, source=SOURCE)
        truth = Truth(
            catalogue,
            audience,
            self.turn,
            examination_N=np.concatenate([block.examination_N for block in blocks]),
            examined_N=np.concatenate([block.examined_N for block in blocks]),
            attraction_N=np.concatenate([block.attraction_N for block in blocks]),
            propensity_N=impressions["propensity"].to_numpy(),
        )
        return tables, truth

    def blocks(self, catalogue: Catalogue, audience: Audience) -> Iterator[Block]:
        """The log, some users at a time; memory holds one block, whatever the number of events."""
        size = max(16, min(512, 2_000_000 // self.items))
        requests = max(1, round(self.events / self._events_per_request(catalogue, audience)))
        request_count_U = np.random.default_rng([self.seed, 2]).multinomial(requests, audience.activity_U)
        for number, first in enumerate(range(0, self.users, size)):
            user_row_B = np.arange(first, min(first + size, self.users))
            yield self._block(catalogue, audience, user_row_B, request_count_U[user_row_B], np.random.default_rng([self.seed, 4, number]))

    def _events_per_request(self, catalogue: Catalogue, audience: Audience) -> float:
        user_row_B = np.arange(min(self.users, PILOT_USERS, max(16, 2_000_000 // self.items)))
        yield_per_request = 1.2
        for attempt in range(2):  # the second pilot asks as often as the first one taught: favourites run out
            expected_B = audience.activity_U[user_row_B] * self.events / yield_per_request
            rng = np.random.default_rng([self.seed, 3, attempt])
            count_B = np.maximum(rng.poisson(expected_B), 1)
            block = self._block(catalogue, audience, user_row_B, count_B, rng)
            yield_per_request = max(len(block.events), 1) / count_B.sum()  # a pilot of a few requests may see no event at all
        return yield_per_request

    def _block(
        self, catalogue: Catalogue, audience: Audience, user_row_B: np.ndarray, count_B: np.ndarray, rng: np.random.Generator
    ) -> Block:
        requests = self._requests(audience, user_row_B, count_B, rng)
        slates = Slates.empty(len(requests.owner_R), self.policy.slots)
        allowed_BI = catalogue.maturity_I <= audience.age_U[user_row_B, None]
        clicked_BI = np.zeros(allowed_BI.shape, bool)
        week_R = (requests.time_ms_R - START_MS) // WEEK_MS
        for week in np.unique(week_R):  # the policy plans once a week: what is released later waits for the next plan
            here = np.flatnonzero(week_R == week)
            planned_ms = START_MS + int(week) * WEEK_MS
            score_BI = self.policy.score(catalogue, audience, user_row_B, planned_ms, self.turn)
            eligible_BI = allowed_BI & (catalogue.released_ms_I <= planned_ms) & ~clicked_BI
            slates.item[here], slates.propensity[here] = self.policy.draw_slates(
                score_BI, eligible_BI, requests.owner_R[here], requests.arm_R[here], rng
            )
            attract(slates, here, requests, catalogue, audience, self.turn)
            look_and_click(slates, here, requests, self.attention, clicked_BI, rng)
        return write_down(slates, requests, catalogue, audience, rng)

    def _requests(self, audience: Audience, user_row_B: np.ndarray, count_B: np.ndarray, rng: np.random.Generator) -> Requests:
        owner_R = np.repeat(np.arange(len(user_row_B)), count_B)
        user_row_R = user_row_B[owner_R]
        time_ms_R = draw_request_times(audience, user_row_R, rng)
        time_ms_R = time_ms_R[np.lexsort((time_ms_R, owner_R))]
        usual_R = rng.random(len(owner_R)) < 0.75
        device_R = np.where(usual_R, audience.device_U[user_row_R], rng.integers(0, len(DEVICES), len(owner_R)))
        arm_R = (rng.random(len(owner_R)) < self.policy.uniform_share).astype(np.int64)
        return Requests(owner_R, user_row_R, time_ms_R, device_R, arm_R)


def write(world: World, folder: str | Path) -> Path:
    """Stream the world to `items.parquet`, `users.parquet`, `events-*.parquet` and `impressions-*.parquet` in `folder`.

    Same rows in the same order as `simulate`, files in the order of their names; memory holds items, users and about
    `ROWS_PER_FILE` impressions. Returns the folder.

    Raises:
        FileExistsError: the folder holds Parquet files already, which a reader would mix with these.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.parquet")):
        raise FileExistsError(f"{folder} already holds Parquet files; name an empty folder or remove them first.")
    catalogue, audience = world.populate()
    check_table(catalogue.table, ITEMS, table="items", source=SOURCE).write_parquet(folder / "items.parquet")
    check_table(audience.table, USERS, table="users", source=SOURCE).write_parquet(folder / "users.parquet")
    for number, (events, impressions) in enumerate(_parts(world.blocks(catalogue, audience))):
        events.write_parquet(folder / f"events-{number:05d}.parquet")
        impressions.write_parquet(folder / f"impressions-{number:05d}.parquet")
    return folder


def _parts(blocks: Iterator[Block]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    held: list[Block] = []
    for block in blocks:
        held.append(block)
        if sum(len(one.impressions) for one in held) >= ROWS_PER_FILE:
            yield pl.concat([one.events for one in held]), pl.concat([one.impressions for one in held])
            held = []
    if held:
        yield pl.concat([one.events for one in held]), pl.concat([one.impressions for one in held])


def mild(users: int, items: int, events: int, seed: int) -> Tables:
    """The tables of `World.mild`; the truth about them is in `World.mild(…).simulate()[1]`, from the same numbers."""
    return World.mild(users=users, items=items, events=events, seed=seed).simulate()[0]


def strong(users: int, items: int, events: int, seed: int) -> Tables:
    """The tables of `World.strong`; the truth about them is in `World.strong(…).simulate()[1]`, from the same numbers."""
    return World.strong(users=users, items=items, events=events, seed=seed).simulate()[0]


def misspecified(users: int, items: int, events: int, seed: int) -> Tables:
    """The tables of `World.misspecified`; the truth about them is in `World.misspecified(…).simulate()[1]`, from the same numbers."""
    return World.misspecified(users=users, items=items, events=events, seed=seed).simulate()[0]
