"""What crosses the rooms of serving: the request, what is known of the user, candidates, the slate, and the tensors of each model.

Shapes: B batch · L history length · D width · C moment columns · U profile columns · K candidates · X numbers · H heads · F item features.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

CONTEXTS = ("homepage", "item", "continue", "search-empty")
DIVERSITIES = ("mmr", "dpp", "calibrated")
MAX_COUNT = 200
MAX_ID_BYTES = 256
MAX_BATCH = 256
MAX_HISTORY = 5_000
"""Events kept of each user: how far back "already watched" looks. The models read the newest of them."""
ORDERED_BY = "value"
"""The ranker's head that pages are ordered by, in [0, 1]: what scores, boosts, reasons and golden answers are of."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question: what should this user be shown, here and now? `timestamp` is ms UTC.

    `diversity` is how the slate is chosen, `live` asks for an answer made now even where a precomputed one would do. `before` are the marks
    (`serve.paging`) of what earlier pages showed and this one does not. `within_ms` is how long the caller still waits.
    """

    user_id: str
    timestamp: int
    count: int = 25
    context: str = "homepage"
    item_id: str | None = None
    device: str | None = None
    region: str | None = None
    mmr_lambda: float = 0.7
    diversity: str = "mmr"
    live: bool = False
    before: tuple[int, ...] = ()
    within_ms: float = math.inf
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class History:
    """What one user did, oldest first; as the store keeps it, so items are ids and not yet rows.

    `event_type_L` holds `data.features.EVENT_TYPE_CODE`, `rating_L` NaN where nothing was rated, `timestamp_L` ms UTC.
    """

    item_ids: tuple[str, ...]
    event_type_L: np.ndarray
    rating_L: np.ndarray
    timestamp_L: np.ndarray


@dataclass(frozen=True, slots=True)
class UserFields:
    """What is known of a user besides what they did."""

    region: str | None = None
    subscription_tier: str | None = None
    birth_year: int | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Merged proposals, each item once. Bit s of `source_K` is set where source number s proposed the item."""

    item_row_K: np.ndarray
    source_K: np.ndarray


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One shown item: `score` is the ranker's value of it, in [0, 1], or None where no model was asked, `reason` a sentence that is true,
    `row` its shelf, `sources` the names of all that proposed it, `genres` the item's."""

    item_id: str
    title: str
    score: float | None
    reason: str
    row: str
    sources: tuple[str, ...] = ()
    genres: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """How chance entered a slate: each slot in `slots` (places from 0) kept its item with probability 1 − `epsilon`, or drew uniformly and
    without replacement from `pool`, the eligible items that the page did not hold. `drawn` says what was drawn, None where a slot kept."""

    epsilon: float
    slots: tuple[int, ...]
    pool: tuple[str, ...]
    drawn: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Precomputed:
    """A slate made ahead of its request, best first: at most 100 recommendations in the order they were chosen.

    `made_at` is ms UTC; `sequence` the number of the user's last event it knew of; `model_version` the release that made it;
    `query_D` the user's vector then, float32. A store unpacks the recommendations when somebody looks at them.
    """

    made_at: int
    sequence: int
    model_version: str
    query_D: np.ndarray
    recommendations: Sequence[Recommendation]


@dataclass(frozen=True, slots=True)
class Known:
    """All that a store knows of one user, read in one round trip.

    `sequence` is the number of the user's last appended event, 0 where none ever was. `shown` counts how often each item was
    shown to the user within the store's window of days. `answers` are those of the quiz: (item_id, liked).
    """

    history: History
    fields: UserFields
    sequence: int = 0
    shown: Mapping[str, int] = field(default_factory=dict)
    answers: tuple[tuple[str, bool], ...] = ()
    precomputed: Precomputed | None = None


@dataclass(frozen=True, slots=True)
class LoggedSlate:
    """A slate as it was shown. Lists go by position, from `first` (1 on a first page); a propensity is None where nothing was left to
    chance."""

    request_id: str
    user_id: str
    timestamp: int
    arm: str
    release: str
    answered_by: str
    device: str | None
    region: str | None
    item_ids: tuple[str, ...]
    sources: tuple[tuple[str, ...], ...]
    propensities: tuple[float | None, ...]
    draw: Draw | None
    first: int = 1


@dataclass(frozen=True, slots=True)
class Slate:
    """The answer, in the order in which the page is read. `answered_by` says how it was made: personalised, precomputed, popular (nobody
    in particular) or a fallback's name. `draw` says where chance entered; its slots are places of `recommendations`. `proposed` counts the
    candidates of each source; `why_live` says why a precomputed slate would not do, None where nobody asked whether it would, or it did."""

    request_id: str
    recommendations: tuple[Recommendation, ...]
    model_version: str
    answered_by: str
    generated_in_ms: float
    stage_ms: dict[str, float]
    dropped: dict[str, int]
    draw: Draw | None = None
    proposed: Mapping[str, int] = field(default_factory=dict)
    why_live: str | None = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, Triton dtype (FP16, FP32, INT64) and shape without the batch dimension; -1 is any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as Triton sees it: inputs in the order of `forward`'s arguments, outputs in the order it returns them."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def user_tower(width: int, moment_columns: int) -> ModelSpec:
    """History rows (the input half of the item table), event codes (0 pads), ages and the moment → the query vector."""
    return ModelSpec(
        "user_tower",
        (
            TensorSpec("history", "FP16", (-1, width)),
            TensorSpec("event_code", "INT64", (-1,)),
            TensorSpec("age_minutes", "INT64", (-1,)),
            TensorSpec("moment", "INT64", (moment_columns,)),
        ),
        (TensorSpec("query__0", "FP32", (width,)),),
    )


def item_tower(width: int, features: int) -> ModelSpec:
    """Content features of an item → its row: the input half, then the retrieval vector."""
    return ModelSpec(
        "item_tower",
        (TensorSpec("feature", "FP32", (features,)),),
        (TensorSpec("row__0", "FP16", (2 * width,)),),
    )


def ranker(width: int, moment_columns: int, profile_columns: int, numbers: int, heads: int) -> ModelSpec:
    """Query, moment, profile, candidate rows (input half) and their numbers → one value per candidate and head."""
    return ModelSpec(
        "ranker",
        (
            TensorSpec("query", "FP32", (width,)),
            TensorSpec("moment", "INT64", (moment_columns,)),
            TensorSpec("profile", "FP32", (profile_columns,)),
            TensorSpec("candidate", "FP16", (-1, width)),
            TensorSpec("number", "FP32", (-1, numbers)),
        ),
        (TensorSpec("value__0", "FP32", (-1, heads)),),
    )
