"""The rows of a page and the sentence on each card. Everything said here was found out before: nothing is said for decoration.

Shapes: N shown items · G genres.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.features import EVENT_TYPE_CODE
from serve.explain import Causes

SHELF = 3  # items that must share a cause, or a genre, before it gets a row of its own
CAUSES = 3  # rows of this kind that a page may have
FEW = 2  # of another row, below which its items stand among the top picks
TOP = 6  # items chosen for their worth that are top picks, whatever else might be said of them
MUCH = 0.2  # of what a user took up, from which on a genre is much of it
CONTINUE, PICKS, EDITORS, NEW = "Continue watching", "Top Picks for You", "Editors' choice", "New for you"
POPULAR, DIFFERENT = "Popular now", "Something different"
EXPLORED = "New, or seldom shown so far"
VERB = {
    EVENT_TYPE_CODE["view"]: "looked at",
    EVENT_TYPE_CODE["click"]: "opened",
    EVENT_TYPE_CODE["watch"]: "watched",
    EVENT_TYPE_CODE["complete"]: "watched",
    EVENT_TYPE_CODE["rate"]: "liked",
}
REASON = {
    CONTINUE: "You have not finished this",
    PICKS: "Picked for you",
    EDITORS: "Chosen by the editors",
    NEW: "New here",
    POPULAR: "Popular right now",
    DIFFERENT: "Unlike what you usually watch",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What is known of the items of a slate, in its order: why each has its place (`kind_N`, "" for worth alone), what caused it, which
    genres it bears (bool (N, G))."""

    kind_N: Sequence[str]
    cause: Causes
    genre_NG: np.ndarray


def trending(region: str | None) -> str:
    """The title of the row of what is trending where the user is."""
    return f"Trending in {region}" if region else "Trending now"


def because(cause: Causes, titles: Sequence[str]) -> list[str | None]:
    """The sentence of each item that one history item caused."""
    pairs = zip(cause.item_row_N.tolist(), cause.event_code_N.tolist(), strict=True)
    return [f"Because you {VERB[code]} {titles[row]}" if row >= 0 else None for row, code in pairs]


def say(shown: Shown, titles: Sequence[str], genres: Sequence[str], share_G: np.ndarray, region: str | None) -> list[tuple[str, str]]:
    """(reason, row) of each item of a homepage. `titles` by item row; `share_G` says what the user's history is made of."""
    row_of = {"begun": CONTINUE, "editorial": EDITORS, "new": NEW, "popular": POPULAR, "different": DIFFERENT, "trending": trending(region)}
    row_of["explored"] = DIFFERENT
    sentence_N = because(shown.cause, titles)
    beyond = [place for place, kind in enumerate(shown.kind_N) if not kind][TOP:]
    rows = causes_with_rows(shown.cause.item_row_N.tolist(), sentence_N, beyond)
    said = []
    for place, (kind, sentence) in enumerate(zip(shown.kind_N, sentence_N, strict=True)):
        if kind:
            said.append((EXPLORED if kind == "explored" else REASON.get(row_of[kind], row_of[kind]), row_of[kind]))
        elif sentence is None:
            said.append((REASON[PICKS], PICKS))
        else:
            said.append((sentence, sentence if place in rows else PICKS))
    return more_of(gathered(said), beyond, shown.genre_NG, genres, share_G)


def causes_with_rows(cause_row_N: Sequence[int], sentence_N: Sequence[str | None], beyond: Sequence[int]) -> frozenset[int]:
    """The places, of those `beyond` the first `TOP`, whose cause at least `SHELF` of them share: the most shared `CAUSES` causes, the
    earlier first. Of two that bear one title only the first may have a row, or it would hold what the other caused."""
    shared = Counter(cause_row_N[place] for place in beyond if sentence_N[place] is not None)
    sentence_of = {cause_row_N[place]: sentence_N[place] for place in beyond}
    rows: dict[str | None, int] = {}
    for row, count in shared.most_common():
        if count >= SHELF and len(rows) < CAUSES:
            rows.setdefault(sentence_of[row], row)
    return frozenset(place for place in beyond if cause_row_N[place] in rows.values())


def gathered(said: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows of fewer than `FEW` items are none, nor are those of one cause or genre of fewer than `SHELF`: their items stand among the top
    picks, and keep their reasons. Where nothing was picked for this user they stand among what is popular. What was begun and what was
    popular for everyone keeps its row."""
    size = Counter(row for _, row in said)
    home = POPULAR if POPULAR in size and PICKS not in size else PICKS
    least = {row: SHELF if row.startswith(("Because ", "More ")) else FEW for row in size} | {CONTINUE: 1, POPULAR: 1}
    return [(reason, row if size[row] >= least[row] else home) for reason, row in said]


def more_of(
    said: list[tuple[str, str]], beyond: Sequence[int], genre_NG: np.ndarray, genres: Sequence[str], share_G: np.ndarray
) -> list[tuple[str, str]]:
    """Take "More <genre>" out of the top picks at the places `beyond` the first `TOP`, for the genre that is most of the user's history."""
    picks = [place for place in beyond if said[place] == (REASON[PICKS], PICKS)]
    for genre in np.argsort(-share_G, kind="stable"):
        if share_G[genre] < MUCH:
            break
        of_it = [place for place in picks if genre_NG[place, genre]]
        if len(of_it) >= SHELF:
            title = f"More {genres[genre]}"
            return [(f"{genres[genre]}, as much of what you watch", title) if place in of_it else one for place, one in enumerate(said)]
    return said


ORDER = (CONTINUE, PICKS, "Because", "Trending", NEW, "More", POPULAR, DIFFERENT, EDITORS)


def page_order(rows: Sequence[str]) -> np.ndarray:
    """Positions of a slate in the order in which its page is read: row after row as in `ORDER`, each in the slate's own order."""
    seen = list(dict.fromkeys(rows))
    rank = {row: next((place for place, start in enumerate(ORDER) if row.startswith(start)), 1) for row in seen}
    return np.array(sorted(range(len(rows)), key=lambda place: (rank[rows[place]], seen.index(rows[place]))), np.int64)
