"""A release of synthetic items for bench.serving: the real towers and ranker with random weights, every file as export writes it.

Items are unit vectors around random centres; a user's history is drawn from three centres, so that queries, neighbours and suspects are
like those of real users. Genres follow the centres and so do tags, popularity is Zipf's.

Shapes: I catalogue · D width · C centres · U users · L history length · G genres.
"""

import json
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from data.content import SCALED, ContentRecipe, write_recipe
from data.features import HOUR_MS, MOMENT, NUMBERS, PROFILE, Vocabulary
from data.schema import ITEMS, USERS
from serve import contract, tags
from serve.cold_start import Quiz
from serve.index import Index, ivf_sq8
from serve.publication import publish
from serve.release import seal
from serve.triton import PYTHON, add_version
from towers.cross import CrossNetwork
from towers.encoders import AttentionEncoder, MeanEncoder
from towers.mixture import SharedTrunk
from towers.network import Additive, Body
from towers.piecewise import POINTS, Spread
from towers.ranker import HEADS, TASKS, Answers, Ranker
from towers.two_tower import ItemTower, UnitNorm, UserTower
from towers.watch_time import WatchTime

TASTES, NOW_MS, ROOM = 3, 1_750_000_000_000, 1_000
DEVICES, REGIONS, TIERS = ("phone", "tablet", "tv"), ("DE", "FR", "US"), ("basic", "premium")
GENRES, TAGS = (tuple(f"{word} {number}" for number in range(count)) for word, count in (("genre", 18), ("tag", 128)))
TAGS_EACH = 4
RECIPE = ContentRecipe(
    genres=Vocabulary(GENRES), tags=Vocabulary(TAGS), term=(), idf_T=np.zeros(0), component_TS=np.zeros((0, 0), np.float32),
    embedding_width=46, mean=dict.fromkeys(SCALED, 0.0), std=dict.fromkeys(SCALED, 1.0),
)  # fmt: skip
FEATURES, CONTENT = RECIPE.width, RECIPE.content_width
MOMENT_SIZES = (24, 7, len(DEVICES) + 1, len(REGIONS) + 1, len(TIERS) + 1, 12)
# How NUMBERS are spread over what these users are shown, and the profile over the users.
NUMBER_MEAN, NUMBER_STD = (0.35, 0.1, 0.02, 1.0, 3.6, 6.5, 8.0, 3.9), (0.15, 0.1, 0.02, 1.0, 0.3, 1.5, 0.7, 0.5)
PROFILE_MEAN, PROFILE_STD = (*(1 / len(GENRES) for _ in GENRES), 1.0, 3.9), (*(0.1 for _ in GENRES), 1.0, 0.5)
ENCODERS = {"mean": MeanEncoder, "attention": AttentionEncoder}


class World(NamedTuple):
    """What a synthetic release is made of."""

    items: int
    users: int
    width: int = 256
    hidden: int = 256
    length: int = 50
    clusters: int = 2_000
    spread: float = 1.0  # length of the noise around a centre, that of a centre being 1
    encoder: str = "mean"
    threads: int = 1
    instances: int = 1
    seed: int = 0
    # Of the index's cells, 2,828 of 500,000 items. Clusters are no trained vectors: by users' queries 5 would do, by items' own 465.
    probes: int = 128

    @property
    def version(self) -> str:
        """A name that is another for any other world."""
        return "-".join(str(value).replace(".", "_") for value in self)


def write(world: World, releases: Path) -> None:
    """Publish the release of a world in `releases`. Three minutes for 500,000 items on two cores, most of it the index."""
    rng = np.random.default_rng(world.seed)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=releases) as staging:
        folder = Path(staging) / world.version
        folder.mkdir()
        centre_I = rng.integers(0, world.clusters, world.items)
        _write_items(world, folder, centre_I, rng)
        _write_tables(world, folder, centre_I, rng)
        _write_sources(world, folder, centre_I, rng)
        _write_models(world, folder)
        _quiz(world, rng).save(folder)
        manifest = {
            "version": world.version, "runs": {"retrieval": "none: random weights", "ranker": "none: random weights"},
            "width": world.width, "history_length": world.length, "liked_from": 3.5, "backend": "python", "item_count": world.items,
            "feature_count": FEATURES, "numbers": list(NUMBERS), "profile": list(PROFILE), "heads": list(HEADS), "learned": list(HEADS),
            "relevance_head": HEADS.index("value"),
        }  # fmt: skip
        seal(folder, manifest)
        publish(folder, releases, world.version)


