"""Fourier features: against numpy, hand-worked images, Parseval's theorem, and stored numbers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.features.image_statistics import spectrum
from detector.features.image_statistics.fourier import transform
from models.errors import InputError
from tests.detector.patterns import patterned_images


def both(maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes and phases ``(B, C, H, W // 2 + 1)``."""
    shape = (*maps.shape[:3], maps.shape[3] // 2 + 1)
    return tuple(spectrum(maps, of).reshape(shape).numpy() for of in ("magnitude", "phase"))  # type: ignore[return-value]


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (32, 32), (1, 5), (6, 1)])
def test_as_numpy(rng: np.random.Generator, size: tuple[int, int]) -> None:
    maps = rng.normal(size=(4, 3, *size))
    wanted = np.fft.fft2(maps)[..., : size[1] // 2 + 1]
    magnitude, phase = both(torch.from_numpy(maps))
    assert np.allclose(magnitude, np.abs(wanted), rtol=1e-5, atol=1e-5)
    assert np.allclose(np.exp(1j * phase), wanted / np.abs(wanted), atol=1e-5)


def test_two_by_two_by_hand() -> None:
    magnitude, phase = both(torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]]))
    # Sums with the signs ++++, +-+-, ++--, +--+: 15, -5, -9, 3.
    assert magnitude.flatten() == pytest.approx([15, 5, 9, 3])
    assert phase.flatten() == pytest.approx([0, math.pi, math.pi, 0])


