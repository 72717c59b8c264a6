"""Laws of the simulated world: it repeats itself, its propensities are true, its clicks know positions only through the eyes."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import data.world
from data.audience import DAY_MS, END_MS, START_MS
from data.logging_policy import Policy, systematic_sample
from data.outcomes import Attention
from data.schema import EVENT_TYPES, Tables
from data.world import WEEK_MS, World, write
from tests.worlds import SMALL_MILD, SMALL_MISSPECIFIED, SMALL_STRONG, TINY, simulated

KINDS = [SMALL_MILD, SMALL_STRONG, SMALL_MISSPECIFIED]
NAMES = ["mild", "strong", "misspecified"]
FRAMES = ("events", "items", "users", "impressions")


def rows_of(ids: pl.Series) -> np.ndarray:
    return ids.str.slice(1).cast(pl.Int64).to_numpy()


def assert_equal_in_law(found: float, expected: float, variance: float) -> None:
    """Within four standard deviations: false alarms once in 16,000, and never by surprise, for seeds are fixed."""
    assert abs(found - expected) <= 4 * np.sqrt(variance), (found, expected, np.sqrt(variance))


@pytest.mark.parametrize("world", KINDS, ids=NAMES)
def test_one_definition_gives_one_world_and_another_seed_another(world: World) -> None:
    first, again, other = simulated(world)[0], world.simulate()[0], dataclasses.replace(world, seed=world.seed + 1).simulate()[0]
    assert first.fingerprint() == again.fingerprint()
    for name in FRAMES:
        assert not getattr(first, name).equals(getattr(other, name))


@pytest.mark.parametrize("world", [TINY, World.strong(users=1100, items=300, events=5_000, seed=3)], ids=["tiny", "three blocks"])
def test_streamed_files_hold_the_rows_of_the_world_in_memory(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.world, "ROWS_PER_FILE", 20_000)
    folder = write(world, tmp_path / "world")
    tables = world.simulate()[0]
    assert sorted(path.name for path in folder.iterdir() if "-" not in path.name) == ["items.parquet", "users.parquet"]
    for name, pattern in (("events", "events-*"), ("impressions", "impressions-*"), ("items", "items"), ("users", "users")):
        assert pl.read_parquet(folder / f"{pattern}.parquet").equals(getattr(tables, name)), name
    if world.users > 1000:
        assert len(list(folder.glob("events-*.parquet"))) > 1
    with pytest.raises(FileExistsError, match="already holds Parquet files"):
        write(world, folder)


@pytest.mark.parametrize("world", KINDS, ids=NAMES)
def test_the_gate_finds_nothing_to_remove_and_every_id_is_its_own(world: World) -> None:
    tables, truth = simulated(world)
    assert {name: count for name, count in tables.report.items() if not name.endswith("_read")} == dict.fromkeys(
        ("events_duplicate", "events_of_unknown_items", "impressions_duplicate", "impressions_of_unknown_items", "users_without_a_row"), 0
    )
    assert tables.events["event_id"].is_unique().all()
    assert len(tables.events) == pytest.approx(world.events, rel=0.1)
    assert set(tables.events["event_type"]) == set(EVENT_TYPES) - {"view", "not_interested"}
    assert tables.items["title"].is_unique().all()
    assert not tables.impressions.select("request_id", "item_id").is_duplicated().any()
    assert not tables.impressions.select("request_id", "position").is_duplicated().any()
    assert len(truth.examination_N) == len(tables.impressions)
    np.testing.assert_array_equal(truth.propensity_N, tables.impressions["propensity"].to_numpy())


@pytest.mark.parametrize("world", KINDS, ids=NAMES)
def test_events_tell_what_became_of_the_impressions(world: World) -> None:
    tables, _ = simulated(world)
    clicks = tables.impressions.filter("clicked")
    joined = tables.events.join(clicks, on=["request_id", "item_id", "user_id"], how="left", suffix="_shown")
    assert joined["timestamp_shown"].null_count() == 0
    assert (joined["timestamp"] > joined["timestamp_shown"]).all()
    watched = joined.filter(pl.col("event_type") != "rate")
    assert len(watched) == len(clicks)
    assert not clicks.select("user_id", "item_id").is_duplicated().any()
    assert ((watched["event_type"] == "complete") == watched["completed"]).all()
    assert ((watched["event_type"] == "skip") == watched["skipped"]).all()
    assert (watched["watch_duration_seconds"] == watched["watch_duration_seconds_shown"]).all()
    assert set(tables.events.filter(pl.col("rating").is_not_null())["event_type"]) == {"rate"}
    assert set(tables.events["rating"].drop_nulls()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert tables.impressions["timestamp"].is_between(START_MS, END_MS, closed="left").all()
    assert tables.events["timestamp"].max() < END_MS + DAY_MS // 4


def test_nobody_is_shown_what_is_not_out_what_is_not_for_them_or_what_they_clicked() -> None:
    tables, _ = simulated(SMALL_MILD)
    seen = tables.impressions.join(tables.items, on="item_id").join(tables.users, on="user_id")
    assert (seen["release_date"].cast(pl.Datetime("ms")).dt.epoch("ms") <= seen["timestamp"]).all()
    assert (seen["maturity"] <= 2025 - seen["birth_year"]).all()
    first_click = tables.impressions.filter("clicked").group_by("user_id", "item_id").agg(clicked_ms=pl.col("timestamp").min())
    after = tables.impressions.join(first_click, on=["user_id", "item_id"])
    assert (after["timestamp"] <= after["clicked_ms"]).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30), st.integers(0, 2**32 - 1))
def test_systematic_sampling_never_repeats_and_keeps_its_size(inclusion: list[float], seed: int) -> None:
    """A sample of total mass T has ⌊T⌋ or ⌈T⌉ items, all different, none of probability 0."""
    total = sum(inclusion)
    slots = int(np.ceil(total)) + 1
    drawn = systematic_sample(np.array([inclusion]), np.zeros(20, int), slots, np.random.default_rng(seed))
    for row in drawn:
        items = row[row >= 0]
        assert len(set(items)) == len(items)
        assert np.floor(total - 1e-6) <= len(items) <= np.ceil(total + 1e-6)
        assert all(inclusion[item] > 0 for item in items)


def test_propensity_is_the_frequency_of_being_shown() -> None:
    """Over 40,000 slates of each arm for one user, item by item: Σ (found - Rπ)² / Rπ(1-π) stays near the number of items."""
    catalogue, audience = SMALL_STRONG.populate()
    policy, requests = SMALL_STRONG.policy, 80_000
    user_row_B = np.array([5, 9])
    eligible_BI = np.random.default_rng(0).random((2, SMALL_STRONG.items)) < 0.8
    score_BI = policy.score(catalogue, audience, user_row_B, END_MS, SMALL_STRONG.turn)
    arm_R = np.arange(requests) % 2
    item_RS, propensity_RS = policy.draw_slates(score_BI, eligible_BI, np.ones(requests, int), arm_R, np.random.default_rng(1))
    for arm in (0, 1):
        shown, claimed = item_RS[arm_R == arm], propensity_RS[arm_R == arm]
        inside = shown >= 0
        found_I = np.bincount(shown[inside], minlength=SMALL_STRONG.items)
        claimed_I = np.zeros(SMALL_STRONG.items)
        claimed_I[shown[inside]] = claimed[inside]
        np.testing.assert_array_equal(claimed_I[shown[inside]], claimed[inside])  # one item, one probability
        np.testing.assert_array_equal(claimed_I > 0, eligible_BI[1])
        expected = requests / 2 * claimed_I[eligible_BI[1]]
        z = (found_I[eligible_BI[1]] - expected) / np.sqrt(expected * (1 - claimed_I[eligible_BI[1]]))
        assert np.abs(z).max() < 4.5
        assert (z**2).mean() == pytest.approx(1, abs=0.6)
        if arm == 1:
            np.testing.assert_allclose(claimed_I[eligible_BI[1]], policy.slots / eligible_BI[1].sum(), rtol=1e-6)
        else:
            assert 0.95 * policy.slots <= claimed_I.sum() <= policy.slots * (1 + 1e-6)  # a little is lost at the ceiling
            assert claimed_I.max() <= np.float32(policy.most)


@pytest.mark.parametrize("world", KINDS, ids=NAMES)
def test_weighting_by_propensity_counts_every_item_that_could_have_been_shown(world: World) -> None:
    """Horvitz and Thompson (1952): Σ over a slate of 1/π has as its mean the number of eligible items, clicks since the plan included."""
    tables, truth = simulated(world)
    catalogue, audience = truth.catalogue, truth.audience
    log = tables.impressions
    requests = log.group_by("request_id", "arm", maintain_order=True).agg(
        pl.col("user_id", "timestamp").first(), estimate=(1 / pl.col("propensity")).sum()
    )
    user_R, time_ms_R = rows_of(requests["user_id"]), requests["timestamp"].to_numpy()
    planned_R = START_MS + (time_ms_R - START_MS) // WEEK_MS * WEEK_MS
    eligible_R = np.array(
        [
            ((catalogue.released_ms_I <= planned) & (catalogue.maturity_I <= audience.age_U[user])).sum()
            for user, planned in zip(user_R, planned_R, strict=True)
        ]
    )
    clicks = log.filter("clicked")
    earlier = (
        requests.join(clicks.select("user_id", clicked_ms="timestamp"), on="user_id", how="left")
        .group_by("request_id")
        .agg(clicked_before=(pl.col("clicked_ms") < pl.col("timestamp")).sum())
    )
    eligible_R = eligible_R - requests.join(earlier, on="request_id", how="left", maintain_order="left")["clicked_before"].to_numpy()
    for arm in ("policy", "uniform"):
        here = (requests["arm"] == arm).to_numpy()
        gap = requests["estimate"].to_numpy()[here] - eligible_R[here]
        assert_equal_in_law(gap.sum(), 0, (gap**2).sum())


@pytest.mark.parametrize("world", KINDS, ids=NAMES)
def test_what_is_looked_at_is_clicked_by_taste_and_not_by_position(world: World) -> None:
    tables, truth = simulated(world)
    clicked = tables.impressions["clicked"].to_numpy()
    position = tables.impressions["position"].to_numpy()
    assert not clicked[~truth.examined_N].any()
    for k in np.unique(position):
        looked = (position == k) & truth.examined_N
        attraction = truth.attraction_N[looked]
        assert_equal_in_law(clicked[looked].sum(), attraction.sum(), (attraction * (1 - attraction)).sum())
        examination = truth.examination_N[position == k]
        assert_equal_in_law(truth.examined_N[position == k].sum(), examination.sum(), (examination * (1 - examination)).sum() + 1e-9)


def test_relevance_is_the_attraction_of_what_was_shown() -> None:
    """The truth asked user by item and the truth beside each impression are one function."""
    tables, truth = simulated(TINY)
    log = tables.impressions
    relevance_NI = truth.relevance(rows_of(log["user_id"]), log["timestamp"].to_numpy())
    item_N = rows_of(log["item_id"])
    np.testing.assert_allclose(relevance_NI[np.arange(len(log)), item_N], truth.attraction_N, rtol=1e-5)


def test_attention_by_hand() -> None:
    attraction_RS = np.array([[0.5, 0.2, 0.9], [0.5, 0.2, 0.9]])
    plain = Attention((1.0, 2.0, 0.0)).examination(np.array([0, 1]), attraction_RS)
    np.testing.assert_allclose(plain, [[1, 1 / 2, 1 / 3], [1, 1 / 4, 1 / 9]])
    crowded = Attention((1.0, 2.0, 0.0), neighbour=0.5).examination(np.array([0, 2]), attraction_RS)
    np.testing.assert_allclose(crowded, [[1, 0.75 / 2, 0.9 / 3], [1, 0.75, 0.9]])


def test_only_the_misspecified_world_looks_differently_at_one_position() -> None:
    for world, differs in zip(KINDS, (False, False, True), strict=True):
        tables, truth = simulated(world)
        fifth = tables.impressions.with_columns(examination=truth.examination_N).filter(pl.col("position") == 5)
        assert (fifth["examination"].n_unique() > 1) == differs
        by_device = fifth.group_by("device").agg(pl.col("examination").mean())["examination"]
        assert (by_device.max() / by_device.min() > 2) == differs


def taste_model(taste_ND: np.ndarray, item_N: np.ndarray, target_N: np.ndarray, weight_N: np.ndarray, items: int) -> np.ndarray:
    """Weighted ridge regression of the target on the user's taste, one per item: [I, 1 + D]. Knows every user, learns every item."""
    x_ND = np.column_stack([np.ones(len(taste_ND)), taste_ND])
    y_N = target_N - np.average(target_N, weights=weight_N)
    model = np.zeros((items, x_ND.shape[1]))
    for item in range(items):
        x, weight = x_ND[item_N == item], weight_N[item_N == item, None]
        model[item] = np.linalg.solve((x * weight).T @ x + 5 * np.eye(x.shape[1]), (x * weight).T @ y_N[item_N == item])
    return model


