"""What saw the test is refused, whatever it was; and what is learned of a log is the same whatever its test says."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from data.bias import Bias
from data.datamodule import Events, RetrievalData, shuffled
from data.examination import certain, harvested
from data.features import MomentVocabulary, Vocabulary
from data.impressions import OPEN, OUTCOMES, frame
from data.leaks import check_test_is_last
from data.log import popularity_clocks, queries, read_log
from data.propensity import popularity
from data.schema import Tables
from data.split import TEST, TRAIN, VALIDATION, LeakError, Split, as_given, by_time, leave_last_out
from tests.logs import small, tables
from tests.saved_models import write_model
from tests.worlds import SMALL_MILD, simulated
from towers.ranking_data import RankingData
from towers.saved import SavedRetrieval
from towers.watch_time import WatchTime

ROWS = [(user, item, "rate", 10 * at + (user == "v"), 1.0 + at) for user in "uv" for at, item in enumerate("abcd")]


def told_of(rows=ROWS, **columns):
    """Tables of events of which the last of each user says what no other does."""
    made = tables(rows)
    last = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    events = made.events.with_columns(device=pl.when(last).then(pl.lit("tv")).otherwise(pl.lit("phone")))
    return replace(made, events=events, items=made.items.with_columns(**columns))


PROTOCOLS: dict[str, Callable[[Tables], Split]] = {
    "by time": partial(by_time, test_quantile=0.9, validation_quantile=0.6),
    "last out": leave_last_out,
    "given": lambda of: as_given(replace(of, events=of.events.with_columns(split=_last_is_test())), validation_fraction=0.2),
}


def _last_is_test() -> pl.Expr:
    late = pl.col("timestamp").rank("ordinal").over("user_id") > 0.75 * pl.len().over("user_id")
    return pl.when(late).then(pl.lit("test")).otherwise(pl.lit("train"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_read_as_it_should_be_may_be_asked(protocol):
    assert len(queries(read_log(PROTOCOLS[protocol](told_of())), TEST).user_row_Q)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_vocabulary_that_read_the_test_is_refused_with_its_word(protocol):
    log = read_log(PROTOCOLS[protocol](told_of()))
    assert log.vocabulary.device.words == ("phone",)
    wider = MomentVocabulary(Vocabulary(("phone", "tv")), log.vocabulary.region, log.vocabulary.subscription_tier)
    with pytest.raises(LeakError, match="the vocabulary of device knows 'tv', which no training event says"):
        queries(replace(log, vocabulary=wider), TEST)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mean_that_saw_the_test_is_refused_with_what_it_should_be(protocol):
    log = read_log(PROTOCOLS[protocol](told_of()))
    mean = float(log.rating_E[log.part_E == TRAIN].mean())
    assert log.prior_rating == pytest.approx(mean) and mean < log.rating_E.mean() == 2.5
    with pytest.raises(LeakError, match=rf"the prior rating is 2\.5, the mean of the \d training ratings is {mean}: it has seen others"):
        queries(replace(log, prior_rating=2.5), VALIDATION)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_counts_of_a_log_whose_parts_are_not_its_splits_are_refused(protocol):
    """`item_count` and `clock` count by the parts of the arrays: were a test event called train there, they would have seen it."""
    log = read_log(PROTOCOLS[protocol](told_of()))
    with pytest.raises(LeakError, match="the parts of this log's events are not those of its split"):
        queries(replace(log, part_E=np.minimum(log.part_E, 1)), VALIDATION)


def test_a_split_of_ones_own_is_held_to_the_law_of_its_protocol():
    def turned(split: Split, **change) -> Split:
        return replace(split, events=split.events.with_columns(part=pl.lit(2, pl.Int8) - pl.col("part")), **change)

    timed, last = PROTOCOLS["by time"](told_of()), PROTOCOLS["last out"](told_of())
    with pytest.raises(LeakError, match="train events lie at or after the cut"):
        queries(read_log(turned(timed)), TEST)
    with pytest.raises(LeakError, match="have an event after their held-out one in an earlier part; the first: user 'u'"):
        queries(read_log(turned(last)), TEST)
    twice = told_of([*ROWS, ("u", "a", "rate", 90, 2.0), ("v", "b", "rate", 91, 2.0)])
    copied = replace(leave_last_out(twice), ordered=False)
    with pytest.raises(LeakError, match="each of the 2 test events is of an item that its user has in an earlier part"):
        queries(read_log(copied), TEST)


# --- Columns of the items table ----------------------------------------------------------------------------------------


def of_items(split: Split, value: pl.Expr, before: int) -> pl.Series:
    """An aggregate of each item's events of the parts before one, in the order of the items table."""
    counted = split.events.filter(pl.col("part") < before).group_by("item_id").agg(value.alias("value"))
    return split.tables.items.join(counted, on="item_id", how="left", maintain_order="left")["value"]


