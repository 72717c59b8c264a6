"""The small client the project is named for: who should be shown what, here and now, in any Python program.

    recommender = Recommender.load("releases/current", "127.0.0.1:8001", store=store)
    slate = recommender.recommend(Request("42", timestamp=now_ms))

A request reads downward in `Recommender._personal`. Shapes: B = 1 · D width · E events · K candidates · N slate.
"""

import logging
import tempfile
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from data.features import HOUR_MS
from serve import explain, filters, golden
from serve.contract import Candidates, History, Recommendation, Request, Slate, UserFields
from serve.limits import check, check_count
from serve.mmr import mmr
from serve.panel import Budget, Panel
from serve.release import Release
from serve.scoring import Person, Scorer, pack, person
from serve.sources import Ask, Collaborative, HalfWatched, Popular, Similar
from serve.sqlite_store import SqliteStore
from serve.tops import Tops
from serve.trends import Trends
from serve.triton import Client, TritonError

logger = logging.getLogger(__name__)
BUDGETS: Mapping[str, Budget] = {
    "collaborative": Budget(500, 250),
    "popular": Budget(100, 250),
    "similar": Budget(500, 250),
    "half watched": Budget(20, 250),
}
SOURCES_OF = {
    "homepage": ("collaborative", "popular"),
    "item": ("similar",),
    "continue": ("half watched", "collaborative", "popular"),
    "search-empty": ("popular",),
}
NOBODY = ("popular",)
PATIENCE_MS = 30_000  # of the golden check: a server that just started is slow to its first callers


class UnknownItem(LookupError):
    """No such item in the release's catalogue. The message is a sentence that names it."""

    def __init__(self, item_id: str, version: str):
        super().__init__(f"There is no item {item_id!r} in the catalogue of release {version}.")


@dataclass(frozen=True, slots=True)
class Tally:
    """What one request cost, stage by stage in ms, and what it lost on the way, reason by reason."""

    stage_ms: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_ms[name] = self.stage_ms.get(name, 0.0) + 1000 * (time.perf_counter() - start)

    def drop(self, counts: Mapping[str, int]) -> None:
        for why, count in counts.items():
            if count:
                self.dropped[why] = self.dropped.get(why, 0) + count


