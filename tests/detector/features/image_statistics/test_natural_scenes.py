"""Natural scene statistics: against closed forms, a plain double loop, another implementation, and stored numbers."""

import importlib
import math

import numpy as np
import pytest
import torch
from scipy.special import gamma
from torch import Tensor

from detector.features.image_statistics import NSS_NAMES, nss
from detector.features.image_statistics.natural_scenes import fit_aggd, fit_ggd, luminance, mscn, neighbour_products
from models.errors import InputError
from tests.detector.patterns import patterned_images

SAMPLES = 200_000


def ggd(rng: np.random.Generator, shape: float, scale: float, count: int = SAMPLES) -> np.ndarray:
    """Magnitudes with the density proportional to exp(−(x / scale)^shape), x ≥ 0."""
    return scale * rng.gamma(1 / shape, size=count) ** (1 / shape)


def of_column(features: Tensor, name: str) -> Tensor:
    return features[:, NSS_NAMES.index(name)]


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 5.0])
def test_ggd_shape_and_variance_are_recovered(rng: np.random.Generator, shape: float) -> None:
    signs = rng.choice([-1.0, 1.0], size=SAMPLES)
    found, variance = fit_ggd(torch.from_numpy(signs * ggd(rng, shape, 3.0))[None])
    assert found.item() == pytest.approx(shape, rel=0.08)
    assert variance.item() == pytest.approx(9 * gamma(3 / shape) / gamma(1 / shape), rel=0.08)


@pytest.mark.parametrize(("shape", "left", "right"), [(0.8, 1.0, 2.0), (1.0, 3.0, 1.0), (2.0, 1.0, 1.0)])
def test_aggd_parameters_are_recovered(rng: np.random.Generator, shape: float, left: float, right: float) -> None:
    on_left = rng.random(SAMPLES) < left / (left + right)
    values = np.where(on_left, -ggd(rng, shape, left), ggd(rng, shape, right))
    found, mean, low, high = (number.item() for number in fit_aggd(torch.from_numpy(values)[None]))
    spread = gamma(3 / shape) / gamma(1 / shape)
    assert found == pytest.approx(shape, rel=0.08)
    assert low == pytest.approx(left**2 * spread, rel=0.1)
    assert high == pytest.approx(right**2 * spread, rel=0.1)
    assert mean == pytest.approx((right - left) * gamma(2 / shape) / gamma(1 / shape), abs=0.1 * max(left, right))
    assert mean == pytest.approx(values.mean(), abs=0.1 * max(left, right))


def test_exact_moments_give_the_exact_shape() -> None:
    """Values of ±1 and 0 with E|x|² / E x² = 1/2, the ratio of Laplace; and the mirror image swaps the sides."""
    shape, variance = fit_ggd(torch.tensor([[1.0, -1.0, 0.0, 0.0]], dtype=torch.float64))
    assert shape.item() == pytest.approx(1, abs=1e-12)
    assert variance.item() == 0.5
    gauss = math.sqrt(2 / math.pi)  # E|x| of the unit Gaussian; E x² = 1 by a second magnitude
    spread = math.sqrt(1 - gauss**2)
    values = torch.tensor([[gauss + spread, -gauss - spread, gauss - spread, spread - gauss]], dtype=torch.float64)
    assert fit_ggd(values)[0].item() == pytest.approx(2, abs=1e-9)


def test_symmetric_values_have_equal_sides(rng: np.random.Generator) -> None:
    half = torch.from_numpy(rng.normal(size=(3, 500)))
    shape, mean, left, right = fit_aggd(torch.cat([half, -half], dim=1))
    assert torch.allclose(left, right, rtol=1e-12)
    assert mean.abs().max() < 1e-12
    # With equal sides the asymmetric fit is the symmetric one.
    assert torch.allclose(shape, fit_ggd(half)[0], rtol=1e-9)


def test_mirrored_values_swap_sides(rng: np.random.Generator) -> None:
    values = torch.from_numpy(rng.gamma(2, size=(4, 300)) - 1)
    shape, mean, left, right = fit_aggd(values)
    mirrored = fit_aggd(-values)
    for got, wanted in zip(mirrored, (shape, -mean, right, left), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-12)


def test_one_sided_values() -> None:
    shape, mean, left, right = fit_aggd(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    assert left.item() == 0
    assert right.item() == pytest.approx(14 / 3)
    assert mean.item() > 0
    assert 0.2 <= shape.item() <= 10


def test_mscn_is_the_formula_in_a_double_loop(rng: np.random.Generator) -> None:
    grey = rng.uniform(0, 255, size=(9, 12))
    offsets = range(-3, 4)
    weights = {(k, m): math.exp(-(k * k + m * m) / (2 * (7 / 6) ** 2)) for k in offsets for m in offsets}
    total = sum(weights.values())

    def at(i: int, j: int) -> float:
        return float(grey[i, j]) if 0 <= i < 9 and 0 <= j < 12 else 0.0

    wanted = np.empty_like(grey)
    for i in range(9):
        for j in range(12):
            mean = sum(w * at(i + k, j + m) for (k, m), w in weights.items()) / total
            variance = sum(w * (at(i + k, j + m) - mean) ** 2 for (k, m), w in weights.items()) / total
            wanted[i, j] = (grey[i, j] - mean) / (math.sqrt(variance) + 1)
    assert np.allclose(mscn(torch.from_numpy(grey)[None])[0].numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_neighbours_in_four_directions() -> None:
    coefficients = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 7.0, 11.0], [13.0, 17.0, 19.0]]], dtype=torch.float64)
    middle = [products[0, 1, 1].item() for products in neighbour_products(coefficients)]
    # 7 by the value on its left, above it, above on the left, and below on the left.
    assert middle == [35, 14, 7, 91]
    assert neighbour_products(coefficients)[0][0, 0, 0] == 3  # the left neighbour of the first is the row's last


