"""What is known of who asks, in rows, and the two models as functions of it. Triton is called here and nowhere else on the path.

Shapes: B histories asked about together · E events of one user · L history length · D width · C moment columns · K candidates.
"""

from dataclasses import dataclass

import numpy as np

from data import features
from serve.contract import MAX_BATCH, History, Request, UserFields
from serve.release import Release
from serve.triton import Client

# Candidates are padded to a multiple of this, so that requests of about one size share a shape and Triton may batch them. A slate's worth
# is sent as it is: slates are of one size anyway, and there each candidate is paid for once a suspect (`serve.explain`).
K_STEP = 32


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
        if count > K_STEP:
            item_row_K = np.concatenate((item_row_K, np.zeros(-count % K_STEP, np.int64)))
        candidate_KD, vector_KD = np.split(self._rows[item_row_K], 2, axis=1)
        number_BKX = self._numbers(query_BD @ vector_KD.astype(np.float32).T, history, item_row_K, now)
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

    def _numbers(self, dot_BK: np.ndarray, history: features.PackedHistory, item_row_K: np.ndarray, now: int) -> np.ndarray:
        return features.candidate_numbers(
            dot_BK=dot_BK,
            item_row_BK=item_row_K[None],
            history=history,
            now_B=np.array([now]),
            clock=self.release.clock,
            genre_IG=self.release.genre_IG,
            release_day_I=self.release.release_day_I,
        )

    @property
    def _rows(self) -> np.ndarray:
        """The item table as a plain array: indexing a memory map makes another memory map, which costs more than the rows do."""
        return np.asarray(self.release.items)

    def _input_half(self, item_row: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._rows[item_row, : self.release.manifest.width])