def ndcg_at_10(score_BI: np.ndarray, relevance_BI: np.ndarray) -> float:
    discount = 1 / np.log2(np.arange(2, 12))
    found = np.take_along_axis(relevance_BI, np.argsort(-score_BI, axis=1)[:, :10], axis=1) @ discount
    return float((found / (np.sort(relevance_BI, axis=1)[:, :-11:-1] @ discount)).mean())


def ndcg_by_target(world: World) -> dict[str, float]:
    """One model, the same rows and the same tastes; what differs is what it is told each row was worth."""
    tables, truth = simulated(world)
    log, everyone, at_end = tables.impressions, np.arange(world.users), np.full(world.users, END_MS)
    item_N, clicked_N = rows_of(log["item_id"]), log["clicked"].to_numpy().astype(float)
    taste_ND = truth.audience.taste_at(rows_of(log["user_id"]), log["timestamp"].to_numpy(), world.turn)
    wanted_N = (np.random.default_rng(0).random(len(log)) < truth.attraction_N).astype(float)  # as noisy as a click
    taste_UD = np.column_stack([np.ones(world.users), truth.audience.taste_at(everyone, at_end, world.turn)])
    relevance_UI, ones_N = truth.relevance(everyone, at_end), np.ones(len(log))
    popularity_I = np.bincount(item_N, clicked_N, world.items)
    ndcg = {"popularity": ndcg_at_10(np.tile(popularity_I, (world.users, 1)), relevance_UI)}
    for name, target_N, weight_N in (
        ("raw clicks", clicked_N, ones_N),
        ("truth", wanted_N, ones_N),
        ("clicks over examination", clicked_N / truth.examination_N, truth.examination_N),
    ):
        ndcg[name] = ndcg_at_10(taste_UD @ taste_model(taste_ND, item_N, target_N, weight_N, world.items).T, relevance_UI)
    return ndcg


