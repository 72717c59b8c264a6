"""The content recipe: what an item's own columns say, in numbers."""

import datetime as dt

import numpy as np
import polars as pl

from data.content import NUMERIC, fit_content
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