def _write_items(world: World, folder: Path, centre_I: np.ndarray, rng: np.random.Generator) -> None:
    centre_CD = rng.standard_normal((world.clusters, world.width), np.float32)
    vector_ID = rng.standard_normal((world.items, world.width), np.float32)
    vector_ID *= np.float32(world.spread)
    vector_ID += centre_CD[centre_I]
    vector_ID /= np.linalg.norm(vector_ID, axis=1, keepdims=True)
    row_IW = np.empty((world.items, 2 * world.width), np.float16)
    row_IW[:, : world.width] = row_IW[:, world.width :] = vector_ID
    with (folder / "items.f16").open("wb") as file:
        row_IW.tofile(file)
        file.truncate(row_IW.nbytes + ROOM * row_IW[0].nbytes)
    write_recipe(folder / "recipe.npz", RECIPE)
    _index(world, vector_ID).save(folder / "index.faiss")


def _index(world: World, vector_IX: np.ndarray) -> Index:
    nlist = round(4 * math.sqrt(world.items))
    return ivf_sq8(vector_IX, nlist=nlist, nprobe=min(world.probes, nlist))


def _write_tables(world: World, folder: Path, centre_I: np.ndarray, rng: np.random.Generator) -> None:
    item_ids = np.char.add("i", np.arange(world.items).astype(str))
    tag_IT = (7 * centre_I[:, None] + rng.integers(0, 30, (world.items, TAGS_EACH))) % len(TAGS)
    genre_I2 = np.stack([centre_I % len(GENRES), rng.integers(0, len(GENRES), world.items)], axis=1)
    catalogue = pl.DataFrame(
        {
            "item_id": item_ids,
            "title": np.char.add("The film of ", item_ids),
            "genres": pl.Series(np.array(GENRES)[genre_I2].tolist(), dtype=pl.List(pl.String)).list.unique(),
            "tags": pl.Series(np.array(TAGS)[tag_IT].tolist(), dtype=pl.List(pl.String)).list.unique(),
            "duration_seconds": pl.Series(rng.uniform(60, 9_000, world.items), dtype=pl.Float32),
            "release_date": pl.Series(rng.integers(10_000, NOW_MS // 86_400_000, world.items), dtype=pl.Int32).cast(pl.Date),
        }
    )
    bearing_IT = np.zeros((world.items, len(TAGS)), bool)
    np.put_along_axis(bearing_IT, tag_IT, True, axis=1)
    tags.write(folder, bearing_IT, rows=world.items + ROOM)
    missing = [pl.lit(None, column.dtype).alias(name) for name, column in ITEMS.items() if name not in catalogue.columns]
    catalogue.with_columns(missing).select(*ITEMS).write_parquet(folder / "catalogue.parquet")
    words = {"device": DEVICES, "region": REGIONS, "subscription_tier": TIERS, "genres": GENRES}
    (folder / "vocabulary.json").write_text(json.dumps(words))

    order_I = np.argsort(centre_I, kind="stable")
    start_C = np.searchsorted(centre_I[order_I], np.arange(world.clusters + 1))
    taste_U3 = rng.integers(0, world.clusters, (world.users, TASTES))
    taste_UL = np.take_along_axis(taste_U3, rng.integers(0, TASTES, (world.users, world.length)), axis=1)
    size_UL = start_C[taste_UL + 1] - start_C[taste_UL]
    row_UL = order_I[(start_C[taste_UL] + rng.random(taste_UL.shape) * size_UL).astype(np.int64).clip(0, world.items - 1)]
    then_UL = NOW_MS - np.sort(rng.integers(HOUR_MS, 1000 * HOUR_MS, taste_UL.shape), axis=1)[:, ::-1]
    type_UL = rng.integers(2, 7, taste_UL.shape).astype(np.int8)
    rating_UL = np.where(type_UL == 6, rng.integers(1, 6, taste_UL.shape), np.nan).astype(np.float32)
    user_ids = [f"u{number}" for number in range(world.users)]
    lists = {"item_id": item_ids[row_UL], "event_type": type_UL, "rating": rating_UL, "timestamp": then_UL}
    histories = {"user_id": user_ids} | {name: pl.Series(values.tolist()) for name, values in lists.items()}
    pl.DataFrame(histories).cast({"event_type": pl.List(pl.Int8), "rating": pl.List(pl.Float32)}).write_parquet(
        folder / "histories.parquet"
    )
    known = {
        "user_id": user_ids,
        "region": rng.choice(REGIONS, world.users),
        "subscription_tier": rng.choice(TIERS, world.users),
        "birth_year": rng.integers(1940, 2010, world.users).astype(np.int16),
    }
    pl.DataFrame(known).select(*USERS).write_parquet(folder / "users.parquet")

    popularity_I = 1e5 / rng.permutation(np.arange(1, world.items + 1))
    count_I = rng.integers(0, 50, world.items).astype(np.float64)
    np.savez(
        folder / "clock.npz", key=(np.arange(world.items) << 32) + NOW_MS // HOUR_MS - 1, popularity=popularity_I,
        rating_sum=count_I * rng.uniform(2, 5, world.items), rating_count=count_I, half_life_hours=720.0, prior_rating=3.6,
        prior_count=5.0,
    )  # fmt: skip


def _write_sources(world: World, folder: Path, centre_I: np.ndarray, rng: np.random.Generator) -> None:
    """Content follows the centres as the items do; what is taken up is Zipf's, and each region's trend is noise on its habit."""
    items, log_end = world.items, NOW_MS - 1
    centre_CC = rng.standard_normal((world.clusters, CONTENT), np.float32)
    vector_IC = centre_CC[centre_I] + rng.standard_normal((items, CONTENT), np.float32)
    vector_IC /= np.linalg.norm(vector_IC, axis=1, keepdims=True)
    rows = (folder / "items.f16").stat().st_size // (4 * world.width)
    room_RC = np.zeros((rows, CONTENT), np.float16)
    room_RC[:items] = vector_IC
    room_RC.tofile(folder / "content.f16")
    _index(world, vector_IC).save(folder / "content.faiss")

    row_I, habit_I = np.arange(items), 1e5 / rng.permutation(np.arange(1, items + 1))
    tables = []
    for region in (None, *REGIONS):
        some = np.flatnonzero(rng.random(items) < (1.0 if region is None else 0.5))
        long = habit_I[some] * rng.uniform(0.5, 2.0, len(some))
        columns = {"region": region, "item_row": row_I[some], "short": long / 14 * rng.gamma(2.0, 0.5, len(some)), "long": long}
        tables.append(pl.DataFrame(columns, schema_overrides={"region": pl.String}))
    pl.concat(tables).write_parquet(folder / "trends.parquet")
    part_6I = rng.dirichlet(np.full(6, 3.0), items).T * habit_I
    parts = {"part": np.repeat(np.arange(6), items), "item_row": np.tile(row_I, 6), "count": part_6I.ravel()}
    pl.DataFrame(parts).write_parquet(folder / "day_parts.parquet")
    np.save(folder / "exposure.npy", rng.poisson(habit_I.clip(max=1e4)).astype(np.int64))
    told = {"log_end": log_end, "shown_end": log_end, "half_life_days": {"short": 2.0, "long": 28.0, "popular": 7.0}}
    (folder / "trends.json").write_text(json.dumps(told))


def _quiz(world: World, rng: np.random.Generator) -> Quiz:
    """A quiz of the size that export makes, of random prototypes who answer at random."""
    prototypes, asked = 64, rng.permutation(world.items)[:300]
    query_PD = rng.standard_normal((prototypes, world.width), np.float32)
    query_PD /= np.linalg.norm(query_PD, axis=1, keepdims=True)
    return Quiz(0, np.full(prototypes, 1 / prototypes), query_PD, asked, rng.dirichlet(np.ones(3), (prototypes, len(asked))))


def models(world: World) -> tuple[UserTower, ItemTower, Ranker]:
    """The towers and the ranker with random weights, in `eval`. The ranker goes by the dot product, so that histories have effects."""
    torch.manual_seed(world.seed)
    tower = {"width": world.width, "priors": 0, "hidden": world.hidden, "dropout": 0.1, "norm": UnitNorm()}
    user = UserTower(**tower, moment_sizes=MOMENT_SIZES, users=0, encoder=ENCODERS[world.encoder])
    item = ItemTower(**tower, features=FEATURES, id_dropout=0.1, content_std=0.05)
    number, profile = (
        Spread.of(np.add(mean, np.multiply(std, np.linspace(-2, 2, POINTS)[:, None])))
        for mean, std in ((NUMBER_MEAN, NUMBER_STD), (PROFILE_MEAN, PROFILE_STD))
    )
    watch_time = WatchTime(torch.linspace(4, 9, 19), torch.linspace(0, 5_000, 101).expand(20, -1))
    cross, trunk = partial(CrossNetwork, layers=1, rank=32), partial(SharedTrunk, hidden=48, dropout=0.2)
    body = partial(Body, hidden=96, dropout=0.2, tower=16, cross=cross, trunk=trunk)
    vectors = Spread.of(torch.randn(1000, world.width).numpy() / world.width**0.5)
    ranker = Ranker(
        width=world.width, moment_sizes=MOMENT_SIZES, query=vectors, candidate=vectors, number=number, profile=profile,
        network=partial(Additive, ramps=8, vector_ramps=0, body=body), answers=Answers(watch_time, (1.0, 5.0), (True,) * len(TASKS)),
        value_weight={"click": 1.0},
    )  # fmt: skip
    with torch.no_grad():
        user.mix[-1].weight.mul_(0.1)  # a taste close to the state: queries lie where items do
        user.mix[-1].bias.zero_()
        ranker.skip.weight[TASKS.index("click"), NUMBERS.index("dot")] = 3.0
        ranker.network.of_item.tower.last_bias[TASKS.index("click")] = -math.log(19)
    return user.eval(), item.eval(), ranker.eval()


@torch.no_grad()
def _write_models(world: World, folder: Path) -> None:
    user, item, ranker = models(world)
    specs = {
        contract.user_tower(world.width, len(MOMENT)): user,
        contract.item_tower(world.width, FEATURES): item,
        contract.ranker(world.width, len(MOMENT), len(PROFILE_MEAN), len(NUMBERS), len(HEADS)): ranker,
    }
    for spec, module in specs.items():
        path = folder / f"{spec.name}.pt"
        torch.jit.script(module).save(str(path))
        add_version(folder / "triton", spec, 1, path, backend=PYTHON, threads=world.threads, instances=world.instances)
        path.unlink()
    B, L, K, D = 2, world.length, 32, world.width
    history, candidate = torch.randn(B, L, D).half() / math.sqrt(D), torch.randn(B, K, D).half() / math.sqrt(D)
    code, age = torch.randint(1, 7, (B, L)), torch.randint(0, 100_000, (B, L))
    moment, feature = torch.zeros((B, len(MOMENT)), dtype=torch.int64), torch.rand(B, FEATURES)
    profile, number = torch.rand(B, len(PROFILE_MEAN)), torch.rand(B, K, len(NUMBERS))
    query = user(history, code, age, moment)
    golden = {
        "user_tower/history": history, "user_tower/event_code": code, "user_tower/age_minutes": age, "user_tower/moment": moment,
        "user_tower/query__0": query,
        "item_tower/feature": feature, "item_tower/row__0": item(feature),
        "ranker/query": query, "ranker/moment": moment, "ranker/profile": profile, "ranker/candidate": candidate, "ranker/number": number,
        "ranker/value__0": ranker(query, moment, profile, candidate, number),
    }  # fmt: skip
    np.savez(folder / "golden.npz", **{name: tensor.numpy() for name, tensor in golden.items()})
    (folder / "golden.json").write_text("[]")