def test_raw_clicks_cost_much_in_the_strong_world_and_little_in_the_mild() -> None:
    mild, strong, misspecified = (ndcg_by_target(world) for world in KINDS)
    assert mild["truth"] - mild["raw clicks"] < 0.04
    assert strong["truth"] - strong["raw clicks"] >= 0.10  # the definition asks for .05
    assert misspecified["truth"] - misspecified["raw clicks"] >= 0.05
    assert strong["clicks over examination"] - strong["raw clicks"] >= 0.03  # knowing the eyes gives back a part
    assert mild["raw clicks"] - mild["popularity"] >= 0.10  # taste can be learnt


def test_recent_history_says_more_than_old() -> None:
    """The next title is closer to the last five clicks than to the first five."""
    tables, truth = simulated(SMALL_MILD)
    clicks = tables.events.filter(pl.col("event_type").is_in(["watch", "complete"])).group_by("user_id", maintain_order=True)
    closer = []
    for item_ids in clicks.agg("item_id").filter(pl.col("item_id").list.len() >= 16)["item_id"]:
        vector_LD = truth.catalogue.vector_ID[rows_of(item_ids)]
        closer.append(vector_LD[-1] @ (vector_LD[-6:-1].mean(0) - vector_LD[:5].mean(0)))
    assert len(closer) > 100
    assert np.mean(closer) > 3 * np.std(closer) / np.sqrt(len(closer))


