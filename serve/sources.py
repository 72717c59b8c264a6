"""Where candidates come from. Every source proposes item rows, best first, within its own budget of candidates and milliseconds.

None decides by chance: the same question gets the same answer while nothing new is known. Each proposes an item once at most.

Shapes: B = 1 · D width · I catalogue · K candidates · E events of one user · S seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data.aggregates import day_part
from data.features import EVENT_TYPE_CODE, MOMENT
from serve.content import ContentTable, taste
from serve.editorial import EditorialFile
from serve.index import Index
from serve.release import Release
from serve.scoring import Person
from serve.tops import Tops
from serve.trends import Trends

SEEDING = [EVENT_TYPE_CODE[name] for name in ("watch", "complete", "rate")]
NOTHING = np.zeros(0, np.int64)
PROBE_SHARE = 0.25  # of an index's probes, for the neighbours of the items that `Because` starts from: five searches in the time of one


@dataclass(frozen=True, slots=True)
class Ask:
    """What a source may look at. `query_BD` is None while no model answers, `item_row` where no item was named.

    `region` is the request's, else the user's own, else None. `timestamp` (ms UTC) is the moment of the request by the clock on the wall,
    which says what hour of the day it is and what a calendar holds; `who.now` may be later, where a log ends later.
    """

    who: Person
    query_BD: np.ndarray | None
    item_row: int | None
    region: str | None
    timestamp: int


class Source(Protocol):
    """Anything with a name that proposes at most `count` item rows (int64), best first."""

    name: str

    def propose(self, ask: Ask, count: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Collaborative:
    """Items whose retrieval vectors lie nearest to the user's query."""

    index: Index
    name: str = "collaborative"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        _, item_row_BK = self.index.search(ask.query_BD, count)
        return item_row_BK[0]


@dataclass(frozen=True, slots=True)
class Content:
    """Items made of what the user's last likings are made of, whoever else liked them; none that the taste itself was read from."""

    table: ContentTable
    half_life_days: float = 30.0
    name: str = "content"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        taste_C, known = taste(self.table.vector_IC, ask.who, half_life_days=self.half_life_days)
        return self.table.nearest(taste_C, count, without=known) if taste_C.any() else NOTHING


@dataclass(frozen=True, slots=True)
class Trending:
    """Items taken up more than usual in the request's region, else the user's own, else everywhere. `words` are the regions' by their rows
    in the moment, less one."""

    tops: Callable[[], Tops]
    words: tuple[str, ...]
    name: str = "trending"

    def where(self, ask: Ask) -> str | None:
        """The region whose trends are proposed; None is everywhere."""
        row = int(ask.who.moment_BC[0, MOMENT.index("region")])
        region = ask.region if ask.region is not None or not row else self.words[row - 1]
        return region if region in self.tops().trending else None

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        return self.tops().trending[self.where(ask)][:count]


@dataclass(frozen=True, slots=True)
class Popular:
    """What most people took up lately at this time of day (`serve.tops.popular`); never an item nobody took up.

    After the log's last hour every count decays by the same factor, so the order stands still until something new is taken up.
    `last_hour` (since 1970 UTC) is that hour's successor.
    """

    tops: Callable[[], Tops]
    last_hour: int
    name: str = "popular"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        return self.tops().popular[day_part(ask.timestamp)][:count]


@dataclass(frozen=True, slots=True)
class Editorial:
    """What people chose to show, in their order."""

    file: EditorialFile
    name: str = "editorial"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        active = [row for entry, row in self.file.entries() if entry.active(ask.region, ask.timestamp)]
        return np.array(list(dict.fromkeys(active)), np.int64)[:count]

    def reserved(self, ask: Ask) -> tuple[tuple[int, int], ...]:
        """(place from 1, item row) of the slots that no ranker may take, by place. Of two entries for a place, or two places of an item,
        the first in the file holds; the other is proposed like any."""
        taken: dict[int, int] = {}
        for entry, row in self.file.entries():
            if entry.place is not None and entry.active(ask.region, ask.timestamp) and row not in taken.values():
                taken.setdefault(entry.place, row)
        return tuple(sorted(taken.items()))


