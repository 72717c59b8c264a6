"""Slates put together: from a page, from what was precomputed, or from what is left when models or stores are away.

The page is never empty while there is anything to show: personalised → precomputed → trending here → popular, and the answer says which.

Shapes: K candidates · N slate · D width.
"""

import tempfile
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.features import genre_share
from serve import chance, filters, shelves
from serve.contract import Candidates, Draw, Known, Recommendation, Request, Slate
from serve.explain import Causes
from serve.likeness import unit
from serve.limits import check_count
from serve.release import Release
from serve.sqlite_store import SqliteStore
from serve.tally import Tally

if TYPE_CHECKING:
    from serve.course import Course
    from serve.recommender import Recommender

NO_HISTORY, NO_REASONS = "history unavailable", "reasons unavailable"
PARTS = {NO_HISTORY: "history", NO_REASONS: "reasons"}
NO_RANKING = "ranking unavailable"


class UnknownItem(LookupError):
    """No such item in the release's catalogue. The message is a sentence that names it."""

    def __init__(self, item_id: str, version: str):
        super().__init__(f"There is no item {item_id!r} in the catalogue of release {version}.")


def row_of(release: Release, item_id: str) -> int:
    """The row of an item. Raises UnknownItem."""
    row = int(release.catalogue.rows((item_id,))[0])
    if row < 0:
        raise UnknownItem(item_id, release.manifest.version)
    return row


def recommendations(
    recommender: "Recommender", shown: Candidates, scores: Sequence[float | None], said: Sequence[tuple[str, str]]
) -> tuple[Recommendation, ...]:
    """What is shown, in the order of the slate; `said` has the reason and the row of each."""
    catalogue = recommender.release.catalogue
    return tuple(
        Recommendation(catalogue.item_ids[row], catalogue.titles[row], score, reason, shelf, recommender.panel.names_of(source))
        for row, source, score, (reason, shelf) in zip(shown.item_row_K.tolist(), shown.source_K.tolist(), scores, said, strict=True)
    )


def slate(
    recommender: "Recommender", request: Request, told: Sequence[Recommendation], answered_by: str, tally: Tally, drawn: Draw | None = None
) -> Slate:
    """The answer, its items in the order in which the page is read, and the draw's slots with them."""
    order_N = shelves.page_order([one.row for one in told])
    if drawn is not None:
        place_of = np.argsort(order_N)
        drawn = replace(drawn, slots=tuple(int(place_of[slot]) for slot in drawn.slots))
    catalogue, version = recommender.release.catalogue, recommender.release.manifest.version
    genres_N = catalogue.frame["genres"].gather(catalogue.rows([one.item_id for one in told])).to_list()
    paged = tuple(replace(told[place], genres=tuple(genres_N[place] or ())) for place in order_N)
    return Slate(request.request_id, paged, version, answered_by, tally.elapsed_ms, tally.stage_ms, tally.dropped, drawn, tally.proposed)


def said(
    recommender: "Recommender", request: Request, course: "Course", row_N: np.ndarray, kind_N: Sequence[str], cause: Causes
) -> list[tuple[str, str]]:
    """(reason, row) of each item of a page. For nobody in particular nothing is picked: what is shown is popular."""
    release = recommender.release
    if request.item_id is not None:
        title = release.catalogue.titles[row_of(release, request.item_id)]
        return [(f"Similar to {title}", f"More like {title}")] * len(row_N)
    if course.who.nobody:
        kind_N = [kind or "popular" for kind in kind_N]
    share_G = genre_share(release.catalogue.genre_IG, course.history)[0]
    shown = shelves.Shown(kind_N, cause, release.catalogue.genre_IG[row_N] > 0)
    region = recommender.panel.source("trending").where(recommender.ask(request, course.who, None))
    return shelves.say(shown, release.catalogue.titles, release.genres, share_G, region)


def answered_by(request: Request, course: "Course", tally: Tally) -> str:
    """How a live answer was made, and without what."""
    by = "personalised" if not course.who.nobody else "popular" if request.item_id is None else "similar"
    without = [*course.missing, *(part for lost, part in PARTS.items() if lost in tally.dropped)]
    return f"{by} (without {', '.join(without)})" if without else by


