"""Which events are learned from, which are chosen by, and which are tested on.

`by_time` and `by_days` draw one line through time for everybody. `leave_last_out` takes each user's last two items. `as_given` keeps
the parts the data came with. Each is a function of the tables and returns a `Split`; nothing is dropped, every event has
exactly one part. A split sees all events: what counts as a positive is the task's affair, decided after it.

Each names its `seen_policy`: what a ranking does with items that the user had before, and with a target that is one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl

from data.features import DAY_MS
from data.held_out import any_events
from data.schema import Tables

TRAIN, VALIDATION, TEST = 0, 1, 2
NAME = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
ORDER = ["user_id", "timestamp", "item_id"]


class SplitError(ValueError):
    """These events cannot be split so. The message says why and what to do."""


class LeakError(ValueError):
    """An event stands in an earlier part than its time allows."""


SeenPolicy = Callable
"""Of the items that users had before: bool array "it is a target of its user" → bool array "it is removed from the ranking". Numpy or
torch."""


def seen_targets_miss(is_target_S):
    """Every seen item is removed, so that a target its user had before is a miss: a page that never repeats itself, and what full rankings
    that are published remove. The policy unless another is named."""
    return is_target_S | True


def seen_targets_stay(is_target_S):
    """Seen items are removed, but for the targets: as where a target stands among drawn items that the user never had. It flatters: a
    model that likes whatever was seen finds its rivals removed and the target left."""
    return ~is_target_S


def seen_items_stay(is_target_S):
    """Nothing is removed: what is had again counts, and what is not stands in its way. For what people return to."""
    return is_target_S & False


class Cut(NamedTuple):
    """The two lines through time, ms UTC. A part starts at its cut and ends before the next; None: no validation part."""

    validation: int | None
    test: int


@dataclass(frozen=True, slots=True)
class Split:
    """Every event with its part.

    `events` has the columns of `schema.EVENTS` and `part` (Int8: 0 train, 1 validation, 2 test), stably sorted by
    user_id, timestamp, item_id. `cut_ms` is set where one line in time parts all users. `ordered` says whether a user's
    parts follow each other in time; where not, the history of a held-out event is all of its user's train events.
    `report` counts what the split did; `seen_policy` is what becomes of targets that their user had before.
    """

    tables: Tables
    events: pl.DataFrame
    cut_ms: Cut | None
    ordered: bool
    report: Mapping[str, int]
    seen_policy: SeenPolicy = seen_targets_miss

    @property
    def part(self) -> np.ndarray:
        """int8[events]: 0 train, 1 validation, 2 test."""
        return self.events["part"].to_numpy()

    def of(self, part: int) -> pl.DataFrame:
        """The events of one part, in the order of `events`."""
        return self.events.filter(pl.col("part") == part)


def by_time(
    tables: Tables, *, test_quantile: float = 0.8, validation_quantile: float | None = 0.7, seen_policy: SeenPolicy = seen_targets_miss
) -> Split:
    """One line through time: the test starts at the event that stands at `test_quantile` of all, for every user alike.

    The validation part lies between the two quantiles; `validation_quantile=None` makes none, so that train is everything
    before the test. A cut is the time of an event and belongs to the later part, so events of one instant stay together
    (Meng et al., Exploring Data Splitting Strategies for the Evaluation of Recommendation Models, RecSys 2020: global timeline).

    Raises:
        SplitError: quantiles not 0 < validation < test < 1, times that are places in a list, or so few instants that a part is empty.
    """
    quantiles = [q for q in (validation_quantile, test_quantile) if q is not None]
    if not all(low < high for low, high in zip([0.0, *quantiles], [*quantiles, 1.0], strict=True)):
        raise SplitError(
            f"by_time: validation_quantile {validation_quantile} and test_quantile {test_quantile}: expected 0 < validation < test < 1."
        )
    time = tables.events["timestamp"].sort()
    at = [int(time[int(q * (len(time) - 1))]) for q in quantiles]
    cut = Cut(at[0] if validation_quantile is not None else None, at[-1])
    return _at(tables, cut, seen_policy, who="by_time", remedy="take other quantiles or split=last_out")


def by_days(tables: Tables, *, test_days: float, validation_days: float, seen_policy: SeenPolicy = seen_targets_miss) -> Split:
    """`by_time`, with the lines so many days before the last event: the test is the last `test_days`, the validation part the
    `validation_days` before them. What is retrained every day is tested on days that no earlier training saw.

    Raises:
        SplitError: days that are not positive, times that are places in a list, or so quiet that a part is empty.
    """
    if not (test_days > 0 and validation_days > 0):
        raise SplitError(f"by_days: test_days {test_days} and validation_days {validation_days}: expected more than 0.")
    test = int(tables.events["timestamp"].max()) + 1 - int(test_days * DAY_MS)
    return _at(tables, Cut(test - int(validation_days * DAY_MS), test), seen_policy, who="by_days", remedy="take more days")


def _at(tables: Tables, cut: Cut, seen_policy: SeenPolicy, *, who: str, remedy: str) -> Split:
    time = tables.events["timestamp"]
    if not tables.timed:
        raise SplitError(
            f"{who}: these times are places in each user's list (0, 1, 2 …), which say nothing of two users: take split=last_out, or"
            " split=given where the data came in parts, or bring times with data=tables."
        )
    part = (pl.col("timestamp") >= cut.test).cast(pl.Int8) * TEST
    if cut.validation is not None:
        part = pl.when(pl.col("timestamp").is_between(cut.validation, cut.test, closed="left")).then(VALIDATION).otherwise(part)
    events = tables.events.sort(ORDER, maintain_order=True).with_columns(part=part.cast(pl.Int8))
    split = _split(tables, events, seen_policy, cut_ms=cut, ordered=True)
    wanted = [TRAIN, TEST] if cut.validation is None else [TRAIN, VALIDATION, TEST]
    missing = [NAME[p] for p in wanted if not split.report[f"events_{NAME[p]}"]]
    if missing:
        raise SplitError(
            f"{who}: no event falls into {' and '.join(missing)} ({len(time):,} events at {time.n_unique():,} instants,"
            f" cuts at {cut}): {remedy}."
        )
    check_no_leak(split)
    return split


def check_no_leak(split: Split) -> None:
    """The law of `by_time`, over all users together: no event of a part lies at or after the cut where a later part starts.

    Raises:
        LeakError: with the event, its time and the cut.
        SplitError: the split has no cut in time, so that there is nothing to hold it to (see `check_last_out`).
    """
    if split.cut_ms is None:
        raise SplitError("check_no_leak: this split has no cut in time; expected one made by by_time.")
    cut = split.cut_ms
    starts = {TRAIN: cut.test if cut.validation is None else cut.validation, VALIDATION: cut.test}
    for part, end in starts.items():
        late = split.events.filter((pl.col("part") == part) & (pl.col("timestamp") >= end))
        if len(late):
            raise LeakError(
                f"{len(late):,} {NAME[part]} events lie at or after the cut {end} ms; the first: user {late['user_id'][0]!r},"
                f" item {late['item_id'][0]!r} at {late['timestamp'][0]} ms."
            )


def leave_last_out(tables: Tables, *, seen_policy: SeenPolicy = seen_targets_miss) -> Split:
    """Each user's last event is the test, the one before it the validation, the rest train; ties in time break by item_id.

    Users with fewer than three events are train only, counted as `users_too_short`. A sequence that repeats an item counts each time, as
    in SASRec (Kang & McAuley, ICDM 2018) and the numbers published after it.

    Raises:
        SplitError: no user has three events.
    """
    from_end = pl.int_range(pl.len(), dtype=pl.Int64).reverse().over("user_id")
    long = pl.len().over("user_id") >= 3
    part = pl.when(long & (from_end == 0)).then(TEST).when(long & (from_end == 1)).then(VALIDATION).otherwise(TRAIN)
    events = tables.events.sort(ORDER, maintain_order=True).with_columns(part=part.cast(pl.Int8))
    split = _split(tables, events, seen_policy, cut_ms=None, ordered=True)
    if not split.report["events_test"]:
        raise SplitError(
            f"leave_last_out: none of {split.report['users']:,} users has three events, so nobody can be tested;"
            " take split=by_time or bring longer histories."
        )
    check_last_out(split)
    short = split.report["users"] - split.report["users_test"]
    return replace(split, report={**split.report, "users_too_short": short})


def check_last_out(split: Split) -> None:
    """The law of `leave_last_out`, user by user: train stands before validation, validation before test, in (timestamp, item_id).

    Raises:
        LeakError: with the first user whose parts are out of order.
    """
    place = split.events.sort(ORDER, maintain_order=True)
    wrong = place.filter(pl.col("part") < pl.col("part").shift(1).over("user_id"))
    if len(wrong):
        raise LeakError(
            f"{wrong['user_id'].n_unique():,} users have an event after their held-out one in an earlier part; the first: user"
            f" {wrong['user_id'][0]!r}, item {wrong['item_id'][0]!r} at {wrong['timestamp'][0]} ms in {NAME[wrong['part'][0]]}."
        )


def as_given(
    tables: Tables,
    *,
    validation_fraction: float = 0.1,
    held_out: Callable[[pl.DataFrame, np.random.Generator], np.ndarray] = any_events,
    seed: int = 0,
    seen_policy: SeenPolicy = seen_targets_miss,
) -> Split:
    """The parts that `events.split` names. Times may mean nothing here, so a held-out event's history is all its user's train.

    Where no validation part is given, round(`validation_fraction` · n) of each user's n train events are held out, which `held_out`
    (`data.held_out`) says by `seed`; 0 holds out none, to learn from all of train once the settings are chosen. A given validation part
    stays as it is.

    Raises:
        SplitError: an event without a part, no train or no test event, or a fraction outside [0, 0.5).
        LeakError: the test part is a copy of what is trained on.
    """
    if not 0 <= validation_fraction < 0.5:
        raise SplitError(f"as_given: validation_fraction {validation_fraction}: expected at least 0 and less than 0.5.")
    named = tables.events["split"]
    if named.null_count():
        row = int(named.is_null().arg_true()[0])
        raise SplitError(
            f"as_given: {named.null_count():,} of {len(named):,} events have no split (the first: row {row}); fill the column"
            " (with data=tables: data.columns.split=…) or take split=by_time."
        )
    for needed in ("train", "test"):
        if not (named == needed).any():
            raise SplitError(f"as_given: no event has split {needed!r}; splits there: {', '.join(sorted(named.unique()))}.")
    events = tables.events.sort(ORDER, maintain_order=True)
    part = pl.col("split").replace_strict({name: number for number, name in NAME.items()}, return_dtype=pl.Int8)
    if not (named == "validation").any():
        is_train = pl.col("split") == "train"
        train = events.with_row_index("row").filter(is_train)
        train = train.with_columns(leaves=pl.Series(held_out(train, np.random.default_rng(seed))))
        many = (pl.len() * validation_fraction).round(mode="half_away_from_zero")
        leaving = train.filter((pl.col("leaves").rank("ordinal") <= many).over("user_id"))["row"]
        part = pl.when(pl.int_range(pl.len()).is_in(leaving.implode())).then(pl.lit(VALIDATION, pl.Int8)).otherwise(part)
    split = _split(tables, events.select(*tables.events.columns, part=part), seen_policy, cut_ms=None, ordered=False)
    check_given(split)
    return split


def check_given(split: Split) -> None:
    """What can be held against parts that were given: whose times may mean nothing, and whose users may return to what they had. A pair of
    user and item that stands on both sides is counted (`test_events_seen_before`); where all do, the test is a copy.

    Raises:
        LeakError: every test event is of an item that its user has in an earlier part.
    """
    test = split.of(TEST)
    if len(test) and len(_seen_before(split.events)) == len(test):
        raise LeakError(
            f"each of the {len(test):,} test events is of an item that its user has in an earlier part, the first of user"
            f" {test['user_id'][0]!r} and item {test['item_id'][0]!r}: the test is a copy of what is trained on; give the parts anew."
        )


def _seen_before(events: pl.DataFrame) -> pl.DataFrame:
    earlier = events.filter(pl.col("part") != TEST)
    return events.filter(pl.col("part") == TEST).join(earlier, on=["user_id", "item_id"], how="semi")


def rejoined(split: Split) -> Split:
    """The same test, and everything before it to learn from: validation becomes train, once it has chosen. Its report, which counted
    parts, is left empty."""
    part = pl.when(pl.col("part") == VALIDATION).then(pl.lit(TRAIN, pl.Int8)).otherwise(pl.col("part")).alias("part")
    cut_ms = split.cut_ms and Cut(None, split.cut_ms.test)
    return replace(split, events=split.events.with_columns(part), cut_ms=cut_ms, report={})


def undivided(tables: Tables) -> Split:
    """All events in the training part: of a log that is told to a model that has learned already."""
    events = tables.events.sort(ORDER, maintain_order=True).with_columns(part=pl.lit(TRAIN, pl.Int8))
    return _split(tables, events, seen_targets_miss, cut_ms=None, ordered=True)


def _split(tables: Tables, events: pl.DataFrame, seen_policy: SeenPolicy, *, cut_ms: Cut | None, ordered: bool) -> Split:
    """Count each part: its events, its users, how many of those (and of the items) stand in train as well, and the test events of an item
    that its user had before, which are the `seen_policy`'s affair."""
    report = {"users": events["user_id"].n_unique()}
    train = events.filter(pl.col("part") == TRAIN)
    for number, name in NAME.items():
        rows = events.filter(pl.col("part") == number)
        report[f"events_{name}"] = len(rows)
        report[f"users_{name}"] = rows["user_id"].n_unique()
        report[f"items_{name}"] = rows["item_id"].n_unique()
        if number != TRAIN:
            report[f"users_{name}_in_train"] = rows.join(train, on="user_id", how="semi")["user_id"].n_unique()
            report[f"events_{name}_of_items_in_train"] = rows.join(train, on="item_id", how="semi").height
    report["test_events_seen_before"] = len(_seen_before(events))
    return Split(tables, events, cut_ms, ordered, report, seen_policy)
