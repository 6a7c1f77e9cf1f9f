"""The natural band, and statistics block by block."""

import numpy as np
import pytest

from detector.features.statistics import by_block, natural_band
from models.errors import InputError


def test_band_by_hand() -> None:
    statistics = np.stack([np.arange(101.0), -np.arange(101.0)], axis=1).astype(np.float32)
    assert np.array_equal(natural_band(statistics), np.array([[5, -95], [50, -50], [95, -5]], dtype=np.float32))


def test_band_holds_nine_in_ten_of_each_column(rng: np.random.Generator) -> None:
    statistics = rng.gamma(2, size=(2000, 5)).astype(np.float32)
    low, _, high = natural_band(statistics)
    assert np.allclose(np.mean((statistics >= low) & (statistics <= high), axis=0), 0.9, atol=0.002)


@pytest.mark.parametrize("bad", [np.zeros((0, 4)), np.zeros(4), np.full((3, 2), np.nan)])
def test_band_refuses_arrays_without_quantiles(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="finite"):
        natural_band(bad)


def test_by_block_keeps_columns_of_a_block_together() -> None:
    statistics = np.arange(12).reshape(2, 6)
    assert by_block(statistics, 3)[1, 1].tolist() == [9, 10, 11]
    assert by_block(statistics, 2)[0, 2].tolist() == [4, 5]
    with pytest.raises(InputError, match="blocks of 4"):
        by_block(statistics, 4)
