"""The exact assignment and W2 between two clouds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from models.errors import InputError
from models.geometry.optimal_transport import optimal_transport, squared_distances


def test_a_translation_is_optimal_and_w2_is_its_length(rng: np.random.Generator) -> None:
    start = torch.from_numpy(rng.normal(size=(40, 3))).float()
    found = optimal_transport(start, start + torch.tensor([3.0, 0.0, 4.0]))
    assert found.score == 1
    assert found.wasserstein == pytest.approx(5, rel=1e-5)
    assert found.displacement == pytest.approx(5, rel=1e-5)


def test_a_shuffled_translation_is_optimal_only_where_it_was_not_shuffled(rng: np.random.Generator) -> None:
    start = torch.from_numpy(10 * rng.permutation(12).astype(np.float64)).unsqueeze(1)
    order = torch.arange(12)
    order[[1, 4, 7]] = order[[4, 7, 1]]
    end = (start + 1)[order]
    found = optimal_transport(start, end)
    assert found.score == pytest.approx(9 / 12)
    assert found.wasserstein == pytest.approx(1)
    assert found.displacement == pytest.approx(math.sqrt(float((end - start).square().mean())))
    assert found.displacement > found.wasserstein


def test_the_optimal_map_of_exchanged_points_is_the_identity() -> None:
    start = torch.tensor([[0.0], [1.0], [5.0]])
    found = optimal_transport(start, start[[1, 0, 2]])
    assert found.score == pytest.approx(1 / 3)
    assert found.wasserstein == 0
    assert found.displacement == pytest.approx(math.sqrt(2 / 3))


def test_exchanged_equal_points_have_no_cost() -> None:
    start = torch.tensor([[2.0, 1.0]]).repeat(5, 1)
    assert optimal_transport(start, start + 1).score == 1
    assert optimal_transport(start, start) == (1.0, 0.0, 0.0)


def test_in_one_dimension_w2_is_that_of_the_sorted_points_and_bounds_w1(rng: np.random.Generator) -> None:
    start, end = rng.normal(size=30), rng.normal(loc=0.5, scale=2, size=30)
    found = optimal_transport(torch.from_numpy(start).unsqueeze(1), torch.from_numpy(end).unsqueeze(1))
    assert found.wasserstein == pytest.approx(math.sqrt(np.mean((np.sort(start) - np.sort(end)) ** 2)))
    assert found.wasserstein >= wasserstein_distance(start, end) - 1e-9
    assert found.displacement == pytest.approx(math.sqrt(np.mean((start - end) ** 2)))


@given(st.integers(0, 2**31 - 1), st.integers(1, 25), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_no_network_moves_its_points_less_than_w2(number: int, count: int, size: int) -> None:
    start, end = torch.randn(2, count, size, generator=torch.Generator().manual_seed(number))
    found = optimal_transport(start, end)
    assert 0 <= found.score <= 1
    assert found.wasserstein <= found.displacement
    back = optimal_transport(end, start)
    assert back.wasserstein == pytest.approx(found.wasserstein, rel=1e-9)


def test_squared_distances_far_from_zero_keep_their_digits(rng: np.random.Generator) -> None:
    # Over several slices of columns, and around a point a million times as far away as the cloud is wide.
    start, end = rng.normal(size=(4, 40_000)), rng.normal(size=(3, 40_000))
    found = squared_distances(torch.from_numpy(start + 1e6), torch.from_numpy(end + 1e6))
    np.testing.assert_allclose(found, cdist(start, end, "sqeuclidean"), rtol=1e-8)


def test_clouds_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="of one shape"):
        optimal_transport(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(InputError, match="NaN"):
        optimal_transport(torch.zeros(3, 2), torch.full((3, 2), math.nan))