def test_luminance_weights() -> None:
    colours = torch.eye(3).reshape(3, 3, 1, 1)
    assert torch.allclose(luminance(colours).flatten(), 255 * torch.tensor([0.299, 0.587, 0.114]).double())
    assert luminance(torch.ones(1, 3, 1, 1)).item() == pytest.approx(255)


def test_as_another_implementation(rng: np.random.Generator) -> None:
    """piq 0.8 on one scale of the same luminance; its shapes come from a table in steps of 0.001.

    Half a step changes a mean by as much as the mean depends on the shape, which is below 1e-3 here.
    """
    reference = importlib.import_module("piq.brisque")  # `from piq import brisque` is the function of that name
    coarse = torch.from_numpy(rng.random((8, 3, 6, 6)))
    images = torch.nn.functional.interpolate(coarse, size=(30, 37), mode="bicubic").clamp(0, 1)
    images = (images + 0.05 * torch.from_numpy(rng.normal(size=images.shape))).clamp(0, 1).float()
    wanted = reference._natural_scene_statistics(luminance(images)[:, None])
    got = nss(images).double()
    shapes = [column for column, name in enumerate(NSS_NAMES) if name.endswith("shape")]
    variances = [column for column, name in enumerate(NSS_NAMES) if name.endswith("variance")]
    assert (got - wanted)[:, shapes].abs().max() < 6e-4
    assert torch.allclose(got[:, variances], wanted[:, variances], rtol=1e-5)
    assert torch.allclose(got, wanted, atol=1e-3)


def test_noise_makes_the_coefficients_gaussian(rng: np.random.Generator) -> None:
    """The detector relies on this: noise increases the shape and the variance of the coefficients."""
    edges = torch.from_numpy(np.kron(rng.random((20, 3, 4, 4)), np.ones((8, 8)))).float()
    noise = 0.1 * torch.from_numpy(rng.normal(size=edges.shape)).float()
    plain, noisy = nss(edges), nss((edges + noise).clamp(0, 1))
    for name in ("mscn_shape", "mscn_variance"):
        assert (of_column(noisy, name) > of_column(plain, name)).float().mean() > 0.9


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_images_are_finite(value: float) -> None:
    features = nss(torch.full((2, 3, 16, 16), value))
    assert torch.isfinite(features).all()
    # Nothing lies below a constant's mean: what is left of the image at the borders is above its local mean.
    for way in ("horizontal", "vertical", "diagonal", "antidiagonal"):
        assert (of_column(features, f"{way}_left_variance") == 0).all()
    if value == 0:
        assert features[0].tolist() == [10, 0] + 4 * [10, 0, 0, 0]
    else:
        assert (of_column(features, "mscn_variance") > 0).all()


def test_tiny_images_are_finite(rng: np.random.Generator) -> None:
    for height, width in ((1, 1), (1, 5), (2, 2), (4, 3)):
        images = torch.from_numpy(rng.random((3, 3, height, width))).float()
        assert torch.isfinite(nss(images)).all()


def test_neighbours_in_the_batch_change_no_bit(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.random((9, 3, 13, 11))).float()
    together = nss(images)
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat([nss(image[None]) for image in images]))
    assert torch.equal(together, nss(images.flip(0)).flip(0))
    assert nss(images[:0]).shape == (0, 18)


@pytest.mark.parametrize("bad", [torch.zeros(2, 1, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_invalid_images_are_refused(bad: Tensor) -> None:
    with pytest.raises(InputError, match="expected float32 images"):
        nss(bad)
    with pytest.raises(InputError, match="one pixel"):
        nss(torch.zeros(2, 3, 0, 8))


def test_values_equal_stored_values() -> None:
    """Numbers of this implementation, stored when it agreed with the other one above."""
    wanted = np.array(STORED)
    assert np.allclose(nss(patterned_images()).numpy(), wanted, rtol=1e-6, atol=1e-7)


STORED = [
    [
        2.85194635,
        0.709796906,
        0.984873235,
        -0.12229576,
        0.635186911,
        0.388587713,
        0.963497818,
        -0.0762681291,
        0.528245032,
        0.381821841,
        0.899508953,
        0.0292467419,
        0.404521734,
        0.460440546,
        0.997688472,
        0.0513411909,
        0.449415505,
        0.552099645,
    ],
    [
        3.22178459,
        0.630775392,
        1.03119755,
        -0.122502565,
        0.551977098,
        0.326053113,
        1.03962851,
        -0.0978100896,
        0.4661071,
        0.297794878,
        0.906370044,
        -0.0130030671,
        0.369769603,
        0.347174048,
        1.01776576,
        0.00366830686,
        0.389290392,
        0.395762533,
    ],
]