@dataclass(frozen=True, slots=True)
class Explore:
    """New and rarely shown items, the least exposed first: who is in the pool that explore slots draw from. Nothing is drawn here."""

    tops: Callable[[], Tops]
    name: str = "explore"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        return self.tops().explore[:count]


@dataclass(frozen=True, slots=True)
class Because:
    """Neighbours of each of the last few items watched, finished or rated well, in turns: every item's nearest, then every item's second.

    `vector_ID` holds retrieval vectors and may be a memory map.
    """

    index: Index
    vector_ID: np.ndarray
    last: int = 5
    name: str = "because"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        seed_S = self.seeds(ask.who)
        if not len(seed_S):
            return NOTHING
        each = min(count, 2 * -(-count // len(seed_S))) + len(seed_S)
        _, item_row_SK = self.index.search(np.asarray(self.vector_ID[seed_S], np.float32), each, probe_share=PROBE_SHARE)
        turns, seeds = dict.fromkeys(item_row_SK.T.ravel().tolist()), set(seed_S.tolist())
        return np.array([row for row in turns if row not in seeds], np.int64)[:count]

    def seeds(self, who: Person) -> np.ndarray:
        """The rows of the last `last` distinct items that were watched, finished or rated well, the newest first."""
        row_E = who.item_row_E[np.isin(who.event_code_E, SEEDING)]
        return np.array(list(dict.fromkeys(row_E[::-1].tolist()))[: self.last], np.int64)


@dataclass(frozen=True, slots=True)
class Similar:
    """Items whose retrieval vectors lie nearest to that of the item the request names. `vector_ID` may be a memory map."""

    index: Index
    vector_ID: np.ndarray
    name: str = "similar"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        _, item_row_BK = self.index.search(self.vector_ID[[ask.item_row]].astype(np.float32), count + 1)
        return item_row_BK[0][item_row_BK[0] != ask.item_row][:count]


@dataclass(frozen=True, slots=True)
class HalfWatched:
    """Items the user began (`watch`) and did not finish since, the newest first."""

    name: str = "begun"

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        newest_first = ask.who.item_row_E[::-1]
        item_row, last = np.unique(newest_first, return_index=True)
        begun = ask.who.event_code_E[::-1][last] == EVENT_TYPE_CODE["watch"]
        return item_row[begun][np.argsort(last[begun])][:count].astype(np.int64)


def usual(
    release: Release, editorial: Path | str | None, tops: Callable[[], Tops], *, taste_half_life_days: float = 30.0
) -> tuple[Source, ...]:
    """All sources of a release, in the order of their bits. `editorial` is the list's file; `tops` the newest tops whenever it is called:
    `serve.live.Live.tops`, or a lambda of one that stands still.

    Raises:
        ReleaseError: a file of the release does not go with the others.
    """
    vector_ID = np.asarray(release.items)[:, release.manifest.width :]
    return (
        Collaborative(release.index),
        Content(release.content, taste_half_life_days),
        Trending(tops, release.vocabulary.region.words),
        Popular(tops, tops().trends.last_hour),
        Editorial(EditorialFile(editorial, release.catalogue.rows)),
        Explore(tops),
        Because(release.index, vector_ID),
        Similar(release.index, vector_ID),
        HalfWatched(),
    )


def resting(release: Release) -> tuple[Source, ...]:
    """The sources of a release as its log ended: nothing live, no editors. Raises as `usual`."""
    tops = Tops.of(trends_of(release))
    return usual(release, None, lambda: tops)


def trends_of(release: Release) -> Trends:
    """What a release counted. Raises ReleaseError."""
    words = release.vocabulary.region.words
    return Trends.open(release.path, release.manifest, release_day_I=release.release_day_I[: release.manifest.item_count], words=words)
