"""Who is in which arm, and whether the difference is real.

An arm is drawn from nothing but the user's id and the experiment's salt, so every process and every day agree without asking each other.
Shapes: U users.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.special import chdtrc

from serve.contract import LoggedSlate

CLICKS = ("click", "watch", "complete")
FIGURES = ("click_through", "watch_seconds_per_slate", "completion")
SUM_TOLERANCE = 1e-9


def place(user_id: str, salt: str) -> float:
    """Where a user stands in [0, 1): the first 53 bits of SHA-256(salt, NUL, user_id). Another salt stirs all users anew."""
    digest = hashlib.sha256(f"{salt}\0{user_id}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def arm(user_id: str, salt: str, shares: Mapping[str, float]) -> str:
    """The arm of a user: the arms lie side by side in [0, 1) in the order of `shares`, each as wide as its share.

    So only users between an arm's old and new edges move when shares change: growing the last of two arms from .1 to .2 moves the tenth of
    the users just before it and nobody else. Reordering arms, or renaming the salt, moves nearly everyone.

    Raises:
        ValueError: no arm, a negative share, or shares that do not sum to 1.
    """
    if not shares or not all(share >= 0 for share in shares.values()) or abs(math.fsum(shares.values()) - 1) > SUM_TOLERANCE:
        raise ValueError(f"shares are {dict(shares)}; expected at least one arm, shares of at least 0, and a sum of 1")
    at, edge = place(user_id, salt), 0.0
    taken = [name for name, share in shares.items() if share > 0]
    for name in taken:
        edge += shares[name]
        if at < edge:
            return name
    return taken[-1]  # the sum may fall short of 1 by a rounding


class Estimate(NamedTuple):
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm. `figures` by the names of `FIGURES`; `differences` are to the champion, and none for the champion itself."""

    arm: str
    users: int
    slates: int
    figures: Mapping[str, float]
    differences: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Report:
    """All arms, the champion first.

    `mismatch_p` is the probability of users parted at least this unevenly were the shares kept: below .001, something loses users of one
    arm, and no difference below means anything (Fabijan et al., KDD 2019). None where a single arm has a share. `users_in_several_arms`
    saw more than one arm, which an assignment that stayed as it was does not do. `events_unmatched` tell of a request that no slate of
    theirs has, or of an item it did not show.
    """

    arms: tuple[ArmReport, ...]
    mismatch_p: float | None
    users_in_several_arms: int
    events_unmatched: int


def report(
    slates: Iterable[LoggedSlate],
    events: pl.DataFrame,
    *,
    champion: str,
    shares: Mapping[str, float],
    liked_from: float = -math.inf,
) -> Report:
    """What came of the slates of each arm. `events` has the columns of `serve.store.Event`, as `Store.events_since` gives them.

    Per slate: click-through is whether any of its items was clicked, watched, completed or rated `liked_from` or more *from it* (the event
    bears the slate's request_id); completion whether any was completed; watch seconds sum, over its items, the longest duration told.

    Intervals go by the delta method over users, who are what was randomised: slates of one user are alike, and counted as independent
    they would make every difference look real (Deng, Knoblich & Lu, Applying the Delta Method in Metric Analytics, KDD 2018).

    Raises:
        ValueError: a slate of an arm that has no share, or shares without the champion: report the days of one assignment.
    """
    if champion not in shares:
        raise ValueError(f"shares are of {', '.join(shares)}; expected one of the champion {champion!r}")
    told, unmatched = _outcomes(_by_slate(slates), events, liked_from)
    strangers = sorted(set(told["arm"]) - set(shares))
    if strangers:
        raise ValueError(f"slates of arm {strangers[0]!r}, which has no share ({', '.join(shares)}); report the days of one assignment")
    by_user = told.group_by("arm", "user_id").agg(slates=pl.len().cast(pl.Float64), **{name: pl.col(name).sum() for name in FIGURES})
    of_arm = {name: by_user.filter(pl.col("arm") == name).sort("user_id") for name in (champion, *(n for n in shares if n != champion))}
    against = of_arm[champion]
    arms = tuple(
        ArmReport(
            name, len(users), int(users["slates"].sum()), {figure: _ratio(users, figure)[0] for figure in FIGURES},
            {} if name == champion else {figure: difference(users, against, figure) for figure in FIGURES},
        )
        for name, users in of_arm.items()
    )  # fmt: skip
    several = by_user.group_by("user_id").len().filter(pl.col("len") > 1).height
    return Report(arms, mismatch_p({one.arm: one.users for one in arms}, shares), several, unmatched)


