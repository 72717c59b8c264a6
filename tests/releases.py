"""A small release, written by hand: every file is real, the models are a few lines of TorchScript that a real Triton server runs."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import nn

from data.content import SCALED, ContentRecipe, content_vectors, write_recipe
from data.features import MOMENT, NUMBERS, PROFILE, Vocabulary
from data.schema import ITEMS, USERS
from serve import contract, tags
from serve.cold_start import Quiz
from serve.index import exact
from serve.manifest import seal
from serve.triton import PYTHON, add_version
from towers.ranker import HEADS

LENGTH, USERS_WRITTEN = 12, 10
GENRES, TAGS = ("comedy", "drama", "western"), tuple(f"tag {number}" for number in range(10))
RECIPE = ContentRecipe(
    genres=Vocabulary(GENRES), tags=Vocabulary(TAGS), term=("bus", "the", "western"), idf_T=np.array([2.0, 1.0, 3.0]),
    component_TS=np.eye(3, 1, dtype=np.float32), embedding_width=2, mean=dict.fromkeys(SCALED, 2.0), std=dict.fromkeys(SCALED, 4.0),
)  # fmt: skip
FEATURES = RECIPE.width
START_MS = 1_700_000_000_000


class UserTower(nn.Module):
    """The query is the direction of what was last touched: the mean of the history's rows, the recent ones weighing more."""

    def forward(self, history: torch.Tensor, event_code: torch.Tensor, age_minutes: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        weight = (event_code > 0).float() / (1.0 + age_minutes.float() / 1440.0)
        query = (history.float() * weight.unsqueeze(2)).sum(1)
        return nn.functional.normalize(query, dim=1)


class ItemTower(nn.Module):
    """Features to a row whose two halves are one unit vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, width)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        vector = nn.functional.normalize(self.layer(feature), dim=1)
        return torch.cat([vector, vector], dim=1).half()


class Ranker(nn.Module):
    """Its value of a candidate is likeness to the query and a little popularity, between 0 and 1; the other heads are made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.popularity = NUMBERS.index("log_popularity")

    def forward(
        self, query: torch.Tensor, moment: torch.Tensor, profile: torch.Tensor, candidate: torch.Tensor, number: torch.Tensor
    ) -> torch.Tensor:
        logit = torch.einsum("bd,bkd->bk", query, candidate.float()) * 3.0 + number[:, :, self.popularity] * 0.1 - 1.0
        value = torch.sigmoid(logit)
        return torch.stack([0.5 * value, value * value, 600.0 * value, 1.0 - value, 5.0 * value, value], dim=2)


def heads(value: float) -> dict[str, float]:
    """What the small release's ranker says by all heads of what it values so."""
    return dict(zip(HEADS, (0.5 * value, value**2, 600 * value, 1 - value, 5 * value, value), strict=True))


def write_release(folder: Path, *, items: int = 50, width: int = 8, seed: int = 0, version: str = "v1", room: int = 0) -> Path:
    """Write and seal a release of `items` items "i0", "i1", …, and ten users "u0" … "u9" of whom u<n> did n things; `folder` itself.

    There is `room` for items posted later. Rows hold one unit vector in both halves. Items and users are the same for the same seed,
    whatever the version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    vector_ID = rng.normal(size=(items, width))
    vector_ID = (vector_ID / np.linalg.norm(vector_ID, axis=1, keepdims=True)).astype(np.float16)
    rows = np.concatenate([vector_ID, vector_ID], axis=1)
    np.concatenate([rows, np.zeros((room, 2 * width), np.float16)]).tofile(folder / "items.f16")
    write_recipe(folder / "recipe.npz", RECIPE)
    exact(vector_ID).save(folder / "index.faiss")
    _write_tables(folder, items, rng)
    _write_sources(folder, items, room)
    _write_models(folder, vector_ID, rng, seed)
    _quiz(vector_ID.astype(np.float32)).save(folder)
    manifest = {
        "version": version, "runs": {"retrieval": "r1", "ranker": "r2"}, "width": width, "history_length": LENGTH, "liked_from": 3.5,
        "backend": "python", "item_count": items, "feature_count": FEATURES, "numbers": list(NUMBERS), "profile": list(PROFILE),
        "heads": list(HEADS), "learned": list(HEADS), "relevance_head": HEADS.index("value"),
    }  # fmt: skip
    seal(folder, manifest)
    return folder


def _write_tables(folder: Path, items: int, rng: np.random.Generator) -> None:
    item_ids = [f"i{row}" for row in range(items)]
    catalogue = pl.DataFrame(
        {
            "item_id": item_ids,
            "title": [None if row == 1 else f"The {row}th Käse" for row in range(items)],
            "genres": [list(rng.choice(GENRES, size=row % 3, replace=False)) for row in range(items)],
            "tags": [None if row % 5 == 4 else [TAGS[row % 10], TAGS[row % 3]] for row in range(items)],
            "duration_seconds": [None if row % 6 == 5 else 60.0 * row for row in range(items)],
            "release_date": [None if row % 7 == 3 else 18_000 + row for row in range(items)],
        },
        schema_overrides={"genres": pl.List(pl.String), "duration_seconds": pl.Float32, "release_date": pl.Int32},
    ).cast({"release_date": pl.Date})
    missing = [pl.lit(None, column.dtype).alias(name) for name, column in ITEMS.items() if name not in catalogue.columns]
    catalogue.with_columns(missing).select(*ITEMS).write_parquet(folder / "catalogue.parquet")
    words = {"device": ["phone", "tv"], "region": ["DE", "FR"], "subscription_tier": ["basic", "premium"], "genres": list(GENRES)}
    (folder / "vocabulary.json").write_text(json.dumps(words))

    user_ids = [f"u{number}" for number in range(USERS_WRITTEN)]
    did = [[int(row) for row in rng.choice(items, size=min(number, items), replace=False)] for number in range(USERS_WRITTEN)]
    histories = pl.DataFrame(
        {
            "user_id": user_ids,
            "item_id": [[item_ids[row] for row in rows] for rows in did],
            "event_type": [[3 + row % 4 for row in rows] for rows in did],
            "rating": [[4.0 if row % 4 == 3 else float("nan") for row in rows] for rows in did],
            "timestamp": [[START_MS + 3_600_000 * place for place in range(len(rows))] for rows in did],
        },
        schema={"user_id": pl.String, "item_id": pl.List(pl.String), "event_type": pl.List(pl.Int8),
                "rating": pl.List(pl.Float32), "timestamp": pl.List(pl.Int64)},
    )  # fmt: skip
    histories.filter(pl.col("item_id").list.len() > 0).write_parquet(folder / "histories.parquet")
    known = [(user_id, "DE", ("basic", "premium")[number % 2], 1980 + number) for number, user_id in enumerate(user_ids)]
    pl.DataFrame(known, schema={name: column.dtype for name, column in USERS.items()}, orient="row").write_parquet(folder / "users.parquet")

    hour = START_MS // 3_600_000
    row_I = np.arange(items, dtype=np.int64)
    np.savez(
        folder / "clock.npz", key=(row_I << 32) + hour, popularity=1.0 + (row_I * 7) % items, rating_sum=4.0 * (row_I % 5),
        rating_count=1.0 * (row_I % 5), half_life_hours=168.0, prior_rating=3.5, prior_count=5.0,
    )  # fmt: skip


def _write_sources(folder: Path, items: int, room: int) -> None:
    """Popularity as in the clock, at any time of day. Trending is i<n − 1>, i<n − 2>, … down to half of them, in DE only even rows.
    Content is as the recipe has it; every item was shown as often as its row says."""
    row_I = np.arange(items, dtype=np.int64)
    count_I = 1.0 + (row_I * 7) % items
    parts = {"part": np.repeat(np.arange(6), items), "item_row": np.tile(row_I, 6), "count": np.tile(count_I / 6, 6)}
    pl.DataFrame(parts).write_parquet(folder / "day_parts.parquet")
    short_I = 10.0 + row_I
    everywhere = pl.DataFrame({"region": None, "item_row": row_I, "short": short_I, "long": 10.0}, schema_overrides={"region": pl.String})
    there = everywhere.filter(pl.col("item_row") % 2 == 0).with_columns(region=pl.lit("DE"))
    pl.concat([everywhere, there]).write_parquet(folder / "trends.parquet")
    np.save(folder / "exposure.npy", row_I)
    days = {"short": 2.0, "long": 28.0, "popular": 7.0}
    (folder / "trends.json").write_text(json.dumps({"log_end": START_MS, "shown_end": START_MS, "half_life_days": days}))
    feature_IF = RECIPE.features(pl.read_parquet(folder / "catalogue.parquet"))
    tags.write(folder, tags.tags(feature_IF, RECIPE), rows=items + room)
    vector_IC = content_vectors(feature_IF, RECIPE).astype(np.float16)
    np.concatenate([vector_IC, np.zeros((room, vector_IC.shape[1]), np.float16)]).tofile(folder / "content.f16")
    exact(vector_IC).save(folder / "content.faiss")


def _quiz(vector_ID: np.ndarray) -> Quiz:
    """Four prototypes that are items, and like others the more the nearer they lie; one in five does not know what is asked about."""
    query_PD, asked = vector_ID[:4], np.arange(min(len(vector_ID), 20))
    like_PQ = 0.4 + 0.3 * query_PD @ vector_ID[asked].T
    probability_PQ3 = np.stack([like_PQ, 0.8 - like_PQ, np.full(like_PQ.shape, 0.2)], axis=2)
    return Quiz(0, np.full(len(query_PD), 1 / len(query_PD)), query_PD, asked, probability_PQ3)


@torch.no_grad()
def _write_models(folder: Path, vector_ID: np.ndarray, rng: np.random.Generator, seed: int) -> None:
    items, width = vector_ID.shape
    torch.manual_seed(seed)
    user_tower, item_tower, ranker = UserTower(), ItemTower(width), Ranker()
    specs = {
        contract.user_tower(width, len(MOMENT)): user_tower,
        contract.item_tower(width, FEATURES): item_tower,
        contract.ranker(width, len(MOMENT), len(GENRES) + len(PROFILE), len(NUMBERS), len(HEADS)): ranker,
    }
    for spec, module in specs.items():
        path = folder / f"{spec.name}.pt"
        torch.jit.script(module.eval()).save(str(path))
        add_version(folder / "triton", spec, 1, path, backend=PYTHON)
        path.unlink()
    B, L, K = 3, LENGTH, 16
    history, candidate = (torch.as_tensor(vector_ID[rng.integers(0, items, shape)]) for shape in ((B, L), (B, K)))
    code, age = torch.as_tensor(rng.integers(0, 7, (B, L))), torch.as_tensor(rng.integers(0, 100_000, (B, L)))
    moment, feature = torch.zeros((B, len(MOMENT)), dtype=torch.int64), torch.as_tensor(rng.random((B, FEATURES), np.float32))
    profile, number = (torch.as_tensor(rng.random((B, *shape), np.float32)) for shape in ((len(GENRES) + len(PROFILE),), (K, len(NUMBERS))))
    query = user_tower(history, code, age, moment)
    golden = {
        "user_tower/history": history, "user_tower/event_code": code, "user_tower/age_minutes": age, "user_tower/moment": moment,
        "user_tower/query__0": query,
        "item_tower/feature": feature, "item_tower/row__0": item_tower(feature),
        "ranker/query": query, "ranker/moment": moment, "ranker/profile": profile, "ranker/candidate": candidate, "ranker/number": number,
        "ranker/value__0": ranker(query, moment, profile, candidate, number),
    }  # fmt: skip
    np.savez(folder / "golden.npz", **{name: tensor.numpy() for name, tensor in golden.items()})
    (folder / "golden.json").write_text("[]")
