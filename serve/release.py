"""A release: the one directory that serving reads. `serve.manifest` seals it, `serve.publication` makes it current and takes it back.

Shapes: I catalogue · D width · G genres.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from data.features import MOMENT, NUMBERS, ItemClock, MomentVocabulary, Vocabulary, multi_hot
from data.schema import ITEMS, USERS, Column, SchemaError, check_table
from serve import contract
from serve.contract import ModelSpec
from serve.index import Index, IndexFileError
from serve.manifest import Manifest, ReleaseError, seal, verify
from serve.publication import current, promote, publish, rollback, versions

if TYPE_CHECKING:
    from serve.triton import Client

__all__ = [
    "Catalogue", "Difference", "Manifest", "Release", "ReleaseError",
    "current", "differences", "promote", "publish", "rollback", "seal", "verify", "versions",
]  # fmt: skip
# fp16 rows of length one have steps of 1/2048 to 1/1024: two of them. fp32 sums of some thousand terms, ordered otherwise on another
# machine or in another batch, move the sixth digit; a weight or a feature in the wrong place moves the first.
TOLERANCE = {"FP16": 2e-3, "FP32": 1e-4, "INT64": 0.0}


class Difference(NamedTuple):
    """A golden answer that was not given again. `largest` is the largest absolute difference, infinite for a wrong shape or NaN."""

    model: str
    tensor: str
    largest: float
    tolerance: float

    def __str__(self) -> str:
        return f"{self.model}/{self.tensor} differs by up to {self.largest:.3g}, allowed are {self.tolerance:g}"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What may be shown, in the order of item rows. `titles` has the id of an item without one; `frame` has the columns of `ITEMS`."""

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    row_of: Mapping[str, int]
    frame: pl.DataFrame

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Catalogue":
        """The catalogue of a table whose rows are the item rows."""
        item_ids = tuple(frame["item_id"])
        titles = tuple(frame["title"].fill_null(frame["item_id"]))
        return cls(item_ids, titles, {item_id: row for row, item_id in enumerate(item_ids)}, frame)

    def rows(self, item_ids: Iterable[str]) -> np.ndarray:
        """One int64 row for each id, −1 where the catalogue does not know it: the caller counts those."""
        return np.fromiter((self.row_of.get(item_id, -1) for item_id in item_ids), np.int64)


@dataclass(frozen=True, slots=True)
class Release:
    """A release, opened: every file was found to be what was sealed.

    `items` is memory-mapped fp16 (rows, 2·D), the input half beside the retrieval vector; it may have room beyond the catalogue's I rows.
    `genre_IG` is float32 0 or 1, `release_day_I` float64 days since 1970 with NaN where it is not known.
    """

    path: Path
    manifest: Manifest
    catalogue: Catalogue
    users: pl.DataFrame
    items: np.ndarray
    index: Index
    clock: ItemClock
    vocabulary: MomentVocabulary
    genres: tuple[str, ...]
    genre_IG: np.ndarray
    release_day_I: np.ndarray
    user_tower: ModelSpec
    item_tower: ModelSpec
    ranker: ModelSpec

    @classmethod
    def open(cls, path: Path | str) -> "Release":
        """Open a release's folder (or a link to one, such as `current`, which may move on meanwhile).

        Raises:
            ReleaseError: a file is missing, cut short, altered, or does not go with the others.
        """
        folder = Path(path).resolve()
        manifest = verify(folder)
        frame = _table(folder, "catalogue.parquet", ITEMS)
        words = json.loads((folder / "vocabulary.json").read_bytes())
        genres = tuple(words["genres"])
        with np.load(folder / "clock.npz") as clock:
            arrays = {name: clock[name] for name in ItemClock.__slots__}
        items = np.memmap(folder / "items.f16", np.float16, "r")
        try:
            index = Index.open(folder / "index.faiss")
        except IndexFileError as error:
            raise ReleaseError(folder, "index.faiss", f"cannot be read ({error})") from error
        width, item_count = manifest.width, manifest.item_count
        for file, found, expected in (
            ("catalogue.parquet", (len(frame), frame["item_id"].n_unique()), (item_count, item_count)),
            ("index.faiss", (index.item_count, index.width), (item_count, width)),
            ("items.f16", (len(items) % (2 * width), len(items) // (2 * width) >= item_count), (0, True)),
            ("clock.npz", bool((arrays["key"] >> 32 < item_count).all()), True),
        ):
            if found != expected:
                raise ReleaseError(folder, file, f"does not go with {item_count} items {width} wide: found {found}, expected {expected}")
        moment = MomentVocabulary(*(Vocabulary(tuple(words[name])) for name in ("device", "region", "subscription_tier")))
        scalars = {name: value.item() for name, value in arrays.items() if value.ndim == 0}
        return cls(
            folder, manifest, Catalogue.of(frame), _table(folder, "users.parquet", USERS), items.reshape(-1, 2 * width), index,
            ItemClock(**arrays | scalars), moment, genres, multi_hot(frame["genres"], Vocabulary(genres)),
            frame["release_date"].cast(pl.Int32).cast(pl.Float64).fill_null(float("nan")).to_numpy(),
            contract.user_tower(width, len(MOMENT)), contract.item_tower(width, manifest.feature_count),
            contract.ranker(width, len(MOMENT), len(NUMBERS), len(manifest.heads)),
        )  # fmt: skip

    def check_golden(self, client: "Client") -> None:
        """Ask a Triton server what was asked at export.

        Raises:
            ReleaseError: an answer differs by more than `TOLERANCE`.
            TritonError: the server does not answer.
        """
        different = differences(self, client.infer)
        if different:
            raise ReleaseError(self.path, "golden.npz", f"is not what the models answer: {'; '.join(map(str, different))}")


def differences(release: Release, infer: Callable[..., tuple[np.ndarray, ...]]) -> list[Difference]:
    """Where `infer(model, *inputs)` answers other than the trained modules did at export; allowed is TOLERANCE·(1 + |answer|)."""
    found = []
    with np.load(release.path / "golden.npz") as golden:
        for model in (release.user_tower, release.item_tower, release.ranker):
            answers = infer(model, *(golden[f"{model.name}/{tensor.name}"] for tensor in model.inputs))
            for tensor, answer in zip(model.outputs, answers, strict=True):
                expected, tolerance = golden[f"{model.name}/{tensor.name}"].astype(np.float64), TOLERANCE[tensor.dtype]
                if answer.shape != expected.shape:
                    found.append(Difference(model.name, tensor.name, np.inf, tolerance))
                    continue
                gap = np.abs(answer.astype(np.float64) - expected)
                if not (gap <= tolerance * (1 + np.abs(expected))).all():  # a NaN is at most nothing
                    found.append(Difference(model.name, tensor.name, float(np.nan_to_num(gap, nan=np.inf).max()), tolerance))
    return found


def _table(folder: Path, file: str, columns: Mapping[str, Column]) -> pl.DataFrame:
    try:
        return check_table(pl.read_parquet(folder / file), columns, table=file.removesuffix(".parquet"), source=str(folder / file))
    except (SchemaError, pl.exceptions.PolarsError) as error:
        raise ReleaseError(folder, file, f"cannot be read ({error})") from error
