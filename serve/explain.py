"""Why an item is shown. "Because you watched X" is said only if, X left out of the history, the item's probability would have been lower.

Suspects of the history are left out one at a time, all in one batch through both models: the explanation is the models' own answer
to "and without it?" (Li, Monroe and Jurafsky, Understanding neural networks through representation erasure, 2016). Every suspect is one
more history for the user tower and one more slate for the ranker, and `SUSPECTS` bounds that. Whatever is said was tested; of a history
with more distinct items than that, an item that was not suspected is not named, even if it was the true cause.

Shapes: X items left out · N shown items · E events of one user.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.features import DISLIKED, EVENT_TYPE_CODE
from serve.scoring import Person, Scorer, pack_without

NOTICEABLE = 0.05  # of the item's probability; less than that is no reason
SUSPECTS = 12  # history items left out in turn; a history of no more is tested whole
NEWEST = 4  # of them are the newest, whatever they resemble
SHELF = 3  # shown items that must share a cause before it gets a shelf of its own
POPULAR = ("Popular right now", "Popular now")
PICKED = ("Picked for you", "Picked for you")
CONTINUE = ("You have not finished this", "Continue watching")
VERB = {
    EVENT_TYPE_CODE["view"]: "looked at",
    EVENT_TYPE_CODE["click"]: "opened",
    EVENT_TYPE_CODE["watch"]: "watched",
    EVENT_TYPE_CODE["complete"]: "watched",
    EVENT_TYPE_CODE["skip"]: "skipped",
    EVENT_TYPE_CODE["rate"]: "liked",
    DISLIKED: "did not like",
}


@dataclass(frozen=True, slots=True)
class Causes:
    """For each shown item the history row (item_row) and event code that caused it, or -1 where no single item did."""

    item_row_N: np.ndarray
    event_code_N: np.ndarray


def causes(scorer: Scorer, who: Person, item_row_N: np.ndarray, probability_N: np.ndarray) -> Causes:
    """Leave every suspect out of the history once and see whose absence each shown item suffers from most.

    `probability_N` is what the shown items were ranked by, the whole history told.

    Raises:
        TritonError: the server did not answer.
    """
    length = scorer.release.manifest.history_length
    newest_first = who.item_row_E[::-1][:length]
    left_out_X = suspects(scorer, newest_first, item_row_N)
    if not len(left_out_X):
        return no_causes(len(item_row_N))
    without = pack_without(who, left_out_X, length)
    query_XD = scorer.query(without, who.moment_BC)
    without_XN = scorer.probability(query_XD, without, who.moment_BC, item_row_N, who.now)
    cause_N = most_missed(probability_N, without_XN)
    newest_X = (newest_first[None, :] == left_out_X[:, None]).argmax(1)
    code_X = who.event_code_E[::-1][newest_X]
    return Causes(np.where(cause_N < 0, -1, left_out_X[cause_N]), np.where(cause_N < 0, -1, code_X[cause_N]))


def suspects(scorer: Scorer, newest_first: np.ndarray, item_row_N: np.ndarray) -> np.ndarray:
    """At most `SUSPECTS` distinct item rows of a history that may have caused what is shown: the newest, then those whose
    retrieval vectors lie nearest to a shown item, every shown item's first choice before anyone's second."""
    distinct = np.array(list(dict.fromkeys(newest_first.tolist())), np.int64)
    if len(distinct) <= SUSPECTS or not len(item_row_N):
        return distinct[:SUSPECTS] if len(item_row_N) else distinct[:0]
    width = scorer.release.manifest.width
    history_XD = scorer.release.items[distinct, width:].astype(np.float32)
    shown_ND = scorer.release.items[item_row_N, width:].astype(np.float32)
    choice_NX = np.argsort(-(shown_ND @ history_XD.T), axis=1)
    chosen = dict.fromkeys([*range(NEWEST), *choice_NX.T.ravel().tolist()])
    return distinct[list(chosen)[:SUSPECTS]]


def most_missed(with_N: np.ndarray, without_XN: np.ndarray) -> np.ndarray:
    """For each shown item, the x whose absence lowers its probability most, or -1: int64 (N).

    The loss must be noticeable, at least `NOTICEABLE` of the probability, and larger than that of the median of the X, x itself among
    them: a history that is shorter by anything at all often scores a little lower, and that is no reason to name one item. The median
    is of the items that were left out. That is the median history item where the whole history was; of a longer one the suspects stand
    for it, which are the likeliest to be missed, so that their median asks for more rather than less. An only item has no other to be
    compared with.
    """
    loss_XN = 1 - without_XN / np.where(with_N > 0, with_N, np.inf)
    most_N = loss_XN.argmax(0)
    loss_N = loss_XN[most_N, np.arange(len(with_N))]
    median_N = np.median(loss_XN, axis=0) if len(loss_XN) > 1 else np.zeros(len(with_N))
    return np.where((with_N > 0) & (loss_N >= NOTICEABLE) & (loss_N > median_N), most_N, -1)


def no_causes(count: int) -> Causes:
    """Nothing in particular caused any of `count` items: nobody's history was read."""
    return Causes(np.full(count, -1), np.full(count, -1))


def say(cause: Causes, popular_N: np.ndarray, titles: Sequence[str], *, nobody: bool) -> list[tuple[str, str]]:
    """(reason, row) of each shown item. `popular_N`: only the popular source proposed it; `titles` by item row.

    A cause that at least `SHELF` items share names their row as well. For nobody in particular nothing is picked:
    what is shown is popular.
    """
    because = [
        f"Because you {VERB[int(code)]} {titles[row]}" if row >= 0 else None
        for row, code in zip(cause.item_row_N, cause.event_code_N, strict=True)
    ]
    shared = Counter(because)
    said = []
    for reason, popular in zip(because, popular_N, strict=True):
        plain = POPULAR if popular or nobody else PICKED
        said.append(plain if reason is None else (reason, reason if shared[reason] >= SHELF else PICKED[1]))
    return said
