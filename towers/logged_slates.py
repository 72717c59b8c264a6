"""What slates of a retrieval model would have earned, told by slates that chance had decided.

The log tells of every item of a slate how likely it was to stand in it. The target policy puts the model's best eligible items into a
slate of the same length, at the same moment, for the same user with the same history; what it earns is the click-through of a position,
as the log's own order and eyes would have it: an item is taken to be clicked as often in the target's slate as in the log's (Li et al.,
KDD 2018). Eligible is what the user had not taken up, had been released, may be shown at their age and in their region.

Shapes: G requests · B requests of a block · K items of a slate, padded · I catalogue · D width.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from data import judgements
from data.bias import Bias
from data.features import DAY_MS, MOMENT
from data.impressions import Rows, observed
from data.judgements import Judgements
from data.log import Log
from data.split import TEST
from towers import slate_policy
from towers.click_model import ClickModel, fit_click_model
from towers.off_policy import Terms, importance_weight
from towers.ranking_data import ask, history_at
from towers.saved import SavedRetrieval
from towers.verdict import Overlap, Verdict, by_model, by_weights, overlap_of_slates

ADULT = 18  # who has told no year of birth is of age, as in serving
_CELLS = 2**22


class NoVerdictError(ValueError):
    """The log cannot tell what another policy would have earned; the message says why."""


class Logged(NamedTuple):
    """Whole slates of the test part, each row of which has a propensity and a known outcome, and a reward model learnt before it."""

    log: Log
    slates: Judgements
    click_GK: np.ndarray
    user_G: np.ndarray
    click_model: ClickModel | None
    left_out: int

    @property
    def size_G(self) -> np.ndarray:
        """Positions of each slate."""
        return self.slates.there_GK.sum(1).astype(np.float64)


class Earned(NamedTuple):
    """A target policy in the log's rounds: the ratio π / p of each item shown, the clicks a reward model expects of what was shown and of
    the whole target slate (None without one)."""

    ratio_GK: np.ndarray
    predicted_GK: np.ndarray | None
    expected_G: np.ndarray | None


def logged_slates(log: Log) -> Logged:
    """The slates of the test part that can be reckoned with.

    Raises:
        NoVerdictError: no impressions, none in the test part, none with propensities, only single slots with them, or no outcomes.
    """
    if not len(log.split.tables.impressions):
        raise NoVerdictError("the log has no impressions, so nobody knows what was shown and left alone")
    groups = judgements.shown(log)
    test = groups.where(groups.part_G == TEST)
    if not len(test.now_G):
        raise NoVerdictError("no slate was shown in the test part")
    propensity_GK, click_GK = test.propensity_GK, test.label_GKY[..., 0]
    drawn = int((test.there_GK & ~np.isnan(propensity_GK)).sum())
    if not drawn:
        raise NoVerdictError("no impression of the test part has a propensity; what chance did not decide tells of no other choice")
    told_G = (~test.there_GK | ~np.isnan(propensity_GK)).all(1)
    if not told_G.any():
        raise NoVerdictError(
            f"chance decided {drawn:,} of {int(test.there_GK.sum()):,} positions and no whole slate, so only policies of single slots"
            " can be judged: give --draws <the draws.parquet that serving wrote>"
        )
    known_G = told_G & (~test.there_GK | ~np.isnan(click_GK)).all(1)
    if not known_G.any():
        raise NoVerdictError("the impressions of the test part do not say what was clicked")
    kept = test.where(known_G)
    return Logged(
        log, kept, np.where(kept.there_GK, click_GK[known_G], 0.0), kept.user_row_G,
        fit_click_model(log, groups.where(groups.part_G < TEST)), int((~known_G).sum()),
    )  # fmt: skip


def earned(logged: Logged, model: SavedRetrieval, *, share: float) -> Earned:
    """Had each slate been filled by `model`: with its best eligible items where `share` is 0, else evenly from that share of them which it
    scores best (never fewer than the slate has positions), which the log can tell of with far smaller weights."""
    ratio_GK = np.zeros(logged.click_GK.shape)
    predicted_GK, expected_G = np.zeros(logged.click_GK.shape), np.zeros(len(ratio_GK))
    vector_ID = model.rows_after(logged.log.before(TEST))[:, model.width :].float()
    for first in range(0, len(ratio_GK), max(1, _CELLS // len(vector_ID))):
        rows_B = np.arange(first, min(first + max(1, _CELLS // len(vector_ID)), len(ratio_GK)))
        slates = logged.slates.where(rows_B)
        history = history_at(logged.log, slates.start_G, slates.end_G, slates.now_G, model.history_length)
        score_BI = (ask(model, history, slates.moment_GC) @ vector_ID.T).numpy()
        inclusion_BI = inclusion(score_BI, eligible(logged.log, slates), slates.there_GK.sum(1), share=share)
        target_BK = np.take_along_axis(inclusion_BI, slates.item_row_GK, 1)
        there_BK = slates.there_GK
        ratio_GK[first : first + len(rows_B)][there_BK] = importance_weight(target_BK[there_BK], slates.propensity_GK[there_BK])
        if logged.click_model is not None:
            click_BI = logged.click_model.predict(logged.log, slates)
            predicted_GK[rows_B] = np.where(there_BK, np.take_along_axis(click_BI, slates.item_row_GK, 1), 0.0)
            expected_G[rows_B] = (inclusion_BI * click_BI).sum(1)
    return Earned(ratio_GK, *((None, None) if logged.click_model is None else (predicted_GK, expected_G)))


def inclusion(score_BI: np.ndarray, eligible_BI: np.ndarray, size_B: np.ndarray, *, share: float) -> np.ndarray:
    """With which probability each item stands in the target's slate: size / count for the `count` eligible items of best score, float64
    (B, I). count = max(size, ⌈share · eligible⌉), and all eligible where they are fewer than the slate has positions."""
    able_B = eligible_BI.sum(1)
    count_B = np.minimum(np.maximum(size_B, np.ceil(share * able_B - 1e-9).astype(np.int64)), able_B)
    best = torch.as_tensor(np.where(eligible_BI, score_BI, -np.inf)).topk(int(count_B.max(initial=1)), dim=1).indices.numpy()
    probability_B = np.minimum(size_B / np.maximum(count_B, 1), 1.0)
    inclusion_BI = np.zeros(score_BI.shape)
    np.put_along_axis(inclusion_BI, best, np.where(np.arange(best.shape[1]) < count_B[:, None], probability_B[:, None], 0.0), 1)
    return inclusion_BI


def eligible(log: Log, slates: Judgements) -> np.ndarray:
    """What the user of each slate might have been shown: bool (B, I)."""
    tables, users = log.split.tables, len(slates.now_G)
    able_BI = ~(log.catalogue.release_day_I[None, :] > slates.now_G[:, None] / DAY_MS)  # an unknown day is long ago
    size_B = slates.end_G - slates.start_G
    row_B = np.repeat(np.arange(users), size_B)
    event = np.arange(size_B.sum()) - np.repeat(np.cumsum(size_B) - size_B, size_B) + np.repeat(slates.start_G, size_B)
    able_BI[row_B, log.item_row_E[event]] = False
    who = pl.DataFrame({"user_id": pl.Series(log.user_ids, dtype=pl.String).gather(slates.user_row_G)}).join(
        tables.users, on="user_id", how="left", maintain_order="left"
    )
    born_B = who["birth_year"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    age_B = np.nan_to_num(1970 + slates.now_G / DAY_MS / 365.2425 - born_B, nan=ADULT)
    able_BI &= tables.items["maturity"].fill_null(0).to_numpy()[None, :] <= age_B[:, None]
    regions = tables.items["regions"]
    for word in who["region"].drop_nulls().unique():
        shut_I = (~regions.list.contains(word)).fill_null(False).to_numpy()
        able_BI[np.ix_((who["region"] == word).fill_null(False).to_numpy(), shut_I)] = False
    return able_BI


def a_position(terms: Terms, logged: Logged) -> Terms:
    """A sum over the positions of a request as the mean over them."""
    return Terms(terms.top_N, logged.size_G)


def verdicts(logged: Logged, earned_by: Earned, *, cap: float) -> tuple[Overlap, list[Verdict]]:
    """What each estimator says of the click-through of a position, with intervals over users. `cap` is the weight above which clipped IPS
    cuts, and SWITCH believes the model."""
    seen = overlap_of_slates(earned_by.ratio_GK, logged.size_G, logged.user_G)
    ratio_GK, click_GK = earned_by.ratio_GK, logged.click_GK
    told = [
        ("IPS", a_position(slate_policy.item_position(click_GK, ratio_GK), logged)),
        ("clipped IPS", a_position(slate_policy.item_position(click_GK, np.minimum(ratio_GK, cap)), logged)),
        ("SNIPS", slate_policy.item_position_snips(click_GK, ratio_GK)),
    ]
    if earned_by.expected_G is not None:
        rest_GK, expected_G = click_GK - earned_by.predicted_GK, earned_by.expected_G
        told += [
            ("DR", Terms(expected_G + (ratio_GK * rest_GK).sum(1), logged.size_G)),
            ("SWITCH-DR", Terms(expected_G + (np.where(ratio_GK <= cap, ratio_GK, 0.0) * rest_GK).sum(1), logged.size_G)),
        ]
    found = [by_weights(name, terms, seen, logged.user_G) for name, terms in told]
    if earned_by.expected_G is not None:
        found.append(by_model("DM", Terms(earned_by.expected_G, logged.size_G), logged.user_G))
    return seen, found


def had_all_been_looked_at(logged: Logged, bias: Bias) -> Logged:
    """The same slates, each click (and each missing one) corrected by the examination of `bias`, estimated before the test: (click −
    offset) / max(slope, floor), which is on average how often the item is clicked where it is looked at (Vardasbi et al. 2020). Without
    the reward model, which learnt from clicks as they were."""
    slates = logged.slates
    there = slates.there_GK
    device_GK = np.broadcast_to(slates.moment_GC[:, [MOMENT.index("device")]], there.shape)
    rows = Rows(slates.item_row_GK[there], slates.propensity_GK[there], slates.position_GK[there], device_GK[there])
    examination = bias.examination(observed(logged.log, before=TEST), rows)
    click_GK = np.zeros(there.shape)
    click_GK[there] = (logged.click_GK[there] - examination.offset_N) / np.maximum(examination.slope_N, bias.floor)
    return logged._replace(click_GK=click_GK, click_model=None)