def with_column(split: Split, **columns: pl.Series) -> Split:
    return replace(split, tables=replace(split.tables, items=split.tables.items.with_columns(**columns)))


COUNTS = {
    "all events": pl.len(),
    "log of users": pl.col("user_id").n_unique().log1p(),
    "share of watch events": (pl.col("event_type") == "watch").sum() / 1000,
    "liked events": pl.col("event_type").is_in(["click", "watch", "complete", "rate"]).sum(),
}


@pytest.mark.parametrize("column", ["avg_rating", *COUNTS])
def test_a_column_that_somebody_made_of_the_whole_log_is_refused_and_one_made_before_the_test_is_not(column):
    split = small()[0]
    name, value = ("avg_rating", pl.col("rating").mean()) if column == "avg_rating" else ("popularity_score", COUNTS[column])
    whole, before = (of_items(split, value, part).cast(pl.Float32) for part in (TEST + 1, TEST))
    with pytest.raises(LeakError, match=rf"items\.{name} has seen the test: of item 'i\d+' it says"):
        queries(read_log(with_column(split, **{name: whole})), TEST)
    queries(read_log(with_column(split, **{name: before})), TEST)
    rng = np.random.default_rng(0)
    elsewhere = whole.fill_null(0) * 0.9 + pl.Series(rng.normal(0, 0.1 * (whole.std() or 1), len(whole)))
    queries(read_log(with_column(split, **{name: elsewhere.cast(pl.Float32)})), TEST)  # what is known elsewhere is like it, and is not it


def test_a_refused_column_names_what_it_is_and_what_it_was():
    rows = [(f"u{user}", item, "rate", at, 1.0) for at, (user, item) in enumerate((u, i) for u in range(9) for i in "abcdefgh"[: u + 1])]
    late = [("w", item, "rate", 1000 + at, 5.0) for at, item in enumerate("hgfedcba")]
    split = by_time(tables(rows + late), test_quantile=0.87, validation_quantile=None)
    mean = of_items(split, pl.col("rating").mean(), TEST + 1).cast(pl.Float32)
    assert (split.report["events_test"], mean[0]) == (8, pytest.approx((9 * 1 + 5) / 10, abs=1e-6))
    message = r"of item 'a' it says 1\.4, the mean of all its ratings; without the test's it is 1\. Compute .* or leave it out"
    with pytest.raises(LeakError, match=message):
        queries(read_log(with_column(split, avg_rating=mean)), TEST)


# --- Whatever the test says --------------------------------------------------------------------------------------------


def interleaved(of: Tables) -> Split:
    """A random fifth of the events is the test, its times among those of the rest."""
    drawn = np.random.default_rng(3).random(len(of.events)) < 0.2
    named = pl.Series(np.where(drawn, "test", "train"))
    return as_given(replace(of, events=of.events.with_columns(split=named)), validation_fraction=0.2)


