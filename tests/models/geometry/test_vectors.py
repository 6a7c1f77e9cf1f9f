"""Lengths, angles, projections and selected units."""

import math

import numpy as np
import pytest
import torch

from models.errors import InputError
from models.geometry.vectors import cosines, important_units, projected, relative_lengths, squared_lengths, variations


def test_transport_cost_is_the_sum_of_the_squared_lengths() -> None:
    residues = [torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0], [2.0]])]
    assert squared_lengths(residues).tolist() == [[25, 1], [0, 4]]


def test_relative_lengths_by_hand() -> None:
    found = relative_lengths([torch.tensor([[3.0, 4.0], [1.0, 0.0]])], [torch.tensor([[0.0, 10.0], [0.0, 0.0]])])
    assert found[0].tolist() == pytest.approx([0.5])
    assert math.isnan(found[1].item())


def test_the_sign_of_the_cosine_is_the_sign_of_the_change_of_loss() -> None:
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


def test_a_projection_keeps_lines_and_midpoints_and_is_the_seeds(rng: np.random.Generator, seed: int) -> None:
    start, end = torch.from_numpy(rng.normal(size=(2, 4, 3, 5))).float()
    found = projected([start, (start + end) / 2, end], seed)
    assert found.shape == (4, 3, 2)
    torch.testing.assert_close(found[:, 1], (found[:, 0] + found[:, 2]) / 2, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, projected([start, (start + end) / 2, end], seed))
    assert not torch.allclose(found, projected([start, (start + end) / 2, end], seed + 1))


def test_a_projection_keeps_lengths_on_average(seed: int) -> None:
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
