"""What a ranker learns from: groups of items that stood side by side, and what came of each.

From impressions, a group is a slate as it was shown: what was skipped is a real negative. Without impressions a group is a liked event
beside items that retrieval would have proposed and the user never touched.

Shapes: G groups · K items per group, padded · C moment columns · P impressions.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data import impressions
from data.features import is_liked, moment
from data.log import Log

LABELS = ("click", "complete", "watch_seconds", "skip", "rating")


def ratings(log: Log, frame: pl.DataFrame) -> np.ndarray:
    """The last rating that an impression's request brought its item, float32 (P,), NaN where none did."""
    rated = log.split.tables.events.filter(
        pl.col("event_type") == "rate", pl.col("rating").is_not_null(), pl.col("request_id").is_not_null()
    )
    last = rated.sort("timestamp").unique(["request_id", "item_id"], keep="last").select("request_id", "item_id", "rating")
    joined = frame.select("request_id", "item_id").join(last, on=["request_id", "item_id"], how="left", maintain_order="left")
    return joined["rating"].fill_null(float("nan")).to_numpy()


@dataclass(frozen=True, slots=True)
class Judgements:
    """Group g was asked at now_G[g] with history events start_G[g] ≤ e < end_G[g] of the log.

    `item_row_GK` is padded with 0 where `there_GK` is False; `label_GKY` is (click 0/1, complete 0/1, seconds watched, skip 0/1,
    rating), NaN where unknown.
    `propensity_GK` is NaN where the log says nothing; `position_GK` is 0 where nothing was shown.
    """

    user_row_G: np.ndarray
    start_G: np.ndarray
    end_G: np.ndarray
    now_G: np.ndarray
    moment_GC: np.ndarray
    part_G: np.ndarray
    item_row_GK: np.ndarray
    there_GK: np.ndarray
    label_GKY: np.ndarray
    propensity_GK: np.ndarray
    position_GK: np.ndarray

    def where(self, keep_G: np.ndarray) -> "Judgements":
        """The groups kept."""
        return Judgements(*(getattr(self, name)[keep_G] for name in self.__slots__))


def shown(log: Log) -> Judgements:
    """One group per request, in the order of positions. A request belongs to the part of its time where one cut parts all users, else to
    the part of the user's next event, of their last where there is none after it, and to training where they have no event at all; to
    none (`impressions.OPEN`) if it was answered in a later one."""
    frame = impressions.frame(log)
    group_P = frame["request_id"].rle_id().to_numpy().astype(np.int64)
    first = np.flatnonzero(np.diff(group_P, prepend=-1))
    size_G = np.diff(np.append(first, len(group_P)))
    place_P = np.arange(len(group_P)) - np.repeat(first, size_G)
    shape = (len(first), int(size_G.max(initial=1)))
    head = frame[first]
    now_G, user_row_G = head["timestamp"].to_numpy(), head["user_row"].to_numpy()
    end_G = impressions.events_before(log, user_row_G, now_G)

    def spread(values: np.ndarray, empty: float) -> np.ndarray:
        table = np.full(shape, empty, values.dtype)
        table[group_P, place_P] = values
        return table

    def outcome(name: str) -> np.ndarray:
        return frame[name].cast(pl.Float32).fill_null(float("nan")).to_numpy()

    born_G = head["birth_year"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    outcomes = [outcome(name) for name in ("clicked", "completed", "watch_duration_seconds", "skipped")]
    labels = [spread(values, np.nan) for values in (*outcomes, ratings(log, frame))]
    return Judgements(
        user_row_G, log.offset_U1[user_row_G], end_G, now_G,
        moment(now_G, head["device"], head["region"], head["subscription_tier"], born_G, log.vocabulary),
        head["part"].to_numpy(),
        spread(frame["item_row"].to_numpy(), 0), spread(np.ones(len(group_P), bool), False), np.stack(labels, axis=2),
        spread(frame["propensity"].fill_null(float("nan")).to_numpy(), np.nan),
        spread(frame["position"].cast(pl.Int64).to_numpy(), 0),
    )  # fmt: skip


def retrieved(log: Log, proposal_NK: np.ndarray, event_N: np.ndarray, *, negatives: int, seed: int) -> Judgements:
    """One group per liked event `event_N` whose item retrieval proposed: that item first, then `negatives` drawn evenly from the rest of
    `proposal_NK`, what retrieval proposed there, best first.

    An event whose item was not proposed makes no group: a ranker only ever orders what was proposed, and where positives come from anywhere
    but negatives from the top, it learns that to lie near the query is a bad sign. Proposals that the user touched in the event's own part
    or an earlier one are not drawn: they may be positives of another day. Groups with fewer are padded.
    """
    proposed_N = (proposal_NK == log.item_row_E[event_N][:, None]).any(1)
    event_N, proposal_NK = event_N[proposed_N], proposal_NK[proposed_N]
    item_count = len(log.catalogue.item_ids)
    user_row_N, own_N = log.user_row_E[event_N], log.item_row_E[event_N]
    free_NK, draw_NK = proposal_NK >= 0, np.empty(proposal_NK.shape)
    for part in np.unique(log.part_E[event_N]):
        known_E, mine_N = log.part_E <= part, log.part_E[event_N] == part
        touched = np.unique(log.user_row_E[known_E] * item_count + log.item_row_E[known_E])
        free_NK[mine_N] &= ~np.isin(user_row_N[mine_N, None] * item_count + proposal_NK[mine_N], touched)
        # each part by a generator of its own: what is drawn to learn from does not hang on the test
        draw_NK[mine_N] = np.random.default_rng([seed, part]).random(draw_NK[mine_N].shape)
    order_NK = np.where(free_NK, draw_NK, 2.0).argsort(1)[:, :negatives]
    drawn_NK = np.take_along_axis(proposal_NK, order_NK, 1)
    there_NK = np.concatenate([np.ones((len(event_N), 1), bool), np.take_along_axis(free_NK, order_NK, 1)], axis=1)
    item_row_NK = np.where(there_NK, np.concatenate([own_N[:, None], drawn_NK], axis=1), 0)
    label_NKY = np.full((*item_row_NK.shape, len(LABELS)), np.nan, np.float32)
    label_NKY[..., 0] = np.where(there_NK, 0.0, np.nan)
    label_NKY[:, 0, 0] = is_liked(log.event_code_E[event_N])
    label_NKY[:, 0, LABELS.index("rating")] = log.rating_E[event_N]
    return Judgements(
        user_row_N, log.offset_U1[user_row_N], event_N, log.timestamp_E[event_N], log.moment_EC[event_N], log.part_E[event_N],
        item_row_NK, there_NK, label_NKY, np.full(item_row_NK.shape, np.nan),
        np.zeros(item_row_NK.shape, np.int64),
    )  # fmt: skip
