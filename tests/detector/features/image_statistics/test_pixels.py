"""Pixel statistics: against hand-worked images, numpy, and stored numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.features.image_statistics import PIXEL_NAMES, pixel_statistics
from models.errors import InputError
from tests.detector.patterns import patterned_images


def named(images: Tensor) -> dict[str, np.ndarray]:
    return dict(zip(PIXEL_NAMES, pixel_statistics(images).numpy().T, strict=True))


def test_a_checkerboard_by_hand() -> None:
    board = (torch.arange(4)[:, None] + torch.arange(5)) % 2
    values_by_name = named(board.float().expand(1, 3, 4, 5))
    assert (
        values_by_name["share_of_zeros"]
        == values_by_name["share_of_ones"]
        == values_by_name["red_mean"]
        == values_by_name["blue_std"]
        == 0.5
    )
    assert values_by_name["green_minimum"] == 0
    assert values_by_name["green_maximum"] == 1
    assert values_by_name["distinct_values"] == 2
    assert values_by_name["grid_distance_maximum"] == values_by_name["grid_distance_mean"] == 0
    assert values_by_name["total_variation"] == 2  # every neighbour differs by 1, downwards and sideways
    assert values_by_name["high_frequency_energy"] == 16  # four times the value less its neighbours: 4 or -4


def test_channels_are_distinguished() -> None:
    colour = torch.tensor([0.2, 0.4, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 6, 6)
    values_by_name = named(colour)
    assert [values_by_name[f"{channel}_mean"].item() for channel in ("red", "green", "blue")] == pytest.approx(
        [0.2, 0.4, 1]
    )
    assert values_by_name["share_of_ones"] == pytest.approx(1 / 3)
    assert values_by_name["distinct_values"] == 3
    assert (
        values_by_name["total_variation"] == values_by_name["high_frequency_energy"] == values_by_name["red_std"] == 0
    )


def test_distance_from_the_grid() -> None:
    levels = torch.arange(243.0).double().reshape(1, 3, 9, 9)
    off = levels.clone()
    off[0, 0, 0, :] += 0.25
    values_by_name = named((off / 255).float())
    assert values_by_name["grid_distance_maximum"] == pytest.approx(0.25, abs=1e-4)
    assert values_by_name["grid_distance_mean"] == pytest.approx(0.25 * 9 / 243, abs=1e-5)
    assert values_by_name["distinct_values"] == 243


@pytest.mark.parametrize("how", ["divided", "multiplied"])
def test_the_grid_is_the_grid_however_it_was_reached(how: str) -> None:
    levels = torch.arange(256.0).repeat(3).reshape(1, 3, 16, 16)
    images = levels / 255 if how == "divided" else levels * torch.tensor(1 / 255)
    values_by_name = named(images)
    assert values_by_name["grid_distance_maximum"] == 0
    assert values_by_name["distinct_values"] == 256


def test_rounding_to_eight_bits_leaves_no_distance(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.random((10, 3, 12, 12))).float()
    assert (named(images)["grid_distance_maximum"] > 0.4).all()
    assert not named((images * 255).round() / 255)["grid_distance_maximum"].any()


def test_as_numpy(rng: np.random.Generator) -> None:
    images = rng.random((5, 3, 9, 14)).astype(np.float32)
    values_by_name = named(torch.from_numpy(images))
    values = images.astype(np.float64)
    for number, channel in enumerate(("red", "green", "blue")):
        for what, function in (("minimum", np.min), ("maximum", np.max), ("mean", np.mean), ("std", np.std)):
            assert np.allclose(values_by_name[f"{channel}_{what}"], function(values[:, number], axis=(1, 2)), rtol=1e-6)
    vertical, horizontal = (np.abs(np.diff(values, axis=axis)).mean(axis=(1, 2, 3)) for axis in (2, 3))
    assert np.allclose(values_by_name["total_variation"], vertical + horizontal, rtol=1e-6)
    around = values[:, :, :-2, 1:-1] + values[:, :, 2:, 1:-1] + values[:, :, 1:-1, :-2] + values[:, :, 1:-1, 2:]
    laplacian = 4 * values[:, :, 1:-1, 1:-1] - around
    assert np.allclose(values_by_name["high_frequency_energy"], (laplacian**2).mean(axis=(1, 2, 3)), rtol=1e-6)
    distance = np.abs(255 * values - np.rint(255 * values))
    assert np.allclose(values_by_name["grid_distance_mean"], distance.mean(axis=(1, 2, 3)), atol=1e-4)


def test_tiny_images_have_no_neighbours() -> None:
    values_by_name = named(torch.full((2, 3, 1, 1), 0.5))
    assert not values_by_name["total_variation"].any()
    assert not values_by_name["high_frequency_energy"].any()
    assert (values_by_name["distinct_values"] == 1).all()


def test_neighbours_in_the_batch_change_no_bit(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.random((9, 3, 13, 11))).float()
    together = pixel_statistics(images)
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat([pixel_statistics(image[None]) for image in images]))
    assert torch.equal(together, pixel_statistics(images.flip(0)).flip(0))
    assert pixel_statistics(images[:0]).shape == (0, len(PIXEL_NAMES))


def test_invalid_images_are_refused() -> None:
    with pytest.raises(InputError, match="expected float32 images"):
        pixel_statistics(torch.zeros(2, 4, 8, 8))


def test_values_equal_stored_values() -> None:
    """Numbers of this implementation, stored when it agreed with numpy as above."""
    assert np.allclose(pixel_statistics(patterned_images()).numpy(), STORED, rtol=1e-6)


STORED = [
    [
        0,
        0.992156863,
        0.507625282,
        0.300765604,
        0.00392156886,
        0.996078432,
        0.461873651,
        0.294692695,
        0,
        0.996078432,
        0.483050108,
        0.280751079,
        0.00370370364,
        0,
        0,
        0,
        220,
        0.692284167,
        2.03257728,
    ],
    [
        0,
        1,
        0.575045943,
        0.251206964,
        0.0911764726,
        1,
        0.540611744,
        0.233641535,
        0.102573529,
        1,
        0.557536781,
        0.216660678,
        0.00185185182,
        0.0185185187,
        0.248031929,
        0.5,
        494,
        0.51997304,
        1.14081097,
    ],
]