def difference(users: pl.DataFrame, champion: pl.DataFrame, figure: str) -> Estimate:
    """The figure of one arm less that of the champion. Frames have one row per user: `slates` and the sum of the figure over them."""
    (value, variance), (base, base_variance) = _ratio(users, figure), _ratio(champion, figure)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance + base_variance)
    return Estimate(value - base, value - base - half, value - base + half)


def _ratio(users: pl.DataFrame, figure: str) -> tuple[float, float]:
    """Σx / Σn over users, and its variance: (s_xx − 2R·s_xn + R²·s_nn) / (U·n̄²). NaN where there is nothing to say it from."""
    if not len(users):
        return math.nan, math.nan
    x_U, n_U = users[figure].cast(pl.Float64).to_numpy(), users["slates"].to_numpy()
    ratio = float(x_U.sum() / n_U.sum())
    if len(users) < 2:
        return ratio, math.nan
    residual_U = x_U - ratio * n_U  # its variance is the bracket above
    return ratio, float(np.var(residual_U, ddof=1) / (len(users) * n_U.mean() ** 2))


def mismatch_p(users: Mapping[str, int], shares: Mapping[str, float]) -> float | None:
    """Pearson's χ² test of users per arm against the shares: the sample-ratio mismatch. None where nothing could mismatch."""
    expected = {name: share * sum(users.values()) for name, share in shares.items() if share > 0}
    if any(users.get(name, 0) for name in set(users) - set(expected)):
        return 0.0  # users in an arm that should have none
    if len(expected) < 2 or not sum(users.values()):
        return None
    statistic = math.fsum((users.get(name, 0) - count) ** 2 / count for name, count in expected.items())
    return float(chdtrc(len(expected) - 1, statistic))


def _by_slate(slates: Iterable[LoggedSlate]) -> pl.DataFrame:
    schema = {"request_id": pl.String, "user_id": pl.String, "arm": pl.String, "item_ids": pl.List(pl.String)}
    rows = [(slate.request_id, slate.user_id, slate.arm, list(slate.item_ids)) for slate in slates]
    return pl.DataFrame(rows, schema=schema, orient="row").unique("request_id", keep="first", maintain_order=True)


def _outcomes(slates: pl.DataFrame, events: pl.DataFrame, liked_from: float) -> tuple[pl.DataFrame, int]:
    """Every slate with what came of it, and how many events that name a request found none."""
    named = events.filter(pl.col("request_id").is_not_null())
    shown = slates.explode("item_ids").select("request_id", "user_id", item_id="item_ids").unique()
    matched = named.join(shown, on=["request_id", "user_id", "item_id"], how="semi")
    liked = pl.col("event_type").is_in(CLICKS) | ((pl.col("event_type") == "rate") & (pl.col("rating") >= liked_from))
    by_item = matched.group_by("request_id", "item_id").agg(
        click_through=liked.fill_null(False).any(),
        completion=(pl.col("event_type") == "complete").any(),
        watch_seconds_per_slate=pl.col("watch_duration_seconds").cast(pl.Float64).max().fill_null(0.0),
    )
    by_request = by_item.group_by("request_id").agg(pl.col("click_through", "completion").any(), pl.col("watch_seconds_per_slate").sum())
    told = slates.join(by_request, on="request_id", how="left").with_columns(
        pl.col(name).cast(pl.Float64).fill_null(0.0) for name in FIGURES
    )
    return told, len(named) - len(matched)
