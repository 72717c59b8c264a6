"""An item's content as one vector of numbers, by a recipe fitted once and stored as plain arrays.

Columns, in order: genres (one each), the most frequent tags (one each), text of title, genres and tags (TF-IDF, then truncated SVD),
the given `content_embedding` where the items table has one, and `NUMERIC`.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from data.features import Vocabulary, multi_hot
from data.schema import SchemaError

SCALED = ("year", "popularity_score", "avg_rating")
"""Numbers that are standardised by the items table itself, 0 where one is missing; beside each stands whether it is there."""
NUMERIC = (*(f"{word}{name}" for name in SCALED for word in ("", "has_")), "log_duration", "has_duration", "maturity")
_WORD = r"(?u)\b\w+\b"


class RecipeFileError(ValueError):
    """A file holds no whole recipe. The message names the file, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class ContentRecipe:
    """The fitted recipe. `component_TS` maps TF-IDF terms to text columns; `embedding_width` is 0 where none is given; `mean` and `std` are
    those of `SCALED`."""

    genres: Vocabulary
    tags: Vocabulary
    term: tuple[str, ...]
    idf_T: np.ndarray
    component_TS: np.ndarray
    embedding_width: int
    mean: Mapping[str, float]
    std: Mapping[str, float]

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """How many columns genres, tags, text and the given embedding have, in this order; `NUMERIC` follows them."""
        return len(self.genres.words), len(self.tags.words), self.component_TS.shape[1], self.embedding_width

    @property
    def content_width(self) -> int:
        """C, the number of columns that `content_vectors` returns."""
        return max(sum(self.blocks), 1)

    @property
    def width(self) -> int:
        """F, the number of columns that `features` returns."""
        return sum(self.blocks) + len(NUMERIC)

    def features(self, items: pl.DataFrame) -> np.ndarray:
        """float32 (rows of `items`, F).

        Raises:
            SchemaError: a content embedding of another width than the one fitted, named by item.
        """
        return np.concatenate(
            [
                multi_hot(items["genres"], self.genres),
                multi_hot(items["tags"], self.tags),
                self._text(items),
                self._given(items),
                self._numeric(items),
            ],
            axis=1,
        )

    def _text(self, items: pl.DataFrame) -> np.ndarray:
        """(1 + ln count)·idf of the known terms, at length one, then projected: sklearn's `transform` in numpy's words, so that a server
        that encodes a new item does not carry sklearn (150 MB)."""
        text_NS = np.zeros((len(items), self.component_TS.shape[1]), np.float32)
        row_of = {term: row for row, term in enumerate(self.term)}
        for place, text in enumerate(texts(items) if self.term else ()):
            count = Counter(row_of[word] for word in re.findall(_WORD, text.lower()) if word in row_of)
            if count:
                term_W = np.fromiter(count, np.int64, len(count))
                weight_W = (1 + np.log(np.fromiter(count.values(), np.float64, len(count)))) * self.idf_T[term_W]
                text_NS[place] = weight_W / np.linalg.norm(weight_W) @ self.component_TS[term_W]
        return text_NS

    def _given(self, items: pl.DataFrame) -> np.ndarray:
        if not self.embedding_width:
            return np.zeros((len(items), 0), np.float32)
        width = items["content_embedding"].list.len().fill_null(self.embedding_width)
        if (wrong := width != self.embedding_width).any():
            row = int(wrong.arg_true()[0])
            raise SchemaError(
                f"items, column 'content_embedding', item {items['item_id'][row]!r}: {width[row]} numbers, expected {self.embedding_width}"
            )
        zero = pl.lit([0.0] * self.embedding_width, pl.List(pl.Float32))
        filled = items.select(pl.col("content_embedding").fill_null(zero)).to_series().explode().to_numpy()
        vector_IE = filled.reshape(len(items), self.embedding_width).astype(np.float32)
        return vector_IE / np.maximum(np.linalg.norm(vector_IE, axis=1, keepdims=True), 1e-12)

    def _numeric(self, items: pl.DataFrame) -> np.ndarray:
        duration = items["duration_seconds"].cast(pl.Float64)
        scaled = []
        for name, number in _scaled(items).items():
            scaled += [((number - self.mean[name]) / self.std[name]).fill_null(0.0), number.is_not_null()]
        columns = (
            *scaled,
            (duration.log1p() / 10).fill_null(0.0),
            duration.is_not_null(),
            (items["maturity"].cast(pl.Float64) / 18).fill_null(0.0),
        )
        return np.stack([column.cast(pl.Float32).to_numpy() for column in columns], axis=1)


