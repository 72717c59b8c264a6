"""Three ways to part a log, and the laws that keep the future out of the past."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hydra import compose, initialize
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from data.readers.interactions import read_sequences
from data.readers.movielens import read_dat_layout
from data.schema import check
from data.split import (
    TEST,
    TRAIN,
    VALIDATION,
    LeakError,
    SplitError,
    as_given,
    by_days,
    by_time,
    check_last_out,
    check_no_leak,
    leave_last_out,
    seen_items_stay,
    seen_targets_miss,
    seen_targets_stay,
)

ROOTS = [Path(os.environ["DATA_ROOT"])] if os.environ.get("DATA_ROOT") else [Path(__file__).parents[2] / "shared" / "data"]
YELP = next((root for root in ROOTS if (root / "amazon-sequences" / "Yelp.txt").exists()), None)
TWEETS = next((root for root in ROOTS if (root / "movietweetings-100k" / "ratings.dat").exists()), None)


def tables_of(rows, split=None):
    """Rows are (user, item, timestamp)."""
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").with_columns(event_type=pl.lit("click"))
    return check(frame if split is None else frame.with_columns(split=pl.Series(split)), source="here")


def parts_of(split):
    return split.events.select("user_id", "item_id", "timestamp", "part").rows()


logs = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("vwxyz"), st.integers(0, 12)), min_size=1, max_size=40, unique=True).map(
    tables_of
)


def test_by_time_by_hand():
    split = by_time(tables_of([("a" if t % 2 else "b", f"i{t}", t * 10) for t in range(11)]))
    assert split.cut_ms == (70, 80)
    assert {p: sorted(split.of(p)["timestamp"]) for p in (TRAIN, VALIDATION, TEST)} == {
        TRAIN: [0, 10, 20, 30, 40, 50, 60],
        VALIDATION: [70],
        TEST: [80, 90, 100],
    }
    assert (split.report["events_test"], split.report["users_test_in_train"], split.report["events_test_of_items_in_train"]) == (3, 2, 0)


def test_events_of_one_instant_stay_together():
    split = by_time(tables_of([("a", f"i{n}", time) for n, time in enumerate([0, 1, 5, 5, 5, 5, 5, 9])]), validation_quantile=None)
    assert split.cut_ms == (None, 5)
    assert split.part.tolist() == [0, 0, 2, 2, 2, 2, 2, 2]


def test_without_validation_train_is_everything_before_the_test():
    tables = tables_of([("a", f"i{t}", t) for t in range(100)])
    chosen, refitted = by_time(tables), by_time(tables, validation_quantile=None)
    assert refitted.of(TEST).equals(chosen.of(TEST))
    assert len(refitted.of(TRAIN)) == len(chosen.of(TRAIN)) + len(chosen.of(VALIDATION))


@given(logs, st.floats(0.05, 0.5), st.floats(0.55, 0.95))
def test_by_time_parts_the_events_and_no_part_reaches_the_next_ones_time(tables, low, high):
    try:
        split = by_time(tables, validation_quantile=low, test_quantile=high)
    except SplitError:
        time = sorted(tables.events["timestamp"])
        cuts = time[int(low * (len(time) - 1))], time[int(high * (len(time) - 1))]
        assert time[0] == cuts[0] or cuts[0] == cuts[1]
        return
    assert_every_event_once(tables, split)
    latest = [split.of(part)["timestamp"].max() for part in (TRAIN, VALIDATION)]
    assert latest[0] < split.cut_ms.validation <= latest[1] < split.cut_ms.test <= split.of(TEST)["timestamp"].min()


def test_a_leak_is_found_and_its_event_named():
    split = by_time(tables_of([("a", f"i{t}", t) for t in range(10)]))
    leaky = replace(split, events=split.events.with_columns(part=pl.lit(TRAIN, pl.Int8)))
    with pytest.raises(
        LeakError, match=rf"4 train events lie at or after the cut {split.cut_ms.validation} ms; the first: user 'a', item 'i6' at 6"
    ):
        check_no_leak(leaky)
    late_validation = split.events.with_columns(part=pl.when(pl.col("part") == TEST).then(pl.lit(VALIDATION, pl.Int8)).otherwise("part"))
    with pytest.raises(LeakError, match="3 validation events"):
        check_no_leak(replace(split, events=late_validation))
    with pytest.raises(SplitError, match="no cut in time"):
        check_no_leak(replace(split, cut_ms=None))


@pytest.mark.parametrize(("low", "high"), [(0.8, 0.8), (0.9, 0.8), (0.0, 0.8), (0.7, 1.0), (None, 1.0)])
def test_quantiles_out_of_order_are_refused(low, high):
    with pytest.raises(SplitError, match="expected 0 < validation < test < 1"):
        by_time(tables_of([("a", "x", 0), ("a", "y", 1)]), validation_quantile=low, test_quantile=high)


def test_a_log_of_one_instant_cannot_be_split_by_time():
    with pytest.raises(SplitError, match=r"no event falls into train and validation \(3 events at 1 instants,"):
        by_time(tables_of([("a", "x", 5), ("a", "y", 5), ("b", "x", 5)]))


def test_last_out_by_hand_ties_in_time_break_by_item():
    split = leave_last_out(tables_of([("a", "z", 7), ("a", "y", 7), ("a", "x", 1), ("b", "x", 1), ("b", "y", 2)]))
    assert parts_of(split) == [
        ("a", "x", 1, TRAIN),
        ("a", "y", 7, VALIDATION),
        ("a", "z", 7, TEST),
        ("b", "x", 1, TRAIN),
        ("b", "y", 2, TRAIN),
    ]
    assert split.report["users_too_short"] == 1


@pytest.mark.parametrize("policy", [seen_targets_miss, seen_targets_stay, seen_items_stay])
def test_test_events_of_an_item_that_their_user_had_before_are_counted_and_their_policy_is_named(policy):
    rows = [("a", "x", 1), ("a", "y", 2), ("a", "x", 3), ("b", "x", 1), ("b", "y", 2), ("b", "z", 3)]
    named = ["train", "validation", "test"] * 2
    for split in (
        leave_last_out(tables_of(rows), seen_policy=policy),
        as_given(tables_of(rows, named), seen_policy=policy),
        by_time(tables_of([(user, item, 10 * at + (user == "b")) for user, item, at in rows]), seen_policy=policy, test_quantile=0.99),
    ):
        assert split.report["test_events_seen_before"] == 1 and split.seen_policy is policy


@pytest.mark.parametrize("choice", ["by_time", "last_out", "given"])
def test_an_experiment_names_its_policy_by_an_override(choice):
    rows = [("a", item, at) for at, item in enumerate("vwxyz")]
    tables = tables_of(rows, ["train"] * 4 + ["test"])
    for overrides, policy in (([], seen_targets_miss), (["split.seen_policy.path=data.split.seen_items_stay"], seen_items_stay)):
        with initialize(version_base="1.3", config_path="../conf"):
            cfg = compose("train", [f"split={choice}", "name=x", "question=x", *overrides])
        assert instantiate(cfg.split)(tables).seen_policy is policy


def test_a_policy_says_which_seen_items_are_removed():
    is_target_S = np.array([True, False])
    of = {policy: policy(is_target_S).tolist() for policy in (seen_targets_miss, seen_targets_stay, seen_items_stay)}
    assert of == {seen_targets_miss: [True, True], seen_targets_stay: [False, True], seen_items_stay: [False, False]}


def test_a_given_test_that_is_a_copy_of_train_is_refused():
    rows = [("a", "x", 0), ("a", "y", 1), ("b", "x", 2), ("a", "x", 3), ("b", "x", 4)]
    with pytest.raises(LeakError, match=r"each of the 2 test events .* the first of user 'a' and item 'x': the test is a copy"):
        as_given(tables_of(rows, ["train"] * 3 + ["test"] * 2))
    assert as_given(tables_of([*rows, ("a", "z", 5)], ["train"] * 3 + ["test"] * 3)).report["test_events_seen_before"] == 2


@given(logs)
def test_last_out_tests_each_users_greatest_time_and_item(tables):
    by_user = {}
    for user, item, time in tables.events.select("user_id", "item_id", "timestamp").rows():
        by_user.setdefault(user, []).append((time, item))
    long = {user: sorted(events) for user, events in by_user.items() if len(events) >= 3}
    if not long:
        with pytest.raises(SplitError, match="has three events"):
            leave_last_out(tables)
        return
    split = leave_last_out(tables)
    assert_every_event_once(tables, split)
    held = {
        part: {user: (time, item) for user, item, time, _ in parts_of(replace(split, events=split.of(part)))} for part in (VALIDATION, TEST)
    }
    assert held[TEST] == {user: events[-1] for user, events in long.items()}
    assert held[VALIDATION] == {user: events[-2] for user, events in long.items()}


def test_a_user_whose_train_reaches_past_the_test_is_named():
    split = leave_last_out(tables_of([("a", "x", 1), ("a", "y", 2), ("a", "z", 3)]))
    with pytest.raises(LeakError, match="the first: user 'a', item 'y' at 2 ms in train"):
        check_last_out(replace(split, events=split.events.with_columns(part=pl.Series([2, 0, 1], dtype=pl.Int8))))


def given_tables(trains, tests):
    rows = [(user, f"{user}{n}", n) for user, train in trains.items() for n in range(train + tests.get(user, 0))]
    return tables_of(rows, [("train" if n < trains[user] else "test") for user, _, n in rows])


def test_as_given_holds_a_share_of_each_users_train_out_and_leaves_the_test_alone():
    tables = given_tables({"a": 20, "b": 4, "c": 15}, {"a": 3, "b": 1})
    split = as_given(tables, validation_fraction=0.1)
    assert split.of(VALIDATION)["user_id"].value_counts().sort("user_id").rows() == [("a", 2), ("c", 2)]  # 1.5 rounds up, .4 down
    assert set(split.of(TEST)["split"]) == {"test"} and len(split.of(TEST)) == 4
    assert not split.ordered and split.cut_ms is None
    assert_every_event_once(tables, split)


def test_as_given_draws_the_same_for_a_seed_and_refits_on_all_at_zero():
    tables = given_tables({"a": 200}, {"a": 1})
    assert as_given(tables, seed=1).part.tolist() == as_given(tables, seed=1).part.tolist() != as_given(tables, seed=2).part.tolist()
    assert len(as_given(tables, validation_fraction=0.0).of(TRAIN)) == 200


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0, 0.499))
def test_as_given_never_takes_a_users_whole_train(trains, fraction):
    tables = given_tables({f"u{n}": train for n, train in enumerate(trains)}, {"u0": 1})
    split = as_given(tables, validation_fraction=fraction)
    held = dict(split.of(VALIDATION)["user_id"].value_counts().rows())
    assert held == {f"u{n}": int(train * fraction + 0.5) for n, train in enumerate(trains) if int(train * fraction + 0.5)}
    assert split.of(TRAIN)["user_id"].n_unique() == len(trains)


def test_a_given_validation_part_stays_as_it_is():
    split = as_given(tables_of([("a", "x", 0), ("a", "y", 1), ("a", "z", 2)], ["train", "validation", "test"]))
    assert split.part.tolist() == [TRAIN, VALIDATION, TEST]


def test_as_given_says_what_is_not_given():
    rows = [("a", "x", 0), ("a", "y", 1)]
    with pytest.raises(SplitError, match=r"1 of 2 events have no split \(the first: row 1\)"):
        as_given(tables_of(rows, ["train", None]))
    with pytest.raises(SplitError, match=r"no event has split 'test'; splits there: train"):
        as_given(tables_of(rows, ["train", "train"]))
    with pytest.raises(SplitError, match=r"validation_fraction 0\.5"):
        as_given(tables_of(rows, ["train", "test"]), validation_fraction=0.5)


def assert_every_event_once(tables, split):
    assert split.events.drop("part").rows() == tables.events.sort("user_id", "timestamp", "item_id", maintain_order=True).rows()
    assert split.events["part"].dtype == pl.Int8
    assert sum(split.report[f"events_{name}"] for name in ("train", "validation", "test")) == len(split.events)


@pytest.mark.skipif(YELP is None, reason="set DATA_ROOT to the folder that holds amazon-sequences")
def test_the_yelp_sequences_repeat_2027_targets():
    split = leave_last_out(read_sequences(YELP / "amazon-sequences" / "Yelp.txt"))
    assert split.report["test_events_seen_before"] == 2_027 and split.report["users_test"] == 30_431


@pytest.mark.skipif(TWEETS is None, reason="set DATA_ROOT to the folder that holds movietweetings-100k")
def test_movietweetings_by_time_has_the_known_positives():
    split = by_time(read_dat_layout(TWEETS), validation_quantile=None)
    train, liked = split.of(TRAIN), split.of(TEST).filter(pl.col("rating") >= 8)
    assert (len(liked), liked["user_id"].n_unique()) == (9_792, 4_556)
    assert liked.join(train, on="user_id", how="semi")["user_id"].n_unique() == 2_871
    # those of whom at least one liked item was seen in training too: the ones a model without content can win
    findable = liked.join(train, on="item_id", how="semi").join(train, on="user_id", how="semi")
    assert findable["user_id"].n_unique() == 2_563


def test_places_in_a_list_are_no_times_to_part_everybody_by(tmp_path):
    path = tmp_path / "lists.txt"
    path.write_text("\n".join(f"u{user} " + " ".join(f"i{user + place}" for place in range(20)) for user in range(9)))
    lists = read_sequences(path)
    for split in (by_time, partial(by_days, test_days=1, validation_days=1)):
        with pytest.raises(SplitError, match=r"places in each user's list .* take split=last_out"):
            split(lists)
    assert by_time(replace(lists, timed=True)).report["events_test"]
