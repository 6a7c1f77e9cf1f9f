import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from torch import Tensor

from models.errors import InputError
from models.geometry.transport import (
    cosines,
    important_units,
    line_shape,
    optimal_transport,
    projected,
    relative_lengths,
    squared_distances,
    squared_lengths,
    variations,
)


def path(*points: tuple[float, float]) -> list[Tensor]:
    """One image's path in the plane."""
    return [torch.tensor([point]) for point in points]


# --- line shape


def test_a_straight_path_has_ratio_and_score_1() -> None:
    found = line_shape(path((0.0, 0.0), (1.0, 2.0), (4.0, 8.0), (5.0, 10.0)))
    assert found.ratio.item() == pytest.approx(1)
    assert found.score.item() == pytest.approx(1)
    assert found.shares[0].tolist() == pytest.approx([0.2, 0.6, 0.2])


def test_a_right_angle_by_hand() -> None:
    # Legs 3 and 4: 7 / 5; with legs of length 1, 2 / √2.
    found = line_shape(path((0.0, 0.0), (3.0, 0.0), (3.0, 4.0)))
    assert found.lengths[0].tolist() == pytest.approx([3, 4])
    assert found.ratio.item() == pytest.approx(7 / 5)
    assert found.score.item() == pytest.approx(math.sqrt(2))
    assert found.shares[0].tolist() == pytest.approx([3 / 7, 4 / 7])


def test_one_long_segment_hides_a_zigzag_from_the_ratio_but_not_from_the_score() -> None:
    # Up, down, and a long way along: the ratio is 1002 / 1000, the score 3 / 1.
    found = line_shape(path((0.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1000.0, 0.0)))
    assert found.ratio.item() == pytest.approx(1.002)
    assert found.score.item() == pytest.approx(3)


def test_segments_of_length_0_count_for_nothing() -> None:
    with_rest = line_shape(path((0.0, 0.0), (3.0, 0.0), (3.0, 0.0), (3.0, 4.0)))
    without = line_shape(path((0.0, 0.0), (3.0, 0.0), (3.0, 4.0)))
    assert with_rest.ratio.item() == without.ratio.item()
    assert with_rest.score.item() == without.score.item()
    assert with_rest.shares[0].tolist() == pytest.approx([3 / 7, 0, 4 / 7])


def test_a_path_that_returns_or_never_leaves_has_no_shape() -> None:
    returning = line_shape(path((0.0, 0.0), (1.0, 0.1), (0.0, 0.0)))
    assert math.isnan(returning.ratio.item())
    assert math.isnan(returning.score.item())
    assert returning.shares[0].tolist() == pytest.approx([0.5, 0.5])
    resting = line_shape(path((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)))
    assert math.isnan(resting.ratio.item())
    assert math.isnan(resting.score.item())
    assert resting.shares.isnan().all()


@given(st.integers(0, 2**31 - 1), st.integers(1, 6), st.integers(2, 30), st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_ratio_and_score_are_at_least_1_and_know_no_scale_place_direction_or_layout(
    number: int, segments: int, size: int, factor: float
) -> None:
    points = list(torch.randn(segments + 1, 3, size, generator=torch.Generator().manual_seed(number)).double())
    found = line_shape(points)
    assert (found.ratio >= 1 - 1e-9).all()
    assert (found.score >= 1 - 1e-9).all()
    torch.testing.assert_close(found.shares.sum(dim=1), torch.ones(3, dtype=torch.float64))
    for other in (
        [factor * point + 1 for point in points],
        list(reversed(points)),
        [point.flip(1) for point in points],
        [point.reshape(3, size, 1) for point in points],
    ):
        again = line_shape(other)
        torch.testing.assert_close(again.ratio, found.ratio, rtol=1e-6, atol=0)
        torch.testing.assert_close(again.score, found.score, rtol=1e-6, atol=0)


def test_an_image_alone_has_the_shape_it_has_among_others(rng: np.random.Generator) -> None:
    points = [torch.from_numpy(rng.normal(size=(5, 2, 3))) for _ in range(4)]
    whole, alone = line_shape(points), line_shape([point[2:3] for point in points])
    torch.testing.assert_close(alone.ratio[0], whole.ratio[2])
    torch.testing.assert_close(alone.score[0], whole.score[2])


@pytest.mark.parametrize(
    "points",
    [
        [torch.zeros(2, 3)],
        [torch.zeros(2, 3), torch.zeros(2, 4)],
        [torch.zeros(0, 3), torch.zeros(0, 3)],
        [torch.zeros(2, 3), torch.tensor([[0.0, math.nan, 0.0], [0.0, 0.0, 0.0]])],
    ],
)
def test_points_that_make_no_path_are_refused(points: list[Tensor]) -> None:
    with pytest.raises(InputError, match="expected"):
        line_shape(points)


# --- lengths and directions


def test_transport_cost_is_the_sum_of_the_squared_lengths() -> None:
    residues = [torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0], [2.0]])]
    assert squared_lengths(residues).tolist() == [[25, 1], [0, 4]]


