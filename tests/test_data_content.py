"""The content recipe: what an item's own columns say, in numbers."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from data.content import _WORD, NUMERIC, ContentRecipe, RecipeFileError, content_vectors, fit_content, read_recipe, texts, write_recipe
from data.features import Vocabulary
from data.schema import ITEMS, check_table


def items(**columns) -> pl.DataFrame:
    return check_table(pl.DataFrame({"item_id": ["a", "b", "c"]} | columns), ITEMS, table="items", source="a test")


def test_numbers_are_standardised_and_a_missing_one_is_nothing_and_said_so():
    table = items(avg_rating=[2.0, 4.0, None], release_date=[dt.date(2000, 1, 1), None, dt.date(2010, 1, 1)], maturity=[18, None, 9])
    numbers = fit_content(table).features(table)[:, -len(NUMERIC) :]
    of = {name: numbers[:, place] for place, name in enumerate(NUMERIC)}
    np.testing.assert_allclose(of["avg_rating"], [-(0.5**0.5), 0.5**0.5, 0], rtol=1e-6)
    assert of["has_avg_rating"].tolist() == [1, 1, 0] and of["has_year"].tolist() == [1, 0, 1]
    np.testing.assert_allclose(of["year"], [-(0.5**0.5), 0, 0.5**0.5], rtol=1e-6)
    assert of["maturity"].tolist() == [1, 0, 0.5] and not of["popularity_score"].any() and not of["has_popularity_score"].any()


def test_a_new_item_is_told_by_the_recipe_that_was_fitted_before_it():
    recipe = fit_content(items(genres=[["Drama"], ["Drama", "Crime"], []], title=["The Bus", "The Bus 2", "Car"]))
    one = recipe.features(items(genres=[["Crime"], ["Western"], None], title=["The Bus", None, "unheard of"]))
    assert one.shape == (3, recipe.width) and one[0, :2].tolist() == [1, 0] and not one[1, :2].any()


def test_a_recipe_is_read_as_it_was_written(tmp_path):
    table = items(
        genres=[["Drama"], ["Drama", "Krimi"], []], tags=[["слово"], [], None], title=["The Bus", "The Bus 2", "Car"],
        content_embedding=[[1.0, 2.0], None, [0.5, 0.0]], avg_rating=[2.0, 4.5, None],
    )  # fmt: skip
    recipe = fit_content(table)
    write_recipe(tmp_path / "recipe.npz", recipe)
    again = read_recipe(tmp_path / "recipe.npz")
    np.testing.assert_array_equal(again.features(table), recipe.features(table))
    assert again.genres == recipe.genres and again.tags == recipe.tags and again.mean == recipe.mean and again.width == recipe.width
    empty = fit_content(items())
    write_recipe(tmp_path / "empty.npz", empty)
    np.testing.assert_array_equal(read_recipe(tmp_path / "empty.npz").features(items()), empty.features(items()))


def test_a_recipe_that_is_not_whole_is_refused_by_name(tmp_path):
    path = tmp_path / "recipe.npz"
    with pytest.raises(RecipeFileError, match=r"recipe.npz"):
        read_recipe(path)
    write_recipe(path, fit_content(items(title=["a b", "a", "b"])))
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:kept])
        with pytest.raises(RecipeFileError, match=r"recipe.npz is no whole content recipe"):
            read_recipe(path)
    np.savez(path, idf_T=np.zeros(3))
    with pytest.raises(RecipeFileError, match="genres"):
        read_recipe(path)


@given(st.lists(st.text("abAB bé_-' 12", max_size=30), min_size=3, max_size=3))
def test_text_is_tf_idf_as_sklearn_counts_it_then_projected(titles):
    learned = items(title=["ab Ab a", "a é b 1", "b ab_ 12"], tags=[["a b"], ["a"], ["ab", "12"]])
    recipe = fit_content(learned)
    told = items(title=titles)
    text = recipe.features(told)[:, len(recipe.tags.words) : len(recipe.tags.words) + recipe.component_TS.shape[1]]
    vectorizer = TfidfVectorizer(vocabulary=list(recipe.term), token_pattern=_WORD, sublinear_tf=True)
    vectorizer.idf_ = recipe.idf_T
    np.testing.assert_allclose(text, vectorizer.transform(texts(told)) @ recipe.component_TS, atol=1e-6)


def test_a_server_that_encodes_does_not_carry_what_only_fitting_needs():
    code = "import sys, data.content; sys.exit(any(name in sys.modules for name in ('sklearn', 'scipy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def recipe_of(genres, tags, text, given):
    """A recipe with so many columns in each block."""
    words = (Vocabulary(tuple(f"{kind}{n}" for n in range(count))) for kind, count in (("g", genres), ("t", tags)))
    zeros = dict.fromkeys(("year", "popularity_score", "avg_rating"), 0.0)
    return ContentRecipe(*words, (), np.zeros(0), np.zeros((0, text), np.float32), given, zeros, zeros)


def test_likeness_in_content_is_the_mean_of_the_blocks_likenesses_however_wide_they_are_and_numbers_have_no_part():
    recipe = recipe_of(4, 2, 1, 0)
    numbers = np.arange(2 * len(NUMERIC)).reshape(2, -1)
    feature_IF = np.concatenate([[[1, 1, 1, 1, 2, 0, 5], [1, 0, 0, 0, 3, 3, -1]], numbers], axis=1)
    first, second = content_vectors(feature_IF, recipe)
    np.testing.assert_allclose([first @ second, first @ first, second @ second], [(0.5 + 0.5**0.5 - 1) / 3, 1, 1], rtol=1e-6)


def test_an_item_without_content_points_nowhere_and_one_without_a_block_loses_only_that():
    recipe = recipe_of(2, 2, 0, 0)
    numbers = np.ones((3, len(NUMERIC)))
    vector_IC = content_vectors(np.concatenate([[[0, 0, 0, 0], [3, 4, 0, 0], [3, 4, 0, 9]], numbers], axis=1), recipe)
    np.testing.assert_allclose(vector_IC, [[0, 0, 0, 0], [0.6, 0.8, 0, 0], np.array([0.6, 0.8, 0, 1]) / 2**0.5], rtol=1e-6)
    assert content_vectors(numbers, recipe_of(0, 0, 0, 0)).tolist() == [[0], [0], [0]]


def test_content_vectors_of_a_real_recipe_are_of_length_one_or_nothing():
    table = items(
        genres=[["Drama"], ["Drama", "Crime"], None], title=["The Bus", "The Bus 2", None], content_embedding=[[1.0, 2.0], None, None]
    )
    recipe = fit_content(table)
    vector_IC = content_vectors(recipe.features(table), recipe)
    np.testing.assert_allclose(np.linalg.norm(vector_IC, axis=1), [1, 1, 0], rtol=1e-6)
    assert vector_IC.dtype == np.float32 and vector_IC.shape == (3, recipe.width - len(NUMERIC))
