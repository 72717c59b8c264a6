"""Rows of length one, of halves as of floats."""

import numpy as np
import pytest

from serve.likeness import _from_half, unit


def test_every_finite_half_is_the_float_that_a_cast_gives():
    half = np.arange(65536, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)].reshape(-1, 8)
    assert (_from_half(half).view(np.uint32) == half.astype(np.float32).view(np.uint32)).all()  # signs of zeros and subnormals included


def test_a_view_of_a_wider_table_is_read_as_its_copy():
    table = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float16)
    assert (unit(table[::2, 8:]) == unit(table[::2, 8:].copy())).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_have_length_one_and_zeros_stay(dtype):
    vectors = np.array([[3, 4], [0, 0], [-60000, 0], [0, 6e-8]], dtype)
    np.testing.assert_allclose(unit(vectors), [[0.6, 0.8], [0, 0], [-1, 0], [0, 1]], atol=1e-6)
    assert vectors[0].tolist() == [3, 4]  # the argument is left alone


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_refuses_what_is_not_finite(dtype, number):
    with pytest.raises(ValueError, match="finite"):
        unit(np.array([[1, 2], [number, 0]], dtype))