@dataclass(frozen=True, slots=True)
class Recommender:
    """One release, the Triton server that runs its models and the store that remembers users. Safe to share between threads."""

    release: Release
    store: SqliteStore
    scorer: Scorer
    panel: Panel
    last_hour: int  # since 1970 UTC: the hour after the log's last

    @classmethod
    def load(cls, release_path: Path | str, triton_url: str, *, store: SqliteStore | None = None) -> Self:
        """Open a release, connect to the server and compare both with the answers recorded at export.

        Without a `store`, users are known by the histories of the release, and what is appended to them is gone with the process.

        Raises:
            ReleaseError: the directory is not a whole release, or the golden answers differ; the message says where.
            TritonError: the server does not answer.
        """
        release = Release.open(release_path)
        return cls.verified(release, Client(triton_url), store=store or _passing_store(release))

    @classmethod
    def verified(cls, release: Release, client: Client, *, store: SqliteStore, budgets: Mapping[str, Budget] = BUDGETS) -> Self:
        """A recommender whose models were just seen to answer as they did at export. Raises as `load`."""
        patient = Client(client.url, timeout_ms=PATIENCE_MS)
        release.check_golden(patient)
        asked = cls.of(
            release, patient, store=store, budgets={name: Budget(usual.candidates, PATIENCE_MS) for name, usual in BUDGETS.items()}
        )
        golden.check_slates(asked)
        asked.close()
        logger.info("release %s: %s answers as it did at export", release.manifest.version, client.url)
        return cls.of(release, client, store=store, budgets=budgets)

    @classmethod
    def of(cls, release: Release, client: Client, *, store: SqliteStore, budgets: Mapping[str, Budget] = BUDGETS) -> Self:
        """A recommender whose golden answers nobody compared: what export records them with."""
        vector_ID = release.items[:, release.manifest.width :]
        regions, days = release.vocabulary.region.words, release.release_day_I
        tops = Tops.of(Trends.open(release.path, release.manifest, release_day_I=days, words=regions))
        popular = Popular(lambda: tops, tops.trends.last_hour)
        sources = (Collaborative(release.index), Similar(release.index, vector_ID), HalfWatched(), popular)
        return cls(release, store, Scorer(release, client), Panel(sources, budgets), popular.last_hour)

    def recommend(self, request: Request) -> Slate:
        """The slate for a request, from what the store knows of the user.

        While Triton does not answer, the slate is made without models; `answered_by` says so.

        Raises:
            InvalidRequest: a field is out of bounds.
            UnknownItem: `item_id` is not in the catalogue.
        """
        check(request)
        tally = Tally()
        with tally.stage("history"):
            history, fields = self.store.history(request.user_id), self.store.fields(request.user_id) or UserFields()
        return self.answer(request, history, fields, tally)

    def answer(self, request: Request, history: History, fields: UserFields, tally: Tally | None = None) -> Slate:
        """`recommend`, for a user of whom exactly this is known: unless a source is late, the same request gets the same answer."""
        tally = tally or Tally()
        item_row = None if request.item_id is None else self._row(request.item_id)
        who, unknown = person(self.release, request, history, fields)
        # a release knows items and users as they stood when its log ended: an earlier time chooses hour and weekday, not another popularity
        who = replace(who, now=max(who.now, self.last_hour * HOUR_MS))
        tally.drop({"event of an unknown item": unknown})
        before = dict(tally.dropped)
        try:
            return self._personal(request, who, item_row, tally)
        except TritonError as error:
            logger.warning("request %s answered without models: %s", request.request_id, error)
            return self._without_models(request, who, item_row, replace(tally, dropped=before))

    def _personal(self, request: Request, who: Person, item_row: int | None, tally: Tally) -> Slate:
        nobody = not len(who.item_row_E)
        with tally.stage("user_tower"):
            history = pack(who, self.release.manifest.history_length)
            query_BD = self.scorer.query(history, who.moment_BC)
        with tally.stage("sources"):
            names = NOBODY if nobody and request.context != "item" else SOURCES_OF[request.context]
            candidates, missing, cut = self.panel.propose(names, Ask(who, query_BD, item_row, request.region, request.timestamp))
        with tally.stage("filters"):
            candidates = self._filter(candidates, who, item_row, tally)
        with tally.stage("ranker"):
            (probability_K,) = self.scorer.probability(query_BD, history, who.moment_BC, candidates.item_row_K, who.now)
            candidates, probability_K = self._finite(candidates, probability_K, tally)
        with tally.stage("mmr"):
            order_N = self._arrange(candidates, probability_K, request)
            shown, probability_N = _take(candidates, order_N), probability_K[order_N]
        with tally.stage("explain"):
            cause = explain.no_causes(len(order_N))
            if item_row is None:
                cause = explain.causes(self.scorer, who, shown.item_row_K, probability_N)
            said = self._say(shown, cause, item_row, nobody)
        tally.drop({f"source {name}: {why}": 1 for name, why in missing.items()} | {"too many candidates": cut})
        by = "personalised" if not nobody else "popular" if item_row is None else "similar"
        without = f" (without {', '.join(missing)})" if missing else ""
        return self._slate(request.request_id, shown, probability_N.tolist(), said, by + without, tally)

    def _without_models(self, request: Request, who: Person, item_row: int | None, tally: Tally) -> Slate:
        """What can be said while no model answers: what is popular, or lies near the item asked about, in that order, unscored."""
        name = "similar" if request.context == "item" else "popular"
        with tally.stage("sources"):
            candidates, missing, cut = self.panel.propose([name], Ask(who, None, item_row, request.region, request.timestamp))
        with tally.stage("filters"):
            candidates = self._filter(candidates, who, item_row, tally)
        shown = _take(candidates, np.arange(len(candidates.item_row_K))[: request.count])
        said = self._say(shown, explain.no_causes(len(shown.item_row_K)), item_row, nobody=True)
        tally.drop(
            {f"source {source}: {why}": 1 for source, why in missing.items()} | {"ranking unavailable": 1, "too many candidates": cut}
        )
        return self._slate(request.request_id, shown, [None] * len(said), said, f"{name} (ranking unavailable)", tally)

    def similar(self, item_id: str, count: int) -> Slate:
        """The items nearest to one item by retrieval vector; `score` is the cosine. No user, no model.

        Raises:
            InvalidRequest: `count` is out of bounds.
            UnknownItem: the item is not in the catalogue.
        """
        check_count(count)
        item_row, tally, width = self._row(item_id), Tally(), self.release.manifest.width
        with tally.stage("sources"):
            _, near_BK = self.release.index.search(self.release.items[[item_row], width:].astype(np.float32), count + 1)
            row_N = near_BK[0][(near_BK[0] >= 0) & (near_BK[0] != item_row)][:count]
        vector_ND = self.release.items[np.append(row_N, item_row), width:].astype(np.float32)
        vector_ND /= np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), 1e-12)
        cosine_N = vector_ND[:-1] @ vector_ND[-1]
        order_N = np.argsort(-cosine_N, kind="stable")  # vectors need not be of one length, and the index goes by the inner product
        row_N, cosine_N = row_N[order_N], cosine_N[order_N]
        shown = Candidates(row_N, np.zeros(len(row_N), np.int64))
        said = self._say(shown, explain.no_causes(len(row_N)), item_row, nobody=True)
        return self._slate(uuid.uuid4().hex, shown, cosine_N.tolist(), said, "similar", tally)

    def close(self) -> None:
        """Let go of the threads and the connection. The store belongs to whoever opened it."""
        self.panel.close()
        self.scorer.client.close()

    def _row(self, item_id: str) -> int:
        row = int(self.release.catalogue.rows((item_id,))[0])
        if row < 0:
            raise UnknownItem(item_id, self.release.manifest.version)
        return row

    def _filter(self, candidates: Candidates, who: Person, item_row: int | None, tally: Tally) -> Candidates:
        row_K = candidates.item_row_K
        watched_K = ~filters.not_watched(row_K, item_row_E=who.item_row_E, event_code_E=who.event_code_E)
        begun_K = self.panel.proposed_by(candidates, "half watched")
        kept, dropped = filters.keep(
            candidates,
            {"already watched": ~watched_K | begun_K, "the item itself": filters.not_the_same(row_K, item_row=item_row)},
        )
        tally.drop(dropped)
        return kept

    def _finite(self, candidates: Candidates, probability_K: np.ndarray, tally: Tally) -> tuple[Candidates, np.ndarray]:
        """Without candidates to which the ranker gave no number: a broken model must not break a page, nor hide."""
        finite_K = np.isfinite(probability_K)
        if len(finite_K) and not finite_K.any():
            raise TritonError(f"the ranker of release {self.release.manifest.version} gives no numbers")
        candidates, dropped = filters.keep(candidates, {"score is not a number": finite_K})
        tally.drop(dropped)
        return candidates, probability_K[finite_K]

    def _arrange(self, candidates: Candidates, probability_K: np.ndarray, request: Request) -> np.ndarray:
        """Positions of the slate among the candidates: what was begun before what is new, and within each by MMR."""
        begun_K = self.panel.proposed_by(candidates, "half watched")
        order = []
        for group in (np.flatnonzero(begun_K), np.flatnonzero(~begun_K)):
            vector_KD = self.release.items[candidates.item_row_K[group], self.release.manifest.width :].astype(np.float32)
            chosen = mmr(probability_K[group], vector_KD, count=min(request.count, len(group)), mmr_lambda=request.mmr_lambda)
            order.append(group[chosen])
        return np.concatenate(order)[: request.count]

    def _say(self, shown: Candidates, cause: explain.Causes, item_row: int | None, nobody: bool) -> list[tuple[str, str]]:
        titles = self.release.catalogue.titles
        if item_row is not None:
            return [(f"Similar to {titles[item_row]}", f"More like {titles[item_row]}")] * len(shown.item_row_K)
        popular_N = self.panel.proposed_by(shown, "popular") & ~self.panel.proposed_by(shown, "collaborative")
        begun_N = self.panel.proposed_by(shown, "half watched")
        said = explain.say(cause, popular_N, titles, nobody=nobody)
        return [explain.CONTINUE if begun else plain for begun, plain in zip(begun_N, said, strict=True)]

    def _slate(
        self, request_id: str, shown: Candidates, scores: Sequence[float | None], said: list[tuple[str, str]], by: str, tally: Tally
    ) -> Slate:
        catalogue = self.release.catalogue
        recommendations = tuple(
            Recommendation(catalogue.item_ids[row], catalogue.titles[row], score, reason, shelf)
            for row, score, (reason, shelf) in zip(shown.item_row_K, scores, said, strict=True)
        )
        elapsed_ms = 1000 * (time.perf_counter() - tally.start)
        return Slate(request_id, recommendations, self.release.manifest.version, by, elapsed_ms, tally.stage_ms, tally.dropped)


def _passing_store(release: Release) -> SqliteStore:
    folder = tempfile.TemporaryDirectory(prefix="towers-")
    store = SqliteStore(Path(folder.name) / "live.sqlite")
    weakref.finalize(store, folder.cleanup)
    store.load_histories(release.path / "histories.parquet", release.path / "users.parquet", version=release.manifest.version)
    return store


def _take(candidates: Candidates, position_N: np.ndarray) -> Candidates:
    return Candidates(candidates.item_row_K[position_N], candidates.source_K[position_N])
