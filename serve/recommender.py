"""The small client the project is named for: who should be shown what, here and now, in any Python program.

    recommender = Recommender.load("releases/current", "127.0.0.1:8001", store=store)
    slate = recommender.recommend(Request("42", timestamp=now_ms))

A request reads downward in `Recommender.course` and `_personal`. Shapes: B = 1 · D width · E events · K candidates · H heads · N slate.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from data.features import HOUR_MS, PackedHistory, genre_share, is_liked
from serve import chance, explain, filters, golden, page, precompute, rules, slates
from serve.cold_start import Quiz, shares
from serve.contract import Candidates, Draw, Known, Precomputed, Recommendation, Request, Slate, UserFields
from serve.course import NEED_QUERY, NOBODY, SOURCES_OF, Course, Policy
from serve.explain import Causes, LeftOut
from serve.histories import NOTHING
from serve.limits import check
from serve.page import Scored
from serve.panel import BUDGETS, Budget, Panel
from serve.release import Release
from serve.scoring import Person, Scorer, pack, person
from serve.sources import Ask, Source, resting
from serve.store import Store, StoreError
from serve.tally import Tally
from serve.triton import Client, TritonError
from serve.turns import Turns

logger = logging.getLogger(__name__)
ASIDE = 32  # threads
PATIENCE_MS = 30_000  # of the golden check: a server that just started is slow to its first callers


@dataclass(frozen=True, slots=True)
class Recommender:
    """One release, the Triton server that runs its models and the store that remembers users. Safe to share between threads.

    `on_query` is told every live query (1, D); it must not wait.
    """

    release: Release
    store: Store
    scorer: Scorer
    panel: Panel
    policy: Policy
    quiz: Quiz
    last_hour: int  # since 1970 UTC: the hour after the log's last
    on_query: Callable[[np.ndarray], None]
    aside: ThreadPoolExecutor  # where what reasons need is made while candidates are looked for
    turns: Turns

    @classmethod
    def load(cls, release_path: Path | str, triton_url: str, *, store: Store | None = None) -> Self:
        """Open a release, connect to the server and compare both with the answers recorded at export.

        Without a `store`, users are known by the histories of the release, and what is appended to them is gone with the process.

        Raises:
            ReleaseError: the directory is not a whole release, or the golden answers differ; the message says where.
            TritonError: the server does not answer.
        """
        release = Release.open(release_path)
        return cls.verified(release, Client(triton_url), store=store or slates.passing_store(release))

    @classmethod
    def verified(
        cls, release: Release, client: Client, *, store: Store, budgets: Mapping[str, Budget] = BUDGETS, policy: Policy | None = None,
        sources: Sequence[Source] | None = None, on_query: Callable[[np.ndarray], None] = lambda _: None,
    ) -> Self:  # fmt: skip
        """A recommender whose models were just seen to answer as they did at export. Raises as `load`."""
        asked = cls.patient(release, client.url, store=store)
        release.check_golden(asked.scorer.client)
        golden.check_slates(asked)
        golden.warm(asked)
        asked.close()
        logger.info("release %s: %s answers as it did at export", release.manifest.version, client.url)
        return cls.of(release, client, store=store, budgets=budgets, policy=policy, sources=sources, on_query=on_query)

    @classmethod
    def patient(cls, release: Release, triton_url: str, *, store: Store) -> Self:
        """A recommender with time: whose answers depend on what is known and not on how busy the machine is. Nobody compared its
        answers."""
        slow = {name: Budget(usual.candidates, PATIENCE_MS) for name, usual in BUDGETS.items()}
        client = Client(triton_url, timeout_ms=PATIENCE_MS)
        return cls.of(release, client, store=store, budgets=slow, policy=Policy(deadline_ms=PATIENCE_MS))

    @classmethod
    def of(
        cls, release: Release, client: Client, *, store: Store, budgets: Mapping[str, Budget] = BUDGETS, policy: Policy | None = None,
        sources: Sequence[Source] | None = None, on_query: Callable[[np.ndarray], None] = lambda _: None,
    ) -> Self:  # fmt: skip
        """A recommender whose golden answers nobody compared: what export records them with. `sources` are the release's own, unless
        told."""
        panel = Panel(resting(release) if sources is None else sources, budgets)
        last_hour = int((release.clock.key & 0xFFFFFFFF).max(initial=-1)) + 1
        quiz, policy = Quiz.open(release.path), policy or Policy()
        return cls(
            release, store, Scorer(release, client, quiz.priors), panel, policy, quiz, last_hour, on_query,
            ThreadPoolExecutor(ASIDE, "reasons"), Turns(policy.at_once),
        )  # fmt: skip

    def recommend(self, request: Request) -> Slate:
        """The slate for a request, from what the store knows of the user: precomputed where that will do, else made now.

        While Triton or the store does not answer, the slate is made without; `answered_by` says so.

        Raises:
            InvalidRequest: a field is out of bounds.
            UnknownItem: `item_id` is not in the catalogue.
        """
        check(request)
        tally = self._tally(request)
        with tally.stage("history"):
            try:
                known = self.store.read(request.user_id)
            except StoreError as error:
                logger.warning("request %s answered without the user's history: %s", request.request_id, error)
                tally.drop({slates.NO_HISTORY: 1})
                known = Known(NOTHING, UserFields())
        why_live = precompute.why_live(self.policy.ahead, request, known, self.release.manifest.version)
        if why_live is None:
            return slates.precomputed(self, request, known, tally, "precomputed")
        return replace(self.answer(request, known, tally), why_live=why_live)

    def answer(self, request: Request, known: Known, tally: Tally | None = None) -> Slate:
        """`recommend`, made now, for a user of whom exactly this is known: unless a source is late, the same request gets the same
        answer."""
        tally = tally or self._tally(request)
        before = dict(tally.dropped)
        try:
            with self.turns.turn(tally):
                return self._personal(request, known, tally)
        except TritonError as error:
            logger.warning("request %s answered without models: %s", request.request_id, error)
            return slates.without_models(self, request, known, replace(tally, dropped=before))

    def _tally(self, request: Request) -> Tally:
        return Tally(min(self.policy.deadline_ms, request.within_ms))

    def course(self, request: Request, known: Known, tally: Tally, meanwhile: Callable[[Person], None] = lambda _: None) -> Course:
        """A request's way to its page, stage by stage. `meanwhile` is told who asks, as soon as the query is there; it must not wait.

        Raises:
            TritonError: a model did not answer.
            UnknownItem: `item_id` is not in the catalogue.
        """
        scorer, who = self.scorer.until(tally.deadline), self.person(request, known, tally)
        names, share_of = self.asked(request, who, len(known.answers))
        with tally.stage("user_tower"):  # sources that need no query look for candidates meanwhile
            need_query = (*NEED_QUERY, *self.panel.own)
            begun = self.panel.begin([name for name in names if name not in need_query], self.ask(request, who, None), share_of)
            history = pack(who, self.release.manifest.history_length)
            query_BD = scorer.query(history, who.moment_BC, who.taste_D)
            self.on_query(query_BD)
            meanwhile(who)
        with tally.stage("sources"):
            asked = self.panel.begin([name for name in names if name in need_query], self.ask(request, who, query_BD), share_of)
            proposed, missing, cut = self.panel.gather(begun, asked)
            tally.drop({"candidates beyond the limit": cut})
            tally.proposed.update(self.panel.counts(proposed))
        with tally.stage("filters"):
            stays = self.stays(request, known, who, proposed)
            candidates, dropped = filters.keep(proposed, stays)
            tally.drop(dropped)
        with tally.stage("ranker"):
            value_KH = scorer.values(query_BD, history, who.moment_BC, candidates.item_row_K, who.now)[0]
            candidates, value_KH = self._finite(candidates, value_KH, tally)
        with tally.stage("slate"):
            factors, scored = self._scored(candidates, value_KH, who)
            chosen = page.arrange(
                scored, self.release.catalogue, self.policy.rules, request, reserved=self._reserved(request, who),
                share_G=genre_share(self.release.catalogue.genre_IG, history)[0],
                history_vector_ED=self._liked_vectors(history), now=who.now,
            )  # fmt: skip
            tally.drop({f"rule: {name}": count for name, count in chosen.skipped.items()})
        return Course(who, history, query_BD, proposed, missing, stays, candidates, value_KH, factors, scored, chosen)

    def _personal(self, request: Request, known: Known, tally: Tally) -> Slate:
        left_out: list[Future[LeftOut | None]] = []
        course = self.course(request, known, tally, lambda who: left_out.append(self._leaving_out(request, who, tally)))
        with tally.stage("slate"):  # the page is fixed; from here on chance may enter
            drawn, order_N, kind_N = self._draw(request, course)
        told = self._told(request, course, order_N, kind_N, left_out[0], tally)
        tally.drop({f"source {name}: {why}": 1 for name, why in course.missing.items()})
        return slates.slate(self, request, told, slates.answered_by(request, course, tally), tally, drawn)

    def _leaving_out(self, request: Request, who: Person, tally: Tally) -> "Future[LeftOut | None]":
        """What reasons will be found by, on its way while candidates are: beside an item nobody is told why."""
        if request.context == "item":
            return self.aside.submit(lambda: None)
        return self.aside.submit(explain.leave_out, self.scorer.until(tally.deadline), who)

    def _told(
        self, request: Request, course: Course, order_N: np.ndarray, kind_N: Sequence[str], left_out: "Future[LeftOut | None]",
        tally: Tally,
    ) -> tuple[Recommendation, ...]:  # fmt: skip
        """What is shown at these candidate positions, and why."""
        row_N, probability_N = course.scored.item_row_K[order_N], course.scored.probability_K[order_N]
        with tally.stage("explain"):
            main_N = np.array([not kind for kind in kind_N], bool)
            cause = self._causes(request, course, row_N, probability_N, main_N, left_out, tally)
        with tally.stage("rows"):
            said = slates.said(self, request, course, row_N, kind_N, cause)
            shown = Candidates(row_N, course.candidates.source_K[order_N])
            return slates.recommendations(self, shown, probability_N.tolist(), said)

    def scored(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """What a page of this request is chosen from: probabilities float32 (K) and retrieval vectors fp16 (K, D). Raises as `course`."""
        scored = self.course(request, self.store.read(request.user_id), Tally()).scored
        return scored.probability_K, scored.vector_KD

    def person(self, request: Request, known: Known, tally: Tally) -> Person:
        """Who asks, in rows. A release knows items and users as they stood when its log ended: an earlier time chooses hour and weekday,
        not another popularity."""
        who, unknown = person(self.release, request, known.history, known.fields)
        tally.drop({"event of an unknown item": unknown})
        taste_D = None
        if known.answers:
            row_of = self.release.catalogue.row_of
            taste_D = self.quiz.taste({row_of[item]: liked for item, liked in known.answers if item in row_of})
        return replace(who, now=max(who.now, self.last_hour * HOUR_MS), taste_D=taste_D)

    def asked(self, request: Request, who: Person, answered: int) -> tuple[tuple[str, ...], Mapping[str, float]]:
        """Which sources are asked, and what share of its budget each may spend: the fewer events, the less is left to collaboration.
        Sources of one's own are asked for every homepage."""
        names = NOBODY if who.nobody and request.context == "homepage" else SOURCES_OF[request.context]
        names += self.panel.own if request.context == "homepage" else ()
        told = len(who.item_row_E) + answered  # an answer of the quiz says as much as an event
        return names, shares(told) if request.context == "homepage" and not who.nobody else {}

    def ask(self, request: Request, who: Person, query_BD: np.ndarray | None) -> Ask:
        """What the sources are told."""
        item_row = None if request.item_id is None else slates.row_of(self.release, request.item_id)
        return Ask(who, query_BD, item_row, who.region, request.timestamp)

    def stays(self, request: Request, known: Known, who: Person, proposed: Candidates) -> dict[str, np.ndarray]:
        """What each filter says of what was proposed: bool (K) by the reason of a drop."""
        begun_K = self.panel.proposed_by(proposed, "begun")
        item_row = None if request.item_id is None else slates.row_of(self.release, request.item_id)
        return filters.verdicts(
            self.release.catalogue, proposed.item_row_K, who, known.shown, begun_K=begun_K, item_row=item_row,
            most=self.policy.rules.shown_most, before=frozenset(request.before),
        )  # fmt: skip

    def _finite(self, candidates: Candidates, value_KH: np.ndarray, tally: Tally) -> tuple[Candidates, np.ndarray]:
        """Without candidates to which the ranker gave no number: a broken model must not break a page, nor hide."""
        finite_K = np.isfinite(value_KH).all(1)
        if len(finite_K) and not finite_K.any():
            raise TritonError(f"the ranker of release {self.release.manifest.version} gives no numbers")
        candidates, dropped = filters.keep(candidates, {"score is not a number": finite_K})
        tally.drop(dropped)
        return candidates, value_KH[finite_K]

    def _scored(self, candidates: Candidates, value_KH: np.ndarray, who: Person) -> tuple[dict[str, np.ndarray], Scored]:
        row_K, probability_K = candidates.item_row_K, value_KH[:, self.release.manifest.relevance_head]
        factors = rules.boosted(self.policy.rules.boosts, self.release.catalogue, row_K, now=who.now)
        worth_K = np.prod([probability_K, *factors.values()], axis=0).astype(np.float32)
        proposed = {name: self.panel.proposed_by(candidates, name) for name in self.panel.names}
        return factors, Scored(row_K, probability_K, worth_K, self.scorer.vectors(row_K), proposed)

    def _reserved(self, request: Request, who: Person) -> dict[int, int]:
        editorial = self.panel.source("editorial")
        return dict(editorial.reserved(self.ask(request, who, None)))

    def _liked_vectors(self, history: PackedHistory) -> np.ndarray:
        """Retrieval vectors of what of a history was liked, fp16 (E, D): what an item may be unlike."""
        return self.scorer.vectors(np.unique(history.item_row_BL[0][is_liked(history.event_code_BL[0])]))

    def _draw(self, request: Request, course: Course) -> tuple[Draw | None, np.ndarray, Sequence[str]]:
        """(the draw, candidate positions and kinds of the page after it). The pool is what explore proposed and the page does not hold;
        what was begun, and what editors put somewhere, stays."""
        pool_E = (
            np.setdiff1d(np.flatnonzero(course.scored.proposed["explore"]), course.page.order_N) if request.context == "homepage" else []
        )
        row_K, ids = course.scored.item_row_K, self.release.catalogue.item_ids
        pool = {ids[row_K[position]]: int(position) for position in pool_E}
        return chance.into(course.page, self.policy.rules.explore, pool, request.request_id)

    def _causes(
        self, request: Request, course: Course, row_N: np.ndarray, probability_N: np.ndarray, asked_N: np.ndarray,
        left_out: "Future[LeftOut | None]", tally: Tally,
    ) -> Causes:  # fmt: skip
        """Reasons that were found true, of items that a kind's turn does not speak for already (`asked_N`); none, and counted so, where the
        models had no time left to be asked."""
        scorer = self.scorer.until(tally.deadline)
        try:
            return explain.causes_by(scorer, course.who, left_out.result(), row_N[asked_N], probability_N[asked_N]).at(asked_N)
        except TritonError as error:
            logger.warning("request %s answered without reasons: %s", request.request_id, error)
            tally.drop({slates.NO_REASONS: 1})
            return explain.no_causes(len(row_N))

    def ahead(self, user_id: str, now: int) -> Precomputed:
        """The slate of a user as it will be kept for later requests, `DEPTH` long, in the order chosen; chance enters when it is shown.
        Raises as `course`, and StoreError."""
        known = self.store.read(user_id)
        request, tally = Request(user_id, now, count=precompute.DEPTH, live=True), Tally()
        course = self.course(request, known, tally)
        left_out = self._leaving_out(request, course.who, tally)
        told = self._told(request, course, course.page.order_N, course.page.kind_N, left_out, tally)
        if lost := [*course.missing, *(part for part in slates.PARTS if part in tally.dropped)]:
            raise TritonError(f"the slate of user {user_id!r} cannot be made whole now: {', '.join(lost)}")
        return Precomputed(now, known.sequence, self.release.manifest.version, course.query_BD[0], told)

    def close(self) -> None:
        """Let go of the threads and the connection. The store belongs to whoever opened it."""
        self.panel.close()
        self.aside.shutdown(wait=False, cancel_futures=True)
        self.scorer.client.close()
