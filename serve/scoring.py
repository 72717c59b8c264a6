"""What is known of who asks, in rows, and the two models as functions of it. Triton is called here and nowhere else on the path.

Shapes: B histories asked about together · E events of one user · L history length · D width · C moment columns · U profile columns ·
K candidates.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from data import features
from serve.cold_start import blend
from serve.contract import MAX_BATCH, History, ModelSpec, Request, UserFields
from serve.likeness import from_half
from serve.release import Release
from serve.triton import Client

# Candidates are padded to a multiple of this, so that requests of about one size share a shape and Triton may batch them. A slate's worth
# is sent as it is: slates are of one size anyway, and there each candidate is paid for once a suspect (`serve.explain`).
K_STEP = 32


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, at `now` (ms UTC): their events, oldest first, in rows and codes, and the moment (1, C).

    `taste_D` is what the quiz found, None for who did not take it; `age` the fewest years they can have lived, None where it is not known.
    """

    item_row_E: np.ndarray
    event_code_E: np.ndarray
    timestamp_E: np.ndarray
    moment_BC: np.ndarray
    now: int
    region: str | None = None
    age: int | None = None
    taste_D: np.ndarray | None = None

    @property
    def nobody(self) -> bool:
        """Whether nothing is known of what they like."""
        return not len(self.item_row_E) and self.taste_D is None


def person(release: Release, request: Request, history: History, fields: UserFields) -> tuple[Person, int]:
    """The person of a request, and how many events were left out because the catalogue does not know their item.

    A region in the request wins over the user's own: it says where they are now.
    """
    item_row_E = release.catalogue.rows(history.item_ids)
    known_E = item_row_E >= 0
    code_E = features.event_code(history.event_type_L, history.rating_L, liked_from=release.manifest.liked_from)
    region = request.region if request.region is not None else fields.region
    moment_BC = features.moment(
        np.array([request.timestamp]),
        [request.device],
        [region],
        [fields.subscription_tier],
        np.array([np.nan if fields.birth_year is None else fields.birth_year], np.float64),
        release.vocabulary,
    )
    events = (item_row_E[known_E], code_E[known_E], history.timestamp_L[known_E])
    year = int(1970 + request.timestamp / features.DAY_MS / 365.2425)
    age = None if fields.birth_year is None else year - fields.birth_year - 1  # their birthday may be yet to come
    return Person(*events, moment_BC, request.timestamp, region, age), int((~known_E).sum())


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
    """The user tower and the ranker of one release on one Triton server. Nothing is waited for beyond `deadline` (of `time.monotonic`).

    `priors` is how many of a query's columns, the last, weigh popularity and are no taste.
    """

    release: Release
    client: Client
    priors: int = 0
    deadline: float = math.inf

    def until(self, deadline: float) -> "Scorer":
        """The same, for one request."""
        return replace(self, deadline=deadline)

    def query(self, history: features.PackedHistory, moment_BC: np.ndarray, taste_D: np.ndarray | None = None) -> np.ndarray:
        """Query vectors, float32 (B, D). `moment_BC` has B rows, or one for all. A short history leaves room to the quiz's `taste_D`.

        Raises:
            TritonError: the server did not answer.
        """
        moment_BC = np.broadcast_to(moment_BC, (len(history.item_row_BL), moment_BC.shape[1]))
        parts = []
        for part in _batches(len(moment_BC)):
            row_BLD = self._input_half(history.item_row_BL[part])
            parts += self._ask(
                self.release.user_tower,
                row_BLD,
                history.event_code_BL[part],
                history.age_minutes_BL[part],
                np.ascontiguousarray(moment_BC[part]),
            )
        query_BD = np.concatenate(parts)
        if taste_D is None:
            return query_BD
        count_B = (history.event_code_BL != features.PAD).sum(1)
        return np.stack([blend(query_D, taste_D, int(count), priors=self.priors) for query_D, count in zip(query_BD, count_B, strict=True)])

    def values(
        self, query_BD: np.ndarray, history: features.PackedHistory, moment_BC: np.ndarray, item_row_K: np.ndarray, now: int
    ) -> np.ndarray:
        """The ranker's answer for the same K candidates under each of B queries, one value a head: float32 (B, K, H).

        Raises:
            TritonError: the server did not answer.
        """
        count = len(item_row_K)
        if not count:
            return np.zeros((len(query_BD), 0, len(self.release.manifest.heads)), np.float32)
        if count > K_STEP:
            item_row_K = np.concatenate((item_row_K, np.zeros(-count % K_STEP, np.int64)))
        moment_BC = np.broadcast_to(moment_BC, (len(query_BD), moment_BC.shape[1]))
        width = self.release.manifest.width
        row_KW = self._rows[item_row_K]
        number_BKX = features.candidate_numbers(
            dot_BK=query_BD @ from_half(row_KW[:, width:]).T,
            item_row_BK=item_row_K[None],
            history=history,
            now_B=np.array([now]),
            clock=self.release.clock,
            genre_IG=self.release.genre_IG,
            tag_IT=self.release.tag_IT,
            release_day_I=self.release.release_day_I,
            duration_seconds_I=self.release.duration_seconds_I,
        )
        profile_BU = features.profile(history, self.release.genre_IG)
        candidate_BKD = np.broadcast_to(row_KW[:, :width], (len(query_BD), len(item_row_K), width))
        parts = []
        for part in _batches(len(query_BD)):
            parts += self._ask(
                self.release.ranker,
                query_BD[part],
                np.ascontiguousarray(moment_BC[part]),
                profile_BU[part],
                np.ascontiguousarray(candidate_BKD[part]),
                number_BKX[part],
            )
        return np.concatenate(parts)[:, :count]

    def probability(
        self, query_BD: np.ndarray, history: features.PackedHistory, moment_BC: np.ndarray, item_row_K: np.ndarray, now: int
    ) -> np.ndarray:
        """The relevance head of `values`: float32 (B, K). Raises as it does."""
        return self.values(query_BD, history, moment_BC, item_row_K, now)[:, :, self.release.manifest.relevance_head]

    def _ask(self, model: ModelSpec, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.client.infer(model, *arrays, within_ms=1000 * (self.deadline - time.monotonic()))

    @property
    def _rows(self) -> np.ndarray:
        """The item table as a plain array: indexing a memory map makes another memory map, which costs more than the rows do."""
        return np.asarray(self.release.items)

    def vectors(self, item_row: np.ndarray) -> np.ndarray:
        """The retrieval halves of rows, fp16 (…, D)."""
        return self._rows[item_row, self.release.manifest.width :]

    def _input_half(self, item_row: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._rows[item_row, : self.release.manifest.width])


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, start + MAX_BATCH) for start in range(0, count, MAX_BATCH))
