"""The content recipe: what an item's own columns say, in numbers."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from data.content import NUMERIC, RecipeFileError, fit_content, read_recipe, write_recipe
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
