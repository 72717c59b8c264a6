"""Why an item is shown. "Because you watched X" is said only if, X left out of the history, the item's probability would have been lower.

Every item of the history that the models read is left out once, all in one batch through each model: the explanation is the models' own
answer to "and without it?" (Li, Monroe and Jurafsky, Understanding neural networks through representation erasure, 2016). Named is, of the
history items nearest to the shown one, whichever is missed most, held against the median of the whole history: what is said is true of all
of it.

Shapes: N shown items · X history items · D width.
"""

from dataclasses import dataclass

import numpy as np

from data.features import DISLIKED, EVENT_TYPE_CODE, PackedHistory
from serve.likeness import unit
from serve.scoring import Person, Scorer, pack_without

NOTICEABLE = 0.05  # of the item's probability; less than that is no reason
REFUSED = (EVENT_TYPE_CODE["skip"], EVENT_TYPE_CODE["not_interested"], DISLIKED)  # is never named as what somebody came by an item by
SUSPECTS = 8  # history items that may be named for a shown item: those nearest to it


@dataclass(frozen=True, slots=True)
class Causes:
    """For each shown item the history row (item_row) and event code that caused it, or -1 where no single item did; `loss_N` is the share
    of its probability that is lost without it."""

    item_row_N: np.ndarray
    event_code_N: np.ndarray
    loss_N: np.ndarray

    def at(self, asked_N: np.ndarray) -> "Causes":
        """The same among all shown items, of which these are those where `asked_N` (bool); the others have none."""
        whole = no_causes(len(asked_N))
        for all_N, some_N in zip(whole.arrays(), self.arrays(), strict=True):
            all_N[asked_N] = some_N
        return whole

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, codes, losses)."""
        return self.item_row_N, self.event_code_N, self.loss_N


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A user's history without each of its X items: what the items are, by which event, the histories (B = X) and their queries (X, D).

    It says nothing of candidates, so it can be made while they are still looked for.
    """

    history_row_X: np.ndarray
    event_code_X: np.ndarray
    without: PackedHistory
    query_XD: np.ndarray


def leave_out(scorer: Scorer, who: Person) -> LeftOut | None:
    """Leave each item out of the history that the models read, all in one call of the user tower; None where there is none.

    Raises:
        TritonError: the server did not answer.
    """
    history_row_X, code_X = history_items(who, scorer.release.manifest.history_length)
    if not len(history_row_X):
        return None
    without = pack_without(who, history_row_X, scorer.release.manifest.history_length)
    return LeftOut(history_row_X, code_X, without, scorer.query(without, who.moment_BC, who.taste_D))


def causes(scorer: Scorer, who: Person, item_row_N: np.ndarray, probability_N: np.ndarray) -> Causes:
    """`causes_by` of the history left out now. Raises as `leave_out`."""
    return causes_by(scorer, who, leave_out(scorer, who), item_row_N, probability_N)


def causes_by(scorer: Scorer, who: Person, left_out: LeftOut | None, item_row_N: np.ndarray, probability_N: np.ndarray) -> Causes:
    """See whose absence each shown item suffers from most.

    `probability_N` is what the shown items were ranked by, the whole history told.

    Raises:
        TritonError: the server did not answer.
    """
    if left_out is None or not len(item_row_N):
        return no_causes(len(item_row_N))
    row_X, code_X = left_out.history_row_X, left_out.event_code_X
    loss_NX = losses(scorer, who, left_out, item_row_N, probability_N)
    another_NX = row_X != item_row_N[:, None]  # nothing is shown because of itself
    named_N = most_missed(loss_NX, nearest(scorer, row_X, item_row_N) & ~np.isin(code_X, REFUSED) & another_NX)
    loss_N = np.where(named_N < 0, 0.0, loss_NX[np.arange(len(named_N)), named_N])
    return Causes(np.where(named_N < 0, -1, row_X[named_N]), np.where(named_N < 0, -1, code_X[named_N]), loss_N)


def history_items(who: Person, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct items among the last `length` events, the newest first, and the code of the last event of each that was more than a
    look, if there was one: whoever disliked an item and looked at it since did not come by anything by it."""
    newest_first, code = who.item_row_E[::-1], who.event_code_E[::-1]
    row_X, first_X = np.unique(newest_first[:length], return_index=True)
    looks_last = np.argsort(code == EVENT_TYPE_CODE["view"], kind="stable")
    every, told = np.unique(newest_first[looks_last], return_index=True)
    code_X = code[looks_last][told[np.searchsorted(every, row_X)]]
    order = first_X.argsort()
    return row_X[order], code_X[order]


def nearest(scorer: Scorer, history_row_X: np.ndarray, item_row_N: np.ndarray) -> np.ndarray:
    """bool (N, X): the `SUSPECTS` history items nearest to each shown item by the cosine of their retrieval vectors."""
    if len(history_row_X) <= SUSPECTS:
        return np.ones((len(item_row_N), len(history_row_X)), bool)
    cosine_NX = unit(scorer.vectors(item_row_N)) @ unit(scorer.vectors(history_row_X)).T
    chosen_NS = np.argpartition(-cosine_NX, SUSPECTS - 1, axis=1)[:, :SUSPECTS]
    ask_NX = np.zeros(cosine_NX.shape, bool)
    np.put_along_axis(ask_NX, chosen_NS, True, axis=1)
    return ask_NX


def losses(scorer: Scorer, who: Person, left_out: LeftOut, item_row_N: np.ndarray, probability_N: np.ndarray) -> np.ndarray:
    """float (N, X): the share of item n's probability that is lost with x left out of the history; 0 for an item that cannot score lower.

    X histories by N items in one call of the ranker: on two cores half the work of asking pair by pair, where the histories of a page's
    suspects are most of all histories anyway.

    Raises:
        TritonError: the server did not answer.
    """
    without_XN = scorer.probability(left_out.query_XD, left_out.without, who.moment_BC, item_row_N, who.now)
    return np.where(probability_N > 0, 1 - without_XN / np.where(probability_N > 0, probability_N, 1.0), 0.0).T


def most_missed(loss_NX: np.ndarray, nameable_NX: np.ndarray) -> np.ndarray:
    """For each shown item, the nameable x whose absence costs most, or -1: int64 (N). `nameable_NX` may be one row (X) for all.

    The loss must be noticeable, at least `NOTICEABLE` of the probability, and larger than that of the median of the X, x itself among
    them: a history that is shorter by anything at all often scores a little lower, and that is no reason to name one item. An only item
    has no other to be compared with.
    """
    most_N = np.where(nameable_NX, loss_NX, -np.inf).argmax(1)
    loss_N = loss_NX[np.arange(len(loss_NX)), most_N]
    may_N = np.broadcast_to(nameable_NX, loss_NX.shape)[np.arange(len(loss_NX)), most_N]
    more_N = (loss_N > np.median(loss_NX, axis=1)) | (loss_NX.shape[1] == 1)
    return np.where(may_N & (loss_N >= NOTICEABLE) & more_N, most_N, -1)


def no_causes(count: int) -> Causes:
    """Nothing in particular caused any of `count` items: nobody's history was read."""
    return Causes(np.full(count, -1), np.full(count, -1), np.zeros(count))
