"""What would let a model know its own test, and is refused: every question that is asked of a log passes here (`data.log.queries`).

Events may stand in a part that their time forbids: each protocol has its law (`check_protocol`). What was learned of a log may have seen
what it will be asked: the words of a moment and the mean rating are held against the training part (`check_learned`). And the tables
may bring what somebody counted over the whole log (`check_told`). What else is counted of a log (`item_count`, `clock`, propensities)
is counted of its arrays by their part, so the parts of the arrays are held against those of the split.

Shapes: E events · I catalogue.
"""

from typing import TYPE_CHECKING

import numpy as np

from data.features import EVENT_TYPE_CODE, MOMENT, is_liked
from data.split import TEST, TRAIN, LeakError, Split, check_given, check_last_out, check_no_leak

if TYPE_CHECKING:
    from data.log import Log

LEAST_PROOF = 5
"""Of fewer items than this, an average that is the whole log's may be so by chance."""


def refuse_leaks(log: "Log") -> None:
    """All that is checked below.

    Raises:
        LeakError: what saw the test, where, and what to do.
    """
    check_protocol(log.split)
    check_learned(log)
    check_told(log)


def check_protocol(split: Split) -> None:
    """The law of the split's protocol: a cut in time holds for all users together, an order for each user, and parts that were given may
    not be copies.

    Raises:
        LeakError: with the first event that breaks it.
    """
    if split.cut_ms is not None:
        check_no_leak(split)
    elif split.ordered:
        check_last_out(split)
    else:
        check_given(split)


def check_learned(log: "Log") -> None:
    """The log's parts are its split's; every word of its vocabularies is said by a training event, and its prior rating is the mean of the
    training ratings: learned anew without the rest, they would be the same.

    Raises:
        LeakError: with the word or the mean, and what the training part says.
    """
    if not np.array_equal(log.part_E, log.split.part):
        raise LeakError(
            "the parts of this log's events are not those of its split, so what is counted of a part is not of that part; read it anew."
        )
    train_E = log.part_E == TRAIN
    for name in ("device", "region", "subscription_tier"):
        words = getattr(log.vocabulary, name).words
        said = np.bincount(log.moment_EC[train_E, MOMENT.index(name)], minlength=len(words) + 1)[1:] > 0
        if not said.all():
            word = words[int(said.argmin())]
            raise LeakError(
                f"the vocabulary of {name} knows {word!r}, which no training event says, so it has read beyond them; make it of the"
                " training part alone, as data.log.read_log does."
            )
    rating_E = log.rating_E[train_E & ~np.isnan(log.rating_E)].astype(np.float64)
    mean = float(rating_E.mean()) if len(rating_E) else 0.0
    if not np.isclose(log.prior_rating, mean, rtol=1e-6, atol=1e-9):
        raise LeakError(
            f"the prior rating is {log.prior_rating}, the mean of the {len(rating_E):,} training ratings is {mean}: it has seen others;"
            " make it of the training part alone, as data.log.read_log does."
        )


def check_test_is_last(log: "Log") -> None:
    """No user has an event of an earlier part after one of the test, so that histories up to a moment, as a ranker reads them, hold none.

    Raises:
        LeakError: with the first user whose test stands before what is learned from.
    """
    place = np.flatnonzero((log.part_E[:-1] == TEST) & (log.part_E[1:] != TEST) & (log.user_row_E[:-1] == log.user_row_E[1:]))
    if len(place):
        user_row = log.user_row_E[place[0]]
        raise LeakError(
            f"{len(np.unique(log.user_row_E[place])):,} users have a test event before one to learn from, the first"
            f" {log.user_ids[user_row]!r} at {log.timestamp_E[place[0]]} ms: histories up to a moment would hold it; give parts that follow"
            " each other in time, or take split=by_time."
        )


def check_told(log: "Log") -> None:
    """`avg_rating` and `popularity_score` of the items table are not what the whole log says where that is not what the log says without
    its test: an average that is the mean of all ratings, a popularity that orders all items as a count over the whole log does.

    A column from elsewhere, or made of what was before the test, agrees with neither. A count or a mean of another kind than these is not
    found out.

    Raises:
        LeakError: with the column, and the item that shows it.
    """
    items, known_E = log.split.tables.items, log.part_E < TEST
    item_count = len(log.catalogue.item_ids)
    told_I = items["avg_rating"].cast(float).fill_null(float("nan")).to_numpy()
    rated_E = ~np.isnan(log.rating_E)
    if not np.isnan(told_I).all() and rated_E.any():
        mean_I, before_I = (_mean(log, rated_E & keep_E, item_count) for keep_E in (np.ones_like(known_E), known_E))
        near = 0.01 * float(np.nanstd(mean_I))
        apart_I = ~(np.abs(mean_I - before_I) <= 2 * near) & ~np.isnan(told_I + mean_I)  # or of the test's ratings alone
        same_I = apart_I & (np.abs(told_I - mean_I) < near)
        if apart_I.sum() >= LEAST_PROOF and 2 * same_I.sum() > apart_I.sum():
            row = int(same_I.argmax())
            _refuse(log, "avg_rating", row, told_I[row], f"the mean of all its ratings; without the test's it is {before_I[row]:.4g}")
    told_I = items["popularity_score"].cast(float).fill_null(float("nan")).to_numpy()
    there_I = ~np.isnan(told_I)
    for what, counted_E in _counted(log).items() if there_I.any() else ():
        count_I, before_I = (np.bincount(log.item_row_E[rows], minlength=item_count) for rows in (counted_E, counted_E[known_E[counted_E]]))
        order_I, whole_I, known_I = (_order(column_I[there_I]) for column_I in (told_I, count_I, before_I))
        if np.array_equal(order_I, whole_I) and not np.array_equal(order_I, known_I) and order_I.max() >= LEAST_PROOF:
            row = int((there_I & (count_I != before_I)).argmax())
            _refuse(
                log,
                "popularity_score",
                row,
                told_I[row],
                f"in the order of {what}, {count_I[row]} here, {before_I[row]} without the test's",
            )


def _mean(log: "Log", keep_E: np.ndarray, item_count: int) -> np.ndarray:
    count_I = np.bincount(log.item_row_E[keep_E], minlength=item_count)
    sum_I = np.bincount(log.item_row_E[keep_E], log.rating_E[keep_E], minlength=item_count)
    return np.divide(sum_I, count_I, out=np.full(item_count, np.nan), where=count_I > 0)


def _counted(log: "Log") -> dict[str, np.ndarray]:
    """The ways in which popularity is commonly counted: the events that count, as positions."""
    _, first = np.unique(log.user_row_E * len(log.catalogue.item_ids) + log.item_row_E, return_index=True)
    kinds = {f"{name} events": np.flatnonzero(log.event_type_E == code) for name, code in EVENT_TYPE_CODE.items()}
    liked = np.flatnonzero(is_liked(log.event_code_E))
    return {"all events": np.arange(len(log.item_row_E)), "liked events": liked, "users": first, **kinds}


def _order(column_I: np.ndarray) -> np.ndarray:
    """Dense ranks: what is equal shares one, whatever scale it is told on."""
    return np.unique(column_I, return_inverse=True)[1]


def _refuse(log: "Log", column: str, row: int, told: float, is_what: str) -> None:
    raise LeakError(
        f"items.{column} has seen the test: of item {log.catalogue.item_ids[row]!r} it says {told:.6g}, {is_what}. Compute the column of"
        " what was before the test, or leave it out."
    )
