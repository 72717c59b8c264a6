"""One serving process: the store, the releases at work in it, and everything that is asked of them. HTTP and the command line are its
doors."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from serve import events, new_items, profiles, slate_log, slates, why
from serve.ab import Report, report
from serve.contract import LoggedSlate, Request, Slate
from serve.fleet import CHALLENGER, CHAMPION, Fleet
from serve.gauges import Gauges
from serve.limits import InvalidRequest, check, check_count, check_id
from serve.served import Remembered, Served
from serve.shown import Shown
from serve.slate_log import SlateLog
from serve.store import Store, StoreError
from serve.vitals import Vitals, of_arm

logger = logging.getLogger(__name__)
T = TypeVar("T")
MAX_ANSWERS = 20


class Unavailable(RuntimeError):
    """What was asked needs a part that is away. The message is a sentence that names it."""


class NoSuchArm(LookupError):
    """Nothing answers in this arm now. The message is a sentence that says so."""


class Engine:
    """Safe to share between threads. `now_ms` tells the time of requests and events that do not (ms UTC)."""

    def __init__(self, store: Store, fleet: Fleet, gauges: Gauges, now_ms: Callable[[], int]) -> None:
        self.store, self.fleet, self.gauges, self.now_ms = store, fleet, gauges, now_ms
        self.shown = Shown()
        gauges.asking(lambda: gauges.stands(self.vitals()))
        self._log = SlateLog(store, dropped=lambda count: gauges.lost("slates not logged", count))

    def recommend(self, request: Request) -> tuple[Slate, str]:
        """(the slate, the arm that made it), by the user's arm; the slate is logged.

        Raises:
            InvalidRequest, UnknownItem: see `Recommender.recommend`.
        """
        with self.fleet.lease(request.user_id) as (arm, served):
            slate = served.recommend(request)
            if isinstance(served, Served):
                self.shown.tell(served.recommender.release, [one.item_id for one in slate.recommendations])
        self.gauges.answered(slate, arm)
        self._log.put(slate_log.logged(request, slate, arm))
        return slate, arm

    def preview(self, request: Request, arm: str) -> Slate:
        """What an arm, whoever's it is, would answer: shown to somebody who looks at the arm, so it is neither logged nor counted.

        Raises:
            NoSuchArm: nothing answers in this arm now.
            InvalidRequest, UnknownItem: see `Recommender.recommend`.
        """
        with self._previewed(arm) as served:
            return served.recommend(request)

    def explain(self, request: Request, item_id: str, arm: str | None = None) -> dict[str, object]:
        """Why an item is or is not in the answer to a request (`serve.why`), by the user's arm or by the one named.

        Raises:
            InvalidRequest, UnknownItem, NoSuchArm, TritonError, StoreError, Unavailable.
        """
        check(request)
        check_id("item_id", item_id)
        with self._previewed(self.fleet.arm(request.user_id) if arm is None else arm) as served:
            recommender = _whole(served).recommender
            return why.why(recommender, request, self.store.read(request.user_id), item_id)

    def similar(self, item_id: str, count: int) -> Slate:
        """The neighbours of an item. Raises InvalidRequest, UnknownItem, Unavailable."""
        check_id("item_id", item_id)
        with self._champion() as served:
            slate = caught_up(served, lambda: slates.similar(served.recommender, item_id, count))
        self.gauges.answered(slate, CHAMPION)
        return slate

    def search(self, words: str, *, count: int, first: int = 0) -> list[dict[str, object]]:
        """`count` items whose titles hold `words` (`serve.titles`), from the one numbered `first` on. Raises Unavailable."""
        with self._champion() as served:
            found = served.titles.find(words, first=first, count=count).to_dicts()
            return [one | {"title": one["title"] or one["item_id"], "genres": one["genres"] or []} for one in found]

    def item(self, item_id: str) -> dict[str, object]:
        """What the catalogue says of an item. Raises InvalidRequest, UnknownItem, Unavailable."""
        check_id("item_id", item_id)
        with self._champion() as served:
            return caught_up(served, lambda: profiles.item(served.recommender.release, item_id))

    def users(self, count: int) -> list[str]:
        """Some users of the release. Raises InvalidRequest, Unavailable."""
        check_count(count)
        with self._champion() as served:
            return served.recommender.release.users["user_id"].head(count).to_list()

    def user(self, user_id: str) -> dict[str, object]:
        """What is known of a user, who may be a stranger. Raises InvalidRequest, StoreError, Unavailable."""
        check_id("user_id", user_id)
        with self._champion() as served:
            told = profiles.user(served.recommender.release, user_id, self.store.read(user_id))
        return told | {"arm": self.fleet.arm(user_id)}

    def service(self) -> dict[str, object]:
        """What may be asked here: of which catalogue, in which arms. Raises Unavailable."""
        with self._champion() as served:
            told = profiles.service(served.recommender.release)
        challenger = next((one.serving for one in self.fleet.status().arms if one.arm == CHALLENGER), None)
        return told | {"challenger": challenger, "arms": dict(self.fleet.shares), "now": self.now_ms()}

    def record(self, body: bytes) -> events.Receipt:
        """Events told by a JSON text: durable when this returns, and known to the next answer of any process.

        Raises:
            InvalidRequest, UnknownItem, StoreError, Unavailable.
        """
        told = events.parse(body, self.now_ms())
        with self._champion() as served:
            receipt = caught_up(served, lambda: events.record(told, served.recommender.release, self.store))
            if receipt.stored:
                served.live.stored()
        now, whole = self.now_ms(), not receipt.repeated  # which of a batch are new is not told, so only one of new events has lags
        self.gauges.received(receipt.stored, receipt.repeated, [(now - one.timestamp) / 1000 for one in told if whole])
        return receipt

    def post_items(self, body: bytes) -> new_items.Receipt:
        """New items told by a JSON text: live in this process when this returns, in every other within some seconds.

        Raises:
            InvalidRequest, NoRoom, TritonError, StoreError, Unavailable.
        """
        with self._champion() as served:
            recommender = served.recommender
            items = new_items.parse(body, self.now_ms(), recommender.release)
            receipt = new_items.post(items, recommender.release, recommender.scorer.client, self.store)
            served.live.add_items(recommender.release.catalogue.rows(items["item_id"]), self.now_ms())
        return receipt

    def question(self, answers: Sequence[tuple[str, bool | None]]) -> dict[str, object] | None:
        """The item the quiz asks about after these answers, None where it is over. Raises InvalidRequest, UnknownItem, Unavailable."""
        with self._champion() as served:
            row = served.recommender.quiz.next(self._rows(served, answers))
            if row is None:
                return None
            catalogue = served.recommender.release.catalogue
            genres = catalogue.frame["genres"].slice(row, 1).to_list()[0]
            return {"item_id": catalogue.item_ids[row], "title": catalogue.titles[row], "genres": genres}

    def answered(self, user_id: str, answers: Sequence[tuple[str, bool | None]]) -> int:
        """Keep what a user answered; how many answers say something. "Don't know it" says nothing to keep.

        Raises:
            InvalidRequest, UnknownItem, StoreError, Unavailable.
        """
        check_id("user_id", user_id)
        with self._champion() as served:
            self._rows(served, answers)
        kept = [(item_id, liked) for item_id, liked in answers if liked is not None]
        self.store.put_answers(user_id, kept)
        return len(kept)

    @staticmethod
    def reported(store: Store, shares: Mapping[str, float]) -> Report:
        """What came of each arm's slates, from the log of what was shown and the events since."""
        return report(_all_slates(store), store.events_since(limit=sys.maxsize), champion=CHAMPION, shares=shares)

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """(whether everything is in its place, part by part what is not)."""
        status = self.fleet.status()
        with self.fleet.champion() as served:
            whole = isinstance(served, Served)
            client = served.recommender.scorer.client if whole else None
            parts = {
                "release": "ready" if status.whole else "; ".join(one.error for one in status.arms if one.error) or "changing",
                "triton": "ready" if client and client.ready() else f"{client.url if client else 'no server'} does not answer",
                "store": _said(self.store),
            }
            if whole:
                parts["posted items"] = served.posted.failing or _room(served.posted.left_out)
                parts["live counts"] = "stand still" if served.live.failing else "ready"
                parts |= {f"source {name}": served.recommender.panel.missing.get(name, "ready") for name in served.recommender.panel.names}
                version = served.recommender.release.manifest.version
            else:
                version = "none"
        for part, said in parts.items():
            self.gauges.part(part, said == "ready")
        return all(said == "ready" for said in parts.values()), {"model_version": version, "parts": parts}

    def vitals(self) -> Vitals:
        """How things stand. Waits for nothing but a lock."""
        serving = [one for one in self.fleet.status().arms if one.serving is not None]  # before the champion is leased below
        arms = tuple(of_arm(one, self.fleet.root, self.shown, self.now_ms()) for one in serving)
        with self.fleet.champion() as served:
            if not isinstance(served, Served):
                return Vitals(arms, 0, self._log.waiting, None)
            return Vitals(arms, served.recommender.turns.waiting, self._log.waiting, served.live.age_s)

    def close(self) -> None:
        """Write what is still to be logged, then take everything down."""
        self._log.close()
        self.fleet.close()

    @contextmanager
    def _champion(self) -> Iterator[Served]:
        with self.fleet.champion() as served:
            yield _whole(served)

    @contextmanager
    def _previewed(self, arm: str) -> Iterator[Served | Remembered]:
        try:
            with self.fleet.preview(arm) as served:
                yield served
        except LookupError as error:
            if isinstance(error, slates.UnknownItem):
                raise
            raise NoSuchArm(str(error)) from error

    def _rows(self, served: Served, answers: Sequence[tuple[str, bool | None]]) -> dict[int, bool | None]:
        if len(answers) > MAX_ANSWERS:
            raise InvalidRequest("answers", f"are {len(answers)}; expected at most {MAX_ANSWERS}.")
        for item_id, _ in answers:
            check_id("answers.item_id", item_id)
        return {slates.row_of(served.recommender.release, item_id): liked for item_id, liked in answers}


def caught_up(served: Served, ask: Callable[[], T]) -> T:
    """What `ask` answers; where it knows no such item, asked again after reading what was posted to other processes within the second.

    Raises:
        UnknownItem: nobody knows it.
    """
    try:
        return ask()
    except slates.UnknownItem:
        if not served.posted.catch_up():
            raise
        return ask()


def _whole(served: Served | Remembered) -> Served:
    if isinstance(served, Remembered):
        raise Unavailable("No release can be opened; only slates that were precomputed are served. /readyz says why.")
    return served


def _all_slates(store: Store) -> Iterator[LoggedSlate]:
    after = 0
    while batch := store.slates_since(after):
        yield from (slate for _, slate in batch)
        after = batch[-1][0]


def _room(left_out: int) -> str:
    return f"{left_out:,} found no room: export again" if left_out else "ready"


def _said(store: Store) -> str:
    try:
        store.ping()
    except StoreError as error:
        return str(error)
    return "ready"