def test_relative_lengths_by_hand() -> None:
    found = relative_lengths([torch.tensor([[3.0, 4.0], [1.0, 0.0]])], [torch.tensor([[0.0, 10.0], [0.0, 0.0]])])
    assert found[0].tolist() == pytest.approx([0.5])
    assert math.isnan(found[1].item())


def test_the_cosines_sign_tells_going_down_from_going_up() -> None:
    gradient = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    residues = torch.tensor([[-2.0, 0.0], [3.0, 3.0], [0.0, 1.0], [0.0, 0.0]])
    found = cosines([residues], [gradient])[:, 0]
    assert found[:3].tolist() == pytest.approx([-1, math.sqrt(0.5), 0])
    assert found[3].isnan()


def test_the_variation_of_a_linear_map_is_that_of_its_input(rng: np.random.Generator) -> None:
    # A rotation and a scale change no relative length: ‖A(x + e) − Ax‖ / ‖Ax‖ = ‖e‖ / ‖x‖.
    x = torch.from_numpy(rng.normal(size=(6, 5)))
    e = torch.from_numpy(rng.normal(size=(6, 5)))
    rotation, _ = torch.linalg.qr(torch.from_numpy(rng.normal(size=(5, 5))))
    expected = e.norm(dim=1) / x.norm(dim=1)
    found = variations([x, 3 * x @ rotation], [x + e, 3 * (x + e) @ rotation])
    torch.testing.assert_close(found, torch.stack([expected, expected], dim=1))


# --- transport


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


def test_points_that_change_places_could_have_stayed() -> None:
    start = torch.tensor([[0.0], [1.0], [5.0]])
    found = optimal_transport(start, start[[1, 0, 2]])
    assert found.score == pytest.approx(1 / 3)
    assert found.wasserstein == 0
    assert found.displacement == pytest.approx(math.sqrt(2 / 3))


def test_equal_points_may_be_exchanged_for_nothing() -> None:
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


# --- projections and units


def test_a_projection_keeps_lines_and_midpoints_and_is_the_seeds(rng: np.random.Generator, seed: int) -> None:
    start, end = torch.from_numpy(rng.normal(size=(2, 4, 3, 5))).float()
    found = projected([start, (start + end) / 2, end], seed)
    assert found.shape == (4, 3, 2)
    torch.testing.assert_close(found[:, 1], (found[:, 0] + found[:, 2]) / 2, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, projected([start, (start + end) / 2, end], seed))
    assert not torch.allclose(found, projected([start, (start + end) / 2, end], seed + 1))


def test_a_projection_keeps_lengths_in_the_mean(seed: int) -> None:
    point = torch.ones(1, 8) / math.sqrt(8)
    lengths = [projected([point], 1000 * seed + number).square().sum().item() for number in range(800)]
    assert np.mean(lengths) == pytest.approx(1, abs=0.2)  # five standard errors


def test_important_units_are_each_classes_highest() -> None:
    means = torch.tensor([[1.0, 5.0, 3.0, -2.0], [0.0, 0.0, -1.0, 0.0]])
    assert important_units(means, 2).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert not important_units(means, 0).any()
    assert important_units(means, 4).all()
    with pytest.raises(InputError, match="0 to 4"):
        important_units(means, 5)