def test_regions_live_at_their_own_hours_and_trend_differently() -> None:
    tables, _ = simulated(World.mild(users=1000, items=100, events=20_000, seed=2))
    views = tables.events.with_columns(hour=pl.from_epoch("timestamp", "ms").dt.hour())
    evening_US = views.filter(region="US", hour=2)
    evening_JP = views.filter(region="JP", hour=2)
    share = dict(views["region"].value_counts().rows())
    assert len(evening_US) / share["US"] > 3 * len(evening_JP) / share["JP"]  # 20:00 in the US, 11:00 in Japan
    counts = views.filter(pl.col("region").is_in(["DE", "US"])).pivot(
        "region", index="item_id", values="event_id", aggregate_function="len"
    )
    table = counts.fill_null(0).select("DE", "US").to_numpy().astype(float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi_square, freedom = ((table - expected) ** 2 / expected).sum(), len(table) - 1
    assert chi_square > freedom + 4 * np.sqrt(2 * freedom)


def test_a_world_without_a_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="take at least 301 items"):
        World.mild(users=10, items=100, events=1_000, seed=0)
    with pytest.raises(ValueError, match="users=0, expected at least 1"):
        World.mild(users=0, items=100, events=1_000, seed=0)


def test_more_users_than_events_still_make_a_world() -> None:
    tables, _ = World.mild(users=1500, items=60, events=40, seed=0).simulate()
    assert 10 <= len(tables.events) <= 100
    assert len(tables.users) == 1500


@pytest.mark.parametrize("name, kind", [("world", "mild"), ("world_strong", "strong"), ("world_misspecified", "misspecified")])
def test_each_choice_of_the_configuration_names_its_world(name: str, kind: str) -> None:
    config = OmegaConf.load(Path(__file__).parent.parent / "conf" / "data" / f"{name}.yaml")
    assert config["_target_"] == f"data.world.{kind}"
    tables = instantiate(config, users=40, items=48, events=400, seed=1)
    assert isinstance(tables, Tables)
    expected = getattr(World, kind)(users=40, items=48, events=400, seed=1).simulate()[0]
    assert tables.fingerprint() == expected.fingerprint()


def test_the_policy_leaves_room_for_chance() -> None:
    policy = Policy()
    tables, _ = simulated(SMALL_MILD)
    per_arm = dict(tables.impressions.unique("request_id")["arm"].value_counts().rows())
    requests = sum(per_arm.values())
    assert_equal_in_law(per_arm["uniform"], policy.uniform_share * requests, requests * policy.uniform_share * (1 - policy.uniform_share))
    assert tables.impressions["propensity"].min() >= policy.floor * policy.slots / SMALL_MILD.items * 0.9