def precomputed(recommender: "Recommender", request: Request, known: Known, tally: Tally, answered_by: str) -> Slate:
    """The first of a slate made earlier, without what may not be shown by now; explore slots draw from what of it explore proposed.

    An item that left the catalogue is left out, and counted.
    """
    with tally.stage("precomputed"):
        made = known.precomputed.recommendations
        row_K = recommender.release.catalogue.rows([shown.item_id for shown in made])
        there = [shown for shown, row in zip(made, row_K, strict=True) if row >= 0]
        tally.drop({"item that left the catalogue": len(made) - len(there)})
        candidates = Candidates(row_K[row_K >= 0], np.zeros(len(there), np.int64))
        who = recommender.person(request, known, tally)
        stays = recommender.stays(request, known, who, candidates)
        _, dropped = filters.keep(candidates, stays)
        tally.drop(dropped)
        may = np.logical_and.reduce([np.ones(len(there), bool), *stays.values()])
        left = [shown for shown, stay in zip(there, may, strict=True) if stay]
        held, rest = left[: request.count], left[request.count :]
        explore = recommender.policy.rules.explore
        pool = {shown.item_id: shown for shown in rest if "explore" in shown.sources}
        slots = [place - 1 for place in explore.places if place <= len(held) and held[place - 1].row != shelves.EDITORS]
        drawn = chance.draw(request.request_id, slots=slots, pool=tuple(pool), epsilon=explore.epsilon)
        for slot, item in zip(drawn.slots, drawn.drawn, strict=True) if drawn else ():
            held[slot] = held[slot] if item is None else replace(pool[item], reason=shelves.EXPLORED, row=shelves.DIFFERENT)
        said = shelves.gathered([(shown.reason, shown.row) for shown in held])
        told = [replace(shown, row=row) for shown, (_, row) in zip(held, said, strict=True)]
    return slate(recommender, request, told, answered_by, tally, drawn)


def without_models(recommender: "Recommender", request: Request, known: Known, tally: Tally) -> Slate:
    """What can be said while no model answers: what was precomputed, else what is trending here and what is popular, or what lies near the
    item asked about, in that order, unscored."""
    tally.drop({NO_RANKING: 1})
    if known.precomputed is not None and request.context == "homepage":
        return precomputed(recommender, request, known, tally, f"precomputed ({NO_RANKING})")
    who, panel = recommender.person(request, known, tally), recommender.panel
    with tally.stage("sources"):
        names = ("similar",) if request.context == "item" else ("trending", "popular")
        proposed, missing, _ = panel.propose(names, recommender.ask(request, who, None))
    with tally.stage("filters"):
        candidates, dropped = filters.keep(proposed, recommender.stays(request, known, who, proposed))
        tally.drop(dropped)
    tally.drop({f"source {source}: {why}": 1 for source, why in missing.items()})
    row_N, source_N = candidates.item_row_K[: request.count], candidates.source_K[: request.count]
    if request.context == "item":
        title, by = recommender.release.catalogue.titles[row_of(recommender.release, request.item_id)], "similar"
        said = [(f"Similar to {title}", f"More like {title}")] * len(row_N)
    else:
        rising_N = panel.proposed_by(Candidates(row_N, source_N), "trending")
        by = "trending" if rising_N.any() else "popular"
        here = shelves.trending(panel.source("trending").where(recommender.ask(request, who, None)))
        said = [(here, here) if rising else (shelves.REASON[shelves.POPULAR], shelves.POPULAR) for rising in rising_N]
    parts = [NO_RANKING, *(name for name in PARTS if name in tally.dropped)]
    told = recommendations(recommender, Candidates(row_N, source_N), [None] * len(row_N), said)
    return slate(recommender, request, told, f"{by} ({', '.join(parts)})", tally)


def similar(recommender: "Recommender", item_id: str, count: int) -> Slate:
    """The items nearest to one item by retrieval vector; `score` is the cosine. No user, no model.

    Raises:
        InvalidRequest: `count` is out of bounds.
        UnknownItem: the item is not in the catalogue.
    """
    check_count(count)
    release, tally = recommender.release, Tally()
    item_row = row_of(release, item_id)
    with tally.stage("sources"):
        _, near_BK = release.index.search(recommender.scorer.vectors(np.array([item_row])).astype(np.float32), count + 1)
        row_N = near_BK[0][(near_BK[0] >= 0) & (near_BK[0] != item_row)][:count]
    cosine_N = unit(recommender.scorer.vectors(row_N)) @ unit(recommender.scorer.vectors(np.array([item_row])))[0]
    order_N = np.argsort(-cosine_N, kind="stable")  # vectors need not be of one length, and the index goes by the inner product
    row_N, cosine_N = row_N[order_N], cosine_N[order_N]
    title = release.catalogue.titles[item_row]
    said = [(f"Similar to {title}", f"More like {title}")] * len(row_N)
    request = Request("", 0, request_id=uuid.uuid4().hex)
    told = recommendations(recommender, Candidates(row_N, np.zeros(len(row_N), np.int64)), cosine_N.tolist(), said)
    return slate(recommender, request, told, "similar", tally)


def passing_store(release: Release) -> SqliteStore:
    """A store of the release's histories that is gone with the process."""
    folder = tempfile.TemporaryDirectory(prefix="towers-")
    store = SqliteStore(Path(folder.name) / "live.sqlite")
    weakref.finalize(store, folder.cleanup)
    store.load_histories(release.path / "histories.parquet", release.path / "users.parquet", version=release.manifest.version)
    return store