def test_a_constant_has_one_coefficient() -> None:
    magnitude, phase = both(torch.full((2, 3, 11, 13), 0.7))
    assert magnitude[..., 0, 0] == pytest.approx(0.7 * 11 * 13)
    magnitude[..., 0, 0] = 0
    assert not magnitude.any()
    assert not phase.any()


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5, math.pi / 2])
def test_a_cosine_has_its_phase(angle: float) -> None:
    """cos(2π(2i/H + 3j/W) + angle) has N/2 at (2, 3) with that phase: atan2(Im, Re), not its reciprocal."""
    i, j = torch.meshgrid(torch.arange(8.0).double(), torch.arange(16.0).double(), indexing="ij")
    magnitude, phase = both(torch.cos(2 * math.pi * (2 * i / 8 + 3 * j / 16) + angle)[None, None])
    assert magnitude[0, 0, 2, 3] == pytest.approx(64)
    assert phase[0, 0, 2, 3] == pytest.approx(angle, abs=1e-6)
    magnitude[0, 0, 2, 3] = 0
    assert magnitude.max() < 1e-10


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_parseval(rng: np.random.Generator, size: tuple[int, int]) -> None:
    maps = torch.from_numpy(rng.normal(size=(2, 3, *size)))
    energy = sum(part.square() for part in transform(maps))
    assert isinstance(energy, Tensor)
    twice = torch.full((size[1] // 2 + 1,), 2.0).double()  # all but the columns that are their own mirror image
    twice[0] = 1
    if size[1] % 2 == 0:
        twice[-1] = 1
    assert torch.allclose((energy * twice).sum(dim=(2, 3)), size[0] * size[1] * maps.square().sum(dim=(2, 3)))


def test_rounding_decides_no_phase(rng: np.random.Generator) -> None:
    """Coefficients that are real by symmetry have the phase 0 or π, never −π, and absent ones 0."""
    maps = torch.from_numpy(rng.random((20, 3, 12, 12)))
    _, phase = both(maps)
    corners = phase[..., [0, 0, 6, 6], [0, 6, 0, 6]]
    assert np.isin(corners, np.array([0, math.pi], dtype=np.float32)).all()
    _, phase = both(maps[:, :, :1].expand(-1, -1, 12, -1))
    assert not phase[..., 1:, :].any()


def test_average_over_channels(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(3, 5, 8, 8))
    full = np.fft.fft2(maps)[..., :5]
    magnitude, phase = spectrum(torch.from_numpy(maps), "both", average=True).reshape(3, 2, 8, 5).unbind(dim=1)
    assert np.allclose(magnitude, np.abs(full).mean(axis=1), rtol=1e-5)
    vector = (full / np.abs(full)).mean(axis=1)
    assert np.allclose(np.abs(vector) * np.exp(1j * phase.numpy()), vector, atol=1e-5)


def test_phases_average_around_the_circle() -> None:
    """±(π − 0.2) average to π, not to 0."""
    j = torch.arange(8.0).double()
    waves = torch.stack(
        [torch.cos(2 * math.pi * j / 8 + angle).expand(8, 8) for angle in (math.pi - 0.2, 0.2 - math.pi)]
    )
    phase = spectrum(waves[None], "phase", average=True).reshape(8, 5)
    assert abs(phase[0, 1].item()) == pytest.approx(math.pi, abs=1e-6)


def test_large_spectra_are_pooled() -> None:
    """A single bright pixel has the magnitude 1 and the phase 0 at every frequency, pooled or not."""
    maps = torch.zeros(2, 3, 40, 70)
    maps[:, :, 0, 0] = 1
    features = spectrum(maps, "both")
    assert features.shape == (2, 2 * 3 * 32 * 17)
    magnitude, phase = features.chunk(2, dim=1)
    assert torch.allclose(magnitude, torch.ones(1))
    assert not phase.any()


def test_pooling_takes_the_mean(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 1, 8, 12))
    magnitude = np.abs(np.fft.fft2(maps))[..., :7]
    pooled = spectrum(torch.from_numpy(maps), size=4).reshape(2, 4, 3).numpy()
    assert np.allclose(pooled[:, 1, 0], magnitude[:, 0, 2:4, 0:3].mean(axis=(1, 2)), rtol=1e-5)


def test_both_is_one_after_the_other(rng: np.random.Generator) -> None:
    maps = torch.from_numpy(rng.random((2, 3, 6, 6)))
    assert torch.equal(spectrum(maps, "both"), torch.cat([spectrum(maps, "magnitude"), spectrum(maps, "phase")], dim=1))


@pytest.mark.parametrize(("size", "average"), [((9, 7), False), ((9, 7), True), ((35, 40), False), ((35, 40), True)])
def test_neighbours_in_the_batch_change_no_bit(rng: np.random.Generator, size: tuple[int, int], average: bool) -> None:
    maps = torch.from_numpy(rng.random((7, 3, *size))).float()
    together = spectrum(maps, "both", average=average)
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat([spectrum(one[None], "both", average=average) for one in maps]))
    assert torch.equal(together, spectrum(maps.flip(0), "both", average=average).flip(0))
    assert spectrum(maps[:0], "both", average=average).shape == (0, together.shape[1])


def test_arrays_that_are_not_maps_are_refused() -> None:
    for bad in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8).long(), torch.zeros(1, 3, 0, 8)):
        with pytest.raises(InputError, match="expected floating-point maps"):
            spectrum(bad)
    with pytest.raises(InputError, match="one of the three"):
        spectrum(torch.zeros(1, 3, 8, 8), "power")  # type: ignore[arg-type]


def test_values_equal_stored_values() -> None:
    """Every 41st number of this implementation, stored when it agreed with numpy as above."""
    assert np.allclose(spectrum(patterned_images(), "both")[:, ::41].numpy(), STORED, rtol=1e-6, atol=1e-6)


STORED = [
    [
        91.372551,
        1.71868539,
        2.76288176,
        1.79600763,
        4.07260609,
        1.72511339,
        4.19820595,
        5.991611,
        -1.93195951,
        2.2768507,
        -0.561194956,
        -0.406669885,
        -1.30017424,
        1.81604588,
        -1.02704751,
        -3.02762699,
    ],
    [
        103.50827,
        1.22672415,
        2.0498085,
        1.2389133,
        3.06075025,
        1.4276396,
        3.15049505,
        5.45127344,
        -1.87232947,
        2.26183391,
        -0.563834667,
        -0.455591589,
        -1.35272121,
        1.81467545,
        -2.00637841,
        -3.02294803,
    ],
]