def content_vectors(feature_IF: np.ndarray, recipe: ContentRecipe) -> np.ndarray:
    """What items are made of as directions, float32 (I, C), from what `recipe.features` says of them.

    Each block (genres, tags, text, given embedding) is brought to length one, then all of them side by side: between two items that have
    every block, the cosine is the mean of the blocks' cosines, however many columns a block has. A block that an item lacks resembles
    nothing, and an item without any content is the zero vector. Numbers are left out: a year is no direction. C is at least 1.
    """
    ends = np.cumsum(recipe.blocks)
    parts = np.split(feature_IF[:, : ends[-1]].astype(np.float32), ends[:-1], axis=1)
    vector_IC = np.concatenate([_unit(part) for part in parts], axis=1)
    return _unit(vector_IC) if vector_IC.shape[1] else np.zeros((len(feature_IF), 1), np.float32)


def _unit(vector_IC: np.ndarray) -> np.ndarray:
    length_I1 = np.linalg.norm(vector_IC, axis=1, keepdims=True)
    return np.divide(vector_IC, length_I1, out=np.zeros_like(vector_IC), where=length_I1 > 1e-6)


def _scaled(items: pl.DataFrame) -> dict[str, pl.Series]:
    year = items["release_date"].dt.year().cast(pl.Float64)
    return {"year": year} | {name: items[name].cast(pl.Float64) for name in SCALED[1:]}


def texts(items: pl.DataFrame) -> list[str]:
    """What there is to read of each item: title, genres and tags, one line each."""
    words = [pl.col("title").fill_null("")] + [pl.col(name).list.join(" ").fill_null("") for name in ("genres", "tags")]
    return items.select(pl.concat_str(words, separator=" ")).to_series().to_list()


def fit_content(items: pl.DataFrame, *, text_width: int = 64, tags: int = 128, seed: int = 0) -> ContentRecipe:
    """Fit the recipe on the items table: it holds no event, so no event of the future can reach it.

    `text_width` is lowered to what the vocabulary carries; ids without titles, genres or tags have no text columns.
    """
    from sklearn.decomposition import TruncatedSVD  # who only reads a recipe does without
    from sklearn.feature_extraction.text import TfidfVectorizer

    corpus = texts(items)
    term, idf_T, component_TS = (), np.zeros(0), np.zeros((0, 0), np.float32)
    if text_width and any(text.strip() for text in corpus):
        vectorizer = TfidfVectorizer(token_pattern=_WORD, sublinear_tf=True, min_df=min(2, len(items)))
        try:
            weight_IT = vectorizer.fit_transform(corpus)
        except ValueError:  # sklearn's word for: no term stands in two items
            weight_IT = None
        if weight_IT is not None and weight_IT.shape[1] > 1:
            svd = TruncatedSVD(min(text_width, weight_IT.shape[1] - 1), random_state=seed).fit(weight_IT)
            term, idf_T, component_TS = tuple(vectorizer.get_feature_names_out()), vectorizer.idf_, svd.components_.T.astype(np.float32)
    width = items["content_embedding"].list.len().max()
    tag_counts = items["tags"].explode().drop_nulls().value_counts(sort=True).sort(["count", "tags"], descending=[True, False])
    return ContentRecipe(
        genres=Vocabulary.of(items["genres"].explode().drop_nulls().to_list()),
        tags=Vocabulary.of(tag_counts["tags"].head(tags).to_list()),
        term=term,
        idf_T=idf_T,
        component_TS=component_TS,
        embedding_width=int(width or 0),
        mean={name: float(number.mean() or 0.0) for name, number in _scaled(items).items()},
        std={name: float(number.std() or 1.0) for name, number in _scaled(items).items()},
    )


def write_recipe(path: Path, recipe: ContentRecipe) -> None:
    """Write a recipe as one .npz of plain arrays, which `read_recipe` reads; nothing in it is pickled."""
    np.savez(
        path, genres=np.array(recipe.genres.words, np.str_), tags=np.array(recipe.tags.words, np.str_), term=np.array(recipe.term, np.str_),
        idf_T=recipe.idf_T, component_TS=recipe.component_TS, embedding_width=recipe.embedding_width,
        mean=[recipe.mean[name] for name in SCALED], std=[recipe.std[name] for name in SCALED],
    )  # fmt: skip


def read_recipe(path: Path) -> ContentRecipe:
    """Read what `write_recipe` wrote: it gives the same features, bit for bit.

    Raises:
        RecipeFileError: the file is missing, cut short or of another version of this program.
    """
    try:
        with np.load(path) as told:
            return ContentRecipe(
                genres=Vocabulary(tuple(told["genres"].tolist())),
                tags=Vocabulary(tuple(told["tags"].tolist())),
                term=tuple(told["term"].tolist()),
                idf_T=told["idf_T"],
                component_TS=told["component_TS"],
                embedding_width=int(told["embedding_width"]),
                mean=dict(zip(SCALED, told["mean"].tolist(), strict=True)),
                std=dict(zip(SCALED, told["std"].tolist(), strict=True)),
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RecipeFileError(f"{path} is no whole content recipe ({error}); train the run again and export it") from error
