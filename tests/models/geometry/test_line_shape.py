"""Line-shape ratio and score, on paths worked by hand and on random ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.errors import InputError
from models.geometry.line_shape import line_shape


def path(*points: tuple[float, float]) -> list[Tensor]:
    """One image's path in the plane."""
    return [torch.tensor([point]) for point in points]


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


def test_segments_of_length_0_have_no_effect() -> None:
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
def test_ratio_and_score_are_at_least_1_and_invariant_to_similarity(
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


def test_line_shape_does_not_depend_on_the_batch(rng: np.random.Generator) -> None:
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
def test_points_without_a_path_are_refused(points: list[Tensor]) -> None:
    with pytest.raises(InputError, match="expected"):
        line_shape(points)