WORLD = {"by time": by_time, "last out": leave_last_out, "given": PROTOCOLS["given"], "interleaved": interleaved}


def otherwise(split: Split, part: int = TEST) -> Split:
    """The same log but for a part and what comes after it: other items, ratings, words and kinds of events there, and other answers to
    what was shown there, or shown before it and answered there."""
    rng, late = np.random.default_rng(1), pl.col("part") >= part
    item_id, held = split.events["item_id"].to_numpy().copy(), split.part >= part
    item_id[held] = rng.permutation(item_id[held])
    events = split.events.with_columns(
        item_id=pl.Series(item_id), rating=pl.when(late).then(9.0).otherwise("rating").cast(pl.Float32),
        event_type=pl.when(late).then(pl.lit("click")).otherwise("event_type"),
        **{name: pl.when(late).then(pl.lit(f"a {name} of the future")).otherwise(name) for name in ("device", "region")},
    )  # fmt: skip
    shown, mine = frame(read_log(split)), split.events.filter(~late)["request_id"].drop_nulls().to_list()
    of = {at: shown.filter(pl.col("part") >= at)["request_id"].unique().to_list() for at in (part, OPEN)}
    answered = pl.col("request_id").is_in(of[part])
    there = answered & ~pl.col("request_id").is_in([*of[OPEN], *mine])  # shown there alone, so that its chance is there too
    impressions = split.tables.impressions.with_columns(
        propensity=pl.when(there).then(0.5).otherwise("propensity"),
        **{name: pl.when(answered).then(~pl.col(name)).otherwise(name) for name in ("clicked", "completed", "skipped")},
    )
    return replace(split, events=events, tables=replace(split.tables, events=events.drop("part"), impressions=impressions))


def same(one, other, where: str = "") -> None:
    """Equal to the last bit, whatever holds it."""
    if is_dataclass(one) and not isinstance(one, torch.nn.Module):
        for field in fields(one):
            same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, dict):
        for name in one:
            same(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, tuple | list):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}[{getattr(one, '_fields', range(len(one)))[place]}]")
    elif isinstance(one, torch.nn.Module):
        same(list(one.state_dict().values()), list(other.state_dict().values()), where)
    elif isinstance(one, np.ndarray | torch.Tensor):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=where)
    else:
        assert one == other, where


def learned_for_retrieval(split: Split) -> dict[str, object]:
    """Everything that a retrieval run learns from and is chosen by."""
    log = read_log(split)
    bias = Bias(partial(popularity, power=0.5), harvested, floor=0.1, beside=1.0)
    data = RetrievalData(
        log, batch_size=64, history_length=5, bias=bias, recency_half_life_days=7.0, order=shuffled, seed=0
    )  # fmt: skip
    asked = data.questions(VALIDATION)
    train, history = data.train_log, asked.history
    arrays = ("offset_U1", "user_row_E", "item_row_E", "event_code_E", "rating_E", "timestamp_E", "moment_EC", "propensity_E", "position_E")
    return {
        "words": (log.vocabulary, log.prior_rating),
        "trained": (data.train_event, data.observed, log.item_count(), *(getattr(train, name) for name in arrays)),
        "chosen by": (data.target_weight(VALIDATION), *(getattr(history, name) for name in arrays)),
        "clocks": tuple(popularity_clocks(of, (7.0,)) for of in (train, history)),
        "batches": Events.of(train, data.weight_E, torch.device("cpu"), data.beside).batch(torch.as_tensor(data.train_event), length=5),
        "questions": (asked.user_row_Q, asked.now_Q, asked.moment_QC, asked.target_row, asked.seen_row),
        "features": (log.catalogue.feature_IF, log.user_ids),
    }


