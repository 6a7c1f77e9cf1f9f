"""Distances compared with NumPy, and projections compared with their definition."""

import numpy as np
import pytest
import torch

from attacks.common.norms import Norm, perturbation_norms, project, steepest, tolerance


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_sizes_are_numpys(generator: torch.Generator) -> None:
    natural, attacked = torch.rand(2, 5, 3, 4, 4, generator=generator)
    difference = (attacked.double() - natural.double()).flatten(1).numpy()
    linf, l2 = perturbation_norms(natural, attacked)
    np.testing.assert_allclose(linf.numpy(), np.linalg.norm(difference, ord=np.inf, axis=1), rtol=1e-12)
    np.testing.assert_allclose(l2.numpy(), np.linalg.norm(difference, ord=2, axis=1), rtol=1e-12)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("linf", 8 / 255), ("l2", 0.5), ("l2", 20.0)])
def test_projection_is_inside_and_keeps_points_inside(norm: Norm, epsilon: float, generator: torch.Generator) -> None:
    natural = torch.rand(8, 3, 16, 16, generator=generator)
    far = natural + torch.randn(8, 3, 16, 16, generator=generator)
    inside = project(far, natural, epsilon, norm)
    linf, l2 = perturbation_norms(natural, inside)
    assert (linf if norm == "linf" else l2).max() <= epsilon + tolerance(norm, 3 * 16 * 16)
    assert inside.min() >= 0
    assert inside.max() <= 1
    torch.testing.assert_close(project(inside, natural, epsilon, norm), inside, atol=1e-6, rtol=0)
    assert torch.equal(project(natural, natural, epsilon, norm), natural)


def test_steepest_direction_has_unit_size_and_raises_most(generator: torch.Generator) -> None:
    gradient = torch.randn(4, 3, 5, 5, generator=generator)
    linf, l2 = steepest(gradient, "linf"), steepest(gradient, "l2")
    assert torch.equal(linf, gradient.sign())
    torch.testing.assert_close(l2.flatten(1).norm(dim=1), torch.ones(4))
    torch.testing.assert_close((l2 * gradient).flatten(1).sum(1), gradient.flatten(1).norm(dim=1))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_steepest_direction_of_extreme_gradients(scale: float, generator: torch.Generator) -> None:
    gradient = scale * torch.randn(2, 3, 4, 4, generator=generator)
    for norm in ("linf", "l2"):
        direction = steepest(gradient, norm)
        assert torch.isfinite(direction).all()
        assert (direction == 0).all() == (scale == 0)
    if scale:
        torch.testing.assert_close(steepest(gradient, "l2").flatten(1).norm(dim=1), torch.ones(2))
