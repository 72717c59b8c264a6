"""Cold start: a quiz that asks about the items that tell most, and what an answer of 5 to 10 questions makes of a stranger.

The audience is a mixture of prototypes z, clusters of trained users by the taste in their query vectors, with weights π. An answer a
(liked, disliked, or "don't know it") to an item i has probability p(a | z, i), counted in the histories. After answers the posterior is
p(z) ∝ π_z Π p(a | z, i), in whatever order they came, and the next question is the item whose answer tells most about z:

    gain(i) = H(Σ_z p(z) p(a | z, i)) − Σ_z p(z) H(p(a | z, i)),  H in nats,

the mutual information of answer and prototype. Rashid, Karypis & Riedl, Learning preferences of new users in recommender systems: an
information theoretic approach, SIGKDD Explorations 2008 (IGCN: information gain through clustered neighbours, of the users so far like the
new one); that each question follows from the answers before it: Golbandi, Koren & Lempel, Adaptive bootstrapping of recommender systems
using decision trees, WSDM 2011.

Shapes: U users · D width · T taste columns (D − priors) · P prototypes · Q askable items · N verdicts · E events · S shown items ·
I catalogue.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.features import DISLIKED, EVENT_TYPE_CODE, is_liked
from serve.manifest import ReleaseError

FILE = "quiz.npz"
LIKES, DISLIKES, UNKNOWN = 0, 1, 2
LEAST, MOST, LEAST_GAIN = 5, 10, 0.01
"""Questions asked at least and at most, and the expected gain in nats below which it ends in between."""
ENOUGH = 10
"""Events from which on a history speaks for itself."""
ASKABLE, RATERS = 300, 10
PROTOTYPES, USERS_PER_PROTOTYPE = 64, 50
SMOOTHING = 10.0
# Tried on worlds of seeds that bench.cold_start does not use: 16 to 64 prototypes and 5 to 20 imagined users differ by less than .01 in
# attraction. What matters is what a dislike is: a skip after a click says less than what was shown and left alone (see `passed_over`).
SAMPLE = 50_000
ROUNDS = 30
STORED = ("priors", "weight_P", "query_PD", "item_row_Q", "probability_PQ3")
REFUSED = (DISLIKED, EVENT_TYPE_CODE["skip"], EVENT_TYPE_CODE["not_interested"])

Answers = Mapping[int, bool | None]
"""Item row → liked, disliked, or None for "don't know it"."""


class Verdicts(NamedTuple):
    """What users think of items, each pair once: rows of user and item (N), and whether it was liked (N, bool)."""

    user_row_N: np.ndarray
    item_row_N: np.ndarray
    liked_N: np.ndarray


def verdicts(user_row_E: np.ndarray, item_row_E: np.ndarray, event_code_E: np.ndarray) -> Verdicts:
    """The last word of each user on each item, from events in the order of time: taken up or rated well is liked; skipped, refused or rated
    badly is disliked; a mere view is neither."""
    said_E = is_liked(event_code_E) | np.isin(event_code_E, REFUSED)
    user, item, code = (column[said_E][::-1] for column in (user_row_E, item_row_E, event_code_E))
    _, last = np.unique(user * (item.max(initial=0) + 1) + item, return_index=True)
    return Verdicts(user[last].astype(np.int64), item[last].astype(np.int64), is_liked(code[last]))


def passed_over(said: Verdicts, user_row_S: np.ndarray, item_row_S: np.ndarray) -> Verdicts:
    """`said`, and every item that was shown to a user (S pairs, repeats allowed) who said nothing of it as disliked.

    Logs of clicks hold hardly a dislike; what many of a prototype were shown and left alone is what its members will say no to.
    """
    width = max(said.item_row_N.max(initial=0), item_row_S.max(initial=0)) + 1
    shown = np.setdiff1d(user_row_S * width + item_row_S, said.user_row_N * width + said.item_row_N)
    user_row_N, item_row_N = np.append(said.user_row_N, shown // width), np.append(said.item_row_N, shown % width)
    return Verdicts(user_row_N, item_row_N, np.append(said.liked_N, np.zeros(len(shown), bool)))


@dataclass(frozen=True, slots=True)
class Quiz:
    """Prototypes and what they answer. The last `priors` columns of a query weigh popularity, the others are taste.

    weight_P float64, sums to 1; query_PD float32; item_row_Q int64, distinct; probability_PQ3 float64, sums to 1 over the answers.
    """

    priors: int
    weight_P: np.ndarray
    query_PD: np.ndarray
    item_row_Q: np.ndarray
    probability_PQ3: np.ndarray
    entropy_PQ: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "entropy_PQ", entropy(self.probability_PQ3))

    @classmethod
    def open(cls, folder: Path) -> "Quiz":
        """Read what `save` wrote into a release's folder.

        Raises:
            ReleaseError: quiz.npz is missing, cannot be read, or its arrays do not go together.
        """
        try:
            with np.load(folder / FILE) as held:
                quiz = cls(int(held["priors"]), *(held[name] for name in STORED[1:]))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ReleaseError(folder, FILE, f"cannot be read ({error})") from error
        prototypes, askable = len(quiz.weight_P), len(quiz.item_row_Q)
        if quiz.probability_PQ3.shape != (prototypes, askable, 3) or len(quiz.query_PD) != prototypes:
            raise ReleaseError(folder, FILE, f"holds arrays that do not go with {prototypes} prototypes and {askable} items")
        return quiz

    def save(self, folder: Path) -> None:
        """Write quiz.npz."""
        np.savez(folder / FILE, **{name: getattr(self, name) for name in STORED})

    def posterior(self, answers: Answers) -> np.ndarray:
        """p(prototype | answers), float64 (P). Items that this quiz does not ask about tell it nothing."""
        log_P = np.log(self.weight_P)
        for place, item_row in enumerate(self.item_row_Q.tolist()):
            if item_row in answers:
                log_P = log_P + np.log(self.probability_PQ3[:, place, _answer(answers[item_row])])
        posterior_P = np.exp(log_P - log_P.max())
        return posterior_P / posterior_P.sum()

    def gains(self, answers: Answers) -> np.ndarray:
        """What the answer to each askable item is expected to tell after `answers`, in nats: float64 (Q), at least 0."""
        posterior_P = self.posterior(answers)
        mixed_Q3 = np.tensordot(posterior_P, self.probability_PQ3, axes=1)
        return np.maximum(entropy(mixed_Q3) - posterior_P @ self.entropy_PQ, 0.0)

    def next(self, answers: Answers) -> int | None:
        """The item row to ask about now, None where the quiz is over: after 10 answers, when nothing is left to ask, or from 5 on when no
        question promises 0.01 nats. Of equal questions the better known one is asked."""
        gain_Q = np.where(np.isin(self.item_row_Q, list(answers)), -1.0, self.gains(answers))
        best = int(gain_Q.argmax()) if len(gain_Q) else 0
        if len(answers) >= MOST or not (gain_Q >= 0).any() or (len(answers) >= LEAST and gain_Q[best] < LEAST_GAIN):
            return None
        return int(self.item_row_Q[best])

    def taste(self, answers: Answers) -> np.ndarray:
        """The query of somebody known by `answers` alone, float32 (D): the mean over the posterior of the prototypes' queries, its taste
        columns as long as those of the prototypes are."""
        return _mean_query(self.posterior(answers), self.query_PD, self.priors)


def entropy(probability: np.ndarray) -> np.ndarray:
    """−Σ p log p over the last axis, in nats; 0 log 0 is 0."""
    return -(probability * np.log(np.where(probability > 0, probability, 1.0))).sum(-1)


def blend(query_D: np.ndarray, taste_D: np.ndarray, n: int, *, priors: int) -> np.ndarray:
    """w · query + (1 − w) · taste with w = min(1, n / 10) for a user of `n` events: float32 (D).

    The taste columns, all but the last `priors`, are as long as the two are in the mean: half way between two opinions is no weaker one.
    """
    w = min(1.0, n / ENOUGH)
    if w == 1.0:
        return query_D.astype(np.float32)
    return _mean_query(np.array([w, 1 - w]), np.stack([query_D, taste_D]), priors)


def shares(n: int) -> dict[str, float]:
    """What fraction of its budget each source has for a user of `n` events; a source that is not named has all of its own.

    A stranger's collaborative budget goes to what is popular, trending and alike in content, which have twice their own; it comes back in
    tenths, and from 10 events on each source has what it was given. An answer of the quiz may be counted as an event.
    """
    w = min(1.0, n / ENOUGH)
    return {"collaborative": w, "content": 2 - w, "trending": 2 - w, "popular": 2 - w}


def draw_users(said: Verdicts, *, most: int = SAMPLE, seed: int = 0) -> tuple[np.ndarray, Verdicts]:
    """Whom a quiz is fitted on: rows of at most `most` users with a verdict, drawn with `seed`, int64 (U), and their verdicts, whose user
    rows are places among those."""
    user_row, place_N = np.unique(said.user_row_N, return_inverse=True)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(user_row))[:most])
    new_place = np.full(len(user_row), -1)
    new_place[drawn] = np.arange(len(drawn))
    keep_N = new_place[place_N] >= 0
    return user_row[drawn], Verdicts(new_place[place_N][keep_N], said.item_row_N[keep_N], said.liked_N[keep_N])


def fit_quiz(
    query_UD: np.ndarray,
    said: Verdicts,
    *,
    priors: int,
    askable: int = ASKABLE,
    raters: int = RATERS,
    prototypes: int = PROTOTYPES,
    users_per_prototype: int = USERS_PER_PROTOTYPE,
    smoothing: float = SMOOTHING,
    seed: int = 0,
) -> Quiz:
    """The quiz of an audience: its users' queries (U, D) and what they think of items; user rows of `said` are rows of `query_UD`.

    `askable` items are those with the most raters, and each has at least `raters` of them (or as many as the best known item has).
    `prototypes` are fewer where there are not `users_per_prototype` users for each. A probability counted among the users of a prototype is
    drawn towards the item's overall one by `smoothing` imagined users.

    Raises:
        ValueError: nobody has a verdict, so there is no audience to learn from.
    """
    if not len(said.user_row_N):
        raise ValueError("fit_quiz: no user has liked or disliked anything; there is nothing to ask about")
    rng = np.random.default_rng(seed)
    query_UD = query_UD.astype(np.float64)
    wanted = min(prototypes, max(1, len(query_UD) // users_per_prototype))
    cluster_U = kmeans(_unit(query_UD[:, : query_UD.shape[1] - priors]), wanted, rng)
    size_P = np.bincount(cluster_U)
    query_PD = np.stack([_mean_query(np.full(n, 1 / n), query_UD[cluster_U == p], priors) for p, n in enumerate(size_P)])

    rater_count_I = np.bincount(said.item_row_N)
    known = np.flatnonzero(rater_count_I >= min(raters, rater_count_I.max()))
    item_row_Q = known[np.argsort(-rater_count_I[known], kind="stable")][:askable]
    place_I = np.full(len(rater_count_I), -1)
    place_I[item_row_Q] = np.arange(len(item_row_Q))
    place_N = place_I[said.item_row_N]
    asked_N = place_N >= 0
    count_PQ3 = np.zeros((len(size_P), len(item_row_Q), 3))
    said_N = np.where(said.liked_N, LIKES, DISLIKES)
    np.add.at(count_PQ3, (cluster_U[said.user_row_N[asked_N]], place_N[asked_N], said_N[asked_N]), 1)
    count_PQ3[:, :, UNKNOWN] = size_P[:, None] - count_PQ3.sum(2)
    overall_Q3 = (count_PQ3.sum(0) + 1 / 3) / (len(query_UD) + 1)  # one imagined user of no opinion: nothing is impossible
    probability_PQ3 = (count_PQ3 + smoothing * overall_Q3) / (size_P[:, None, None] + smoothing)
    return Quiz(priors, size_P / size_P.sum(), query_PD, item_row_Q, probability_PQ3)


def kmeans(point_UT: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The cluster of each point, int64 (U), from 0 on and none empty: k-means from the seeds of greedy k-means++ (Arthur & Vassilvitskii,
    SODA 2007), which draws several points and keeps the one that leaves the others nearest. Fewer clusters where points coincide."""
    centre_PT = point_UT[[rng.integers(len(point_UT))]]
    nearest_U = _distances(point_UT, centre_PT)[0]
    while len(centre_PT) < count and nearest_U.sum() > 0:
        drawn = rng.choice(len(point_UT), 2 + int(np.log(count)), p=nearest_U / nearest_U.sum())
        nearest_CU = np.minimum(nearest_U, _distances(point_UT, point_UT[drawn]))
        best = nearest_CU.sum(1).argmin()
        centre_PT, nearest_U = np.concatenate([centre_PT, point_UT[drawn[[best]]]]), nearest_CU[best]
    cluster_U = np.full(len(point_UT), -1)
    for _ in range(ROUNDS):
        closest_U = (point_UT @ centre_PT.T - (centre_PT**2).sum(1) / 2).argmax(1)
        if (closest_U == cluster_U).all():
            break
        cluster_U = np.unique(closest_U, return_inverse=True)[1]  # a cluster that lost its last point is gone
        centre_PT = np.stack([point_UT[cluster_U == p].mean(0) for p in range(cluster_U.max() + 1)])
    return cluster_U


def _distances(point_UT: np.ndarray, centre_CT: np.ndarray) -> np.ndarray:
    """Squared distances (C, U)."""
    return np.maximum((point_UT**2).sum(1) - 2 * centre_CT @ point_UT.T + (centre_CT**2).sum(1)[:, None], 0)


def _answer(liked: bool | None) -> int:
    return UNKNOWN if liked is None else LIKES if liked else DISLIKES


def _mean_query(weight_N: np.ndarray, query_ND: np.ndarray, priors: int) -> np.ndarray:
    """The weighted mean of queries, its taste columns as long as those of the queries are in the mean; float32 (D)."""
    mean_D = weight_N @ query_ND.astype(np.float64)
    taste = query_ND.shape[1] - priors
    length = weight_N @ np.linalg.norm(query_ND[:, :taste], axis=1)
    mean_D[:taste] *= length / max(np.linalg.norm(mean_D[:taste]), 1e-12)
    return mean_D.astype(np.float32)


def _unit(point_UT: np.ndarray) -> np.ndarray:
    return point_UT / np.maximum(np.linalg.norm(point_UT, axis=1, keepdims=True), 1e-12)
