"""A release: the one directory that serving reads. `serve.manifest` seals it, `serve.publication` makes it current and takes it back.

Shapes: I catalogue · D width · G genres · R rows with room for items to come · N items added · W = 2·D.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from data.content import ContentRecipe, RecipeFileError, content_vectors, read_recipe
from data.features import MOMENT, NUMBERS, PROFILE, ItemClock, MomentVocabulary, Vocabulary
from data.schema import ITEMS, USERS, Column, SchemaError, check_table
from serve import contract
from serve.catalogue import Catalogue, CatalogueFull
from serve.content import ContentTable
from serve.contract import ModelSpec
from serve.index import Index, IndexFileError, exact
from serve.manifest import Manifest, ReleaseError, seal, verify
from serve.publication import current, promote, publish, rollback, versions
from serve.tags import TagTable, tags

if TYPE_CHECKING:
    from serve.triton import Client

__all__ = [
    "Catalogue", "Difference", "Manifest", "NoRoom", "Release", "ReleaseError",
    "current", "differences", "promote", "publish", "rollback", "seal", "verify", "versions",
]  # fmt: skip
INDEXES = ("index.faiss", "content.faiss")
MORE_ROOM = "export again with the posted items in its items table, or with a larger room=…"
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


class NoRoom(ReleaseError):
    """The item table has no room for so many items more."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release, opened: every file was found to be what was sealed.

    `items` is fp16 (R, 2·D), the input half beside the retrieval vector, with room beyond the catalogue's I rows. It is mapped
    copy-on-write: what was sealed is shared by all processes and stays as it is on the disk, rows added are this process's own. So is
    `tag_IT`, which item rows read as a table (R, T) of 0 and 1.
    """

    path: Path
    manifest: Manifest
    catalogue: Catalogue
    users: pl.DataFrame
    items: np.ndarray
    index: Index
    content: ContentTable
    tag_IT: TagTable
    clock: ItemClock
    vocabulary: MomentVocabulary
    genres: tuple[str, ...]
    recipe: ContentRecipe
    user_tower: ModelSpec
    item_tower: ModelSpec
    ranker: ModelSpec
    _adding: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def genre_IG(self) -> np.ndarray:
        """float32 (R, G), 0 or 1."""
        return self.catalogue.genre_IG

    @property
    def release_day_I(self) -> np.ndarray:
        """float64 (R) days since 1970, NaN where it is not known."""
        return self.catalogue.release_day_I

    @property
    def duration_seconds_I(self) -> np.ndarray:
        """float32 (R), NaN where it is not known."""
        return self.catalogue.duration_seconds_I

    @property
    def posted_at_I(self) -> np.ndarray:
        """int64 (R) ms UTC at which an item was posted, −1 for what was sealed."""
        return self.catalogue.posted_at_I

    @classmethod
    def open(cls, path: Path | str) -> "Release":
        """Open a release's folder (or a link to one, such as `current`, which may move on meanwhile).

        Raises:
            ReleaseError: a file is missing, cut short, altered, or does not go with the others.
        """
        folder = Path(path).resolve()
        manifest = verify(folder)
        try:
            indexes = [Index.open(folder / file) for file in INDEXES]
        except IndexFileError as error:
            raise ReleaseError(folder, "an index", f"cannot be read ({error})") from error
        return cls._of(folder, manifest, *indexes)

    @classmethod
    def mended(cls, path: Path | str) -> "Release":
        """Open a release whose index files are missing or not what was sealed: exact ones are made anew from the vectors beside them.

        Raises:
            ReleaseError: another file is missing, cut short, altered, or does not go with the others.
        """
        folder = Path(path).resolve()
        manifest = verify(folder, but=INDEXES)
        count = manifest.item_count
        row_RW = np.memmap(folder / "items.f16", np.float16, "r").reshape(-1, 2 * manifest.width)
        content_RC = np.memmap(folder / "content.f16", np.float16, "r").reshape(len(row_RW), -1)
        return cls._of(folder, manifest, exact(row_RW[:count, manifest.width :]), exact(content_RC[:count]))

    @classmethod
    def _of(cls, folder: Path, manifest: Manifest, index: Index, content_index: Index) -> "Release":
        frame = _table(folder, "catalogue.parquet", ITEMS)
        words = json.loads((folder / "vocabulary.json").read_bytes())
        genres = tuple(words["genres"])
        try:
            with np.load(folder / "clock.npz") as clock:
                arrays = {name: clock[name] for name in ItemClock.__slots__}
        except (OSError, ValueError, KeyError) as error:  # a pickle in it is a ValueError, and is not run
            raise ReleaseError(folder, "clock.npz", f"cannot be read ({error})") from error
        items = np.memmap(folder / "items.f16", np.float16, "c")
        try:
            recipe = read_recipe(folder / "recipe.npz")
        except RecipeFileError as error:
            raise ReleaseError(folder, "recipe.npz", f"cannot be read ({error})") from error
        width, item_count = manifest.width, manifest.item_count
        for file, found, expected in (
            ("catalogue.parquet", (len(frame), frame["item_id"].n_unique()), (item_count, item_count)),
            ("index.faiss", (index.item_count, index.width), (item_count, width)),
            ("items.f16", (len(items) % (2 * width), len(items) // (2 * width) >= item_count), (0, True)),
            ("recipe.npz", recipe.width, manifest.feature_count),
            ("content.faiss", (content_index.item_count, content_index.width), (item_count, recipe.content_width)),
            ("clock.npz", bool((arrays["key"] >> 32 < item_count).all()), True),
        ):
            if found != expected:
                raise ReleaseError(folder, file, f"does not go with {item_count} items {width} wide: found {found}, expected {expected}")
        moment = MomentVocabulary(*(Vocabulary(tuple(words[name])) for name in ("device", "region", "subscription_tier")))
        scalars = {name: value.item() for name, value in arrays.items() if value.ndim == 0}
        items = items.reshape(-1, 2 * width)
        catalogue = Catalogue(frame, Vocabulary(genres), room=len(items) - item_count)
        return cls(
            folder, manifest, catalogue, _table(folder, "users.parquet", USERS), items, index,
            ContentTable.open(folder, manifest, content_index, rows=len(items)), TagTable.open(folder, recipe, rows=len(items)),
            ItemClock(**arrays | scalars), moment, genres, recipe,
            contract.user_tower(width, len(MOMENT)), contract.item_tower(width, manifest.feature_count),
            contract.ranker(width, len(MOMENT), len(genres) + len(PROFILE), len(NUMBERS), len(manifest.heads)),
        )  # fmt: skip

    def add(self, items: pl.DataFrame, row_NW: np.ndarray) -> list[int]:
        """Take in posted items (columns of `POSTED`) with what the item tower made of them, fp16 (N, 2·D); their item rows.

        From when this returns they can be found by id and by vector, ranked and shown, in this process. An item that was posted before is
        replaced where it stands: a request in flight may meanwhile see some of the old and some of the new.

        Raises:
            NoRoom: the table is full; nothing was added.
            ValueError: rows of another shape, dtype or not finite, an id twice, or one of the sealed catalogue; nothing was added.
        """
        if row_NW.shape != (len(items), self.items.shape[1]) or row_NW.dtype != np.float16 or not np.isfinite(row_NW).all():
            raise ValueError(
                f"rows {row_NW.dtype} {row_NW.shape} for {len(items)} items; expected finite float16 {(len(items), self.items.shape[1])}"
            )
        item_ids = items["item_id"].to_list()
        if not item_ids:
            return []
        feature_NF = self.recipe.features(items.select(*ITEMS))
        content_NC = content_vectors(feature_NF, self.recipe)
        with self._adding:
            try:
                row_N = self.catalogue.place(item_ids)
            except CatalogueFull as error:
                raise NoRoom(self.path, "items.f16", str(error), MORE_ROOM) from error
            self.items[row_N] = row_NW
            self.catalogue.write(items, row_N)
            self.tag_IT.add(tags(feature_NF, self.recipe), row_N)
            self.content.add(content_NC, row_N)
            self.index.add(row_NW[:, self.manifest.width :], row_N)
            self.catalogue.tell(item_ids, row_N)
        return row_N.tolist()

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
