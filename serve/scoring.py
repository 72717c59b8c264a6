"""What is known of who asks, in rows, and the two models as functions of it. Triton is called here and nowhere else on the path.

Shapes: B histories asked about together · E events of one user · L history length · D width · C moment columns · K candidates.
"""

from dataclasses import dataclass

import numpy as np

from data import features
from serve.contract import MAX_BATCH, History, Request, UserFields
from serve.release import Release
from serve.triton import Client

K_STEP = 32  # candidates are padded to a multiple of this, so that requests of about one size share a shape and Triton may batch them


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, at `now` (ms UTC): their events, oldest first, in rows and codes, and the moment (1, C)."""

    item_row_E: np.ndarray
    event_code_E: np.ndarray
    timestamp_E: np.ndarray
    moment_BC: np.ndarray
    now: int


def person(release: Release, request: Request, history: History, fields: UserFields) -> tuple[Person, int]:
    """The person of a request, and how many events were left out because the catalogue does not know their item.

    A region in the request wins over the user's own: it says where they are now.
    """
    item_row_E = release.catalogue.rows(history.item_ids)
    known_E = item_row_E >= 0
    code_E = features.event_code(history.event_type_L, history.rating_L, liked_from=release.manifest.liked_from)
    moment_BC = features.moment(
        np.array([request.timestamp]),
        [request.device],
        [request.region if request.region is not None else fields.region],
        [fields.subscription_tier],
        np.array([np.nan if fields.birth_year is None else fields.birth_year], np.float64),
        release.vocabulary,
    )
    events = (item_row_E[known_E], code_E[known_E], history.timestamp_L[known_E])
    return Person(*events, moment_BC, request.timestamp), int((~known_E).sum())


def pack(who: Person, length: int) -> features.PackedHistory:
    """The person's last `length` events as the models read them, B = 1."""
    start_B, end_B, now_B = np.array([0]), np.array([len(who.item_row_E)]), np.array([who.now])
    return features.pack(
        who.item_row_E, who.event_code_E, who.timestamp_E, start_B=start_B, end_B=end_B, now_B=now_B, length=length
    )  # fmt: skip


def pack_without(who: Person, left_out_X: np.ndarray, length: int) -> features.PackedHistory:
    """B = X histories of the same person, number x as if the item `left_out_X[x]` had never been touched."""
    keep_XE = who.item_row_E[None, :] != left_out_X[:, None]
    event_F = np.nonzero(keep_XE)[1]
    end_X = keep_XE.sum(1).cumsum()
    return features.pack(
        who.item_row_E[event_F],
        who.event_code_E[event_F],
        who.timestamp_E[event_F],
        start_B=np.concatenate(([0], end_X[:-1])),
        end_B=end_X,
        now_B=np.full(len(left_out_X), who.now),
        length=length,
    )


@dataclass(frozen=True, slots=True)
class Scorer:
    """The user tower and the ranker of one release on one Triton server."""

    release: Release
    client: Client

    def query(self, history: features.PackedHistory, moment_BC: np.ndarray) -> np.ndarray:
        """Query vectors, float32 (B, D). `moment_BC` has B rows, or one for all.

        Raises:
            TritonError: the server did not answer.
        """
        moment_BC = np.broadcast_to(moment_BC, (len(history.item_row_BL), moment_BC.shape[1]))
        parts = []
        for start in range(0, len(moment_BC), MAX_BATCH):
            part = slice(start, start + MAX_BATCH)
            row_BLD = self._input_half(history.item_row_BL[part])
            parts += self.client.infer(
                self.release.user_tower,
                row_BLD,
                history.event_code_BL[part],
                history.age_minutes_BL[part],
                np.ascontiguousarray(moment_BC[part]),
            )
        return np.concatenate(parts)

    def probability(
        self, query_BD: np.ndarray, history: features.PackedHistory, moment_BC: np.ndarray, item_row_K: np.ndarray, now: int
    ) -> np.ndarray:
        """The relevance head's answer for the same K candidates under each of B queries: float32 (B, K).

        Raises:
            TritonError: the server did not answer.
        """
        count = len(item_row_K)
        if not count:
            return np.zeros((len(query_BD), 0), np.float32)
        item_row_K = np.concatenate((item_row_K, np.zeros(-count % K_STEP, np.int64)))
        number_BKX = self._numbers(query_BD, history, item_row_K, now)
        candidate_KD = self._input_half(item_row_K)
        moment_BC = np.broadcast_to(moment_BC, (len(query_BD), moment_BC.shape[1]))
        parts = []
        for start in range(0, len(query_BD), MAX_BATCH):
            part = slice(start, start + MAX_BATCH)
            candidate_BKD = np.broadcast_to(candidate_KD, (len(query_BD[part]), *candidate_KD.shape))
            parts += self.client.infer(
                self.release.ranker,
                query_BD[part],
                np.ascontiguousarray(moment_BC[part]),
                np.ascontiguousarray(candidate_BKD),
                number_BKX[part],
            )
        return np.concatenate(parts)[:, :count, self.release.manifest.relevance_head]

    def _numbers(self, query_BD: np.ndarray, history: features.PackedHistory, item_row_K: np.ndarray, now: int) -> np.ndarray:
        vector_KD = self.release.items[item_row_K, self.release.manifest.width :].astype(np.float32)
        return features.candidate_numbers(
            dot_BK=query_BD @ vector_KD.T,
            item_row_BK=np.broadcast_to(item_row_K, (len(query_BD), len(item_row_K))),
            history=history,
            now_B=np.full(len(query_BD), now),
            clock=self.release.clock,
            genre_IG=self.release.genre_IG,
            release_day_I=self.release.release_day_I,
        )

    def _input_half(self, item_row: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.release.items[item_row, : self.release.manifest.width])