@pytest.mark.parametrize("answers", ["in the impressions", "in the events"])
@pytest.mark.parametrize("protocol", WORLD)
def test_what_a_retrieval_run_learns_is_the_same_whatever_the_test_says(protocol, answers):
    world = simulated(SMALL_MILD)[0]
    if answers == "in the events":
        nothing = [pl.lit(None, world.impressions[name].dtype).alias(name) for name in OUTCOMES]
        world = replace(world, impressions=world.impressions.with_columns(nothing))
    split = WORLD[protocol](world)
    other = otherwise(split)
    assert not split.of(TEST).equals(other.of(TEST)) and len(split.of(TEST)) > 200
    same(learned_for_retrieval(split), learned_for_retrieval(other))


@pytest.mark.parametrize("protocol", ["by time", "last out", "given"])
def test_what_a_model_is_trained_on_is_the_same_whatever_it_is_chosen_by(protocol):
    split = WORLD[protocol](simulated(SMALL_MILD)[0])
    one, other = (learned_for_retrieval(of) for of in (split, otherwise(split, VALIDATION)))
    for name in ("words", "trained", "batches"):
        same(one[name], other[name], name)
    same(one["clocks"][0], other["clocks"][0])


# --- Rankers -----------------------------------------------------------------------------------------------------------


def ranking_data(split: Split, folder) -> RankingData:
    log = read_log(split)
    examined = harvested if len(split.tables.impressions) else certain
    model = write_model(folder, log, np.random.default_rng(0).standard_normal((len(log.catalogue.item_ids), 8)))
    return RankingData(
        log, retrieval=str(model), batch_size=8, depth=60, negatives=10, clock_half_life_days=7.0, parts=(TRAIN, VALIDATION), seed=0,
        bias=Bias(partial(popularity, power=0.5), examined, floor=0.1), watch_time=partial(WatchTime.fit, groups=3, points=11, rows=50),
    )  # fmt: skip


def learned_for_ranking(data: RankingData) -> dict[str, object]:
    """Everything that a ranker learns from and is chosen by."""
    return {
        "rows": (data.fit_batch, data.held(VALIDATION, torch.device("cpu"))),
        "spreads": (data.query_spread, data.candidate_spread, data.number_spread, data.profile_spread),
        "answers": (data.answers.watch_time, data.answers.rating_range, data.answers.known),
        "weights": (data.observed, data.diagnostics()),
    }


@pytest.mark.parametrize("shown", ["with slates", "without"])
@pytest.mark.parametrize("protocol", ["by time", "last out", "given"])
def test_what_a_ranker_learns_is_the_same_whatever_the_test_says(protocol, shown, tmp_path):
    world = simulated(SMALL_MILD)[0]
    if shown == "without":
        bare = replace(world, impressions=world.impressions.clear())
        world = replace(bare, events=bare.events.with_columns(request_id=pl.lit(None, pl.String)))
    split = WORLD[protocol](world)
    data, other = ranking_data(split, tmp_path / "one"), ranking_data(otherwise(split), tmp_path / "other")
    assert len(data.fit_groups.now_G) > 100
    same(learned_for_ranking(data), learned_for_ranking(other))


def test_a_ranker_whose_histories_would_hold_the_test_is_refused(tmp_path):
    split = interleaved(simulated(SMALL_MILD)[0])
    with pytest.raises(LeakError, match=r"\d+ users have a test event before one to learn from, the first 'u\d+' at \d+ ms"):
        ranking_data(split, tmp_path / "model")
    check_test_is_last(small()[1])


def test_a_ranker_beside_a_retrieval_that_held_out_another_test_is_refused(tmp_path):
    world = simulated(SMALL_MILD)[0]
    ranking_data(by_time(world), tmp_path / "model")
    later = read_log(by_time(world, test_quantile=0.9))
    with pytest.raises(LeakError, match=r"model was trained with another test part held out than this log's, of which it may know"):
        SavedRetrieval.open(tmp_path / "model").check_same_items(later)
    SavedRetrieval.open(tmp_path / "model").check_same_items(read_log(by_time(world, validation_quantile=0.5)))
