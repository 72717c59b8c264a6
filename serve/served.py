"""A release at work in one process: its models, its sources, and the threads that keep it up with what the store is told.

`opened` gives `serve.fleet` what it needs of a release; `remembered` what answers when there is no release left that can.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from data.schema import SchemaError
from serve import local_triton, paging, publication
from serve.clock import Clock
from serve.contract import Known, Request, Slate, UserFields
from serve.course import Policy
from serve.gauges import Gauges
from serve.histories import NOTHING
from serve.judge import Judge
from serve.limits import check
from serve.live import Live
from serve.manifest import ReleaseError
from serve.new_items import NewItems
from serve.own_sources import own
from serve.recommender import Recommender
from serve.release import Release
from serve.settings import Settings
from serve.sources import trends_of, usual
from serve.store import Store, StoreError
from serve.tally import Tally
from serve.titles import Titles
from serve.tops import Pool, Tops
from serve.triton import Client, TritonError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A recommender, and what follows the store for it: items posted anywhere, and what happens today."""

    recommender: Recommender
    posted: NewItems
    live: Live
    titles: Titles

    def recommend(self, request: Request) -> Slate:
        """See `Recommender.recommend`."""
        return self.recommender.recommend(request)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is left when no release can be opened: the slates that were precomputed, of the user or of nobody in particular."""

    store: Store

    def recommend(self, request: Request) -> Slate:
        """The precomputed slate without what the user took up since; an empty one where none was made.

        Raises:
            InvalidRequest: a field is out of bounds.
        """
        check(request)
        tally = Tally()
        try:
            known = self.store.read(request.user_id)
            if known.precomputed is None:
                known = replace(self.store.read(NOBODY), history=known.history)
        except StoreError as error:
            logger.warning("request %s: %s", request.request_id, error)
            tally.drop({"history unavailable": 1})
            known = Known(NOTHING, UserFields())
        made = known.precomputed.recommendations if known.precomputed else ()
        did, before = set(known.history.item_ids), set(request.before)
        left = [shown for shown in made if shown.item_id not in did and paging.mark(shown.item_id) not in before][: request.count]
        version = known.precomputed.model_version if known.precomputed else "none"
        by = "precomputed (release unavailable)"
        return Slate(request.request_id, tuple(left), version, by, tally.elapsed_ms, tally.stage_ms, tally.dropped)


NOBODY = "nobody in particular"
"""The user whose precomputed slate is everybody's for whom none was made."""


def opened(chosen: Settings, store: Store, gauges: Gauges, clock: Clock) -> Callable[[str], tuple[Served, Callable[[], None]]]:
    """What opens a release by its version: verified against its golden answers on a Triton of its own (or on `triton.url`), with all that
    was posted since. `now_ms` tells the time, given the hour after the log's last.

    The function it returns raises ReleaseError, TritonError, StoreError, SchemaError or OSError.
    """

    def open_release(version: str, read: Callable[[Path], Release] = Release.open) -> tuple[Served, Callable[[], None]]:
        with ExitStack() as stack:
            release = read(chosen.releases / version)
            logger.info("release %s: %s items", version, f"{release.manifest.item_count:,}")
            _load_histories(chosen, store, release)
            url = _triton(chosen, release, stack)
            client = Client(url, timeout_ms=chosen.triton.timeout_ms)
            tops = Tops.of(trends_of(release), Pool(new_days=chosen.rules.new_days))
            clock.log_ended(tops.trends.last_hour)
            live = Live(
                tops, store, rows=release.catalogue.rows, users=release.users, liked_from=release.manifest.liked_from,
                now_ms=clock.now_ms, known=gauges.known,
            )  # fmt: skip
            judge = Judge(release, share=chosen.judged, tell=gauges.found)
            stack.callback(judge.close)
            recommender = Recommender.verified(
                release, client, store=store, policy=_policy(chosen), on_query=judge.offer,
                budgets=chosen.sources | {name: one.budget for name, one in chosen.own_sources.items()},
                sources=(*usual(release, chosen.editorial, live.tops), *own(chosen.own_sources, release)),
            )  # fmt: skip
            stack.callback(recommender.close)
            gauges.sources(recommender.panel.names)
            posted = NewItems(release, client, store, added=live.add_items)
            stack.callback(posted.close)
            posted.start()
            live.poll()
            live.start()
            stack.callback(live.close)
            return Served(recommender, posted, live, _titles(recommender)), stack.pop_all().close

    return open_release


def _titles(recommender: Recommender) -> Titles:
    release = recommender.release
    popularity_I, _ = release.clock.before(np.arange(len(release.catalogue)), recommender.last_hour)
    return Titles(release.catalogue, pl.Series(popularity_I))


def _policy(chosen: Settings) -> Policy:
    told = Policy(chosen.rules, chosen.precomputed, chosen.deadline_ms)
    return told if chosen.at_once is None else replace(told, at_once=chosen.at_once)


def _load_histories(chosen: Settings, store: Store, release: Release) -> None:
    """Make a release's histories the store's base. There is one base: a challenger is asked of the champion's."""
    version = release.manifest.version
    if version == publication.challenger(chosen.releases):
        return
    if store.load_histories(release.path / "histories.parquet", release.path / "users.parquet", version=version):
        logger.info("histories of release %s loaded into the store", version)


def last_resort(open_release: Callable, store: Store) -> Callable[[str], tuple[Served | Remembered, Callable[[], None]]]:
    """What opens a release that is not whole, and has none before it that is: with indexes made anew, if nothing else is wrong with it;
    else what was precomputed."""

    def stand_in(version: str) -> tuple[Served | Remembered, Callable[[], None]]:
        try:
            return open_release(version, Release.mended)
        except (ReleaseError, TritonError, SchemaError) as error:
            logger.error("release %s cannot be mended: %s; only precomputed slates are served", version, error)
            return Remembered(store), lambda: None

    return stand_in


def _triton(chosen: Settings, release: Release, stack: ExitStack) -> str:
    if chosen.triton.url is not None:
        return chosen.triton.url
    version = release.manifest.version
    if release.manifest.backend != "python":
        backend = f"says it was exported for Triton's {release.manifest.backend} backend, which the local server lacks"
        remedy = "give triton.url=host:port of a server that has it, or export with backend=python"
        raise ReleaseError(release.path, "manifest.json", backend, remedy)
    models = tuple(spec.name for spec in (release.user_tower, release.item_tower, release.ranker))
    log_path = chosen.state / f"triton-{version}.log"
    server = stack.enter_context(local_triton.kept(release.path / "triton", log_path=log_path, models=models))
    logger.info("triton: started on %s for release %s, log in %s", server.grpc_url, version, log_path)
    return server.grpc_url
