"""Magnitudes and phases of the discrete Fourier transform of images and of embeddings (Harder et al., 2021).

"SpectralDefense: detecting adversarial attacks on CNNs in the Fourier domain", thesis E.2.2. The thesis prints the
phase as arctan(Re / Im), the two parts swapped; here it is atan2(Im, Re), which keeps all four quadrants apart.
"""

from typing import Literal

import torch
from torch import Tensor

from detector.features.image_statistics.sums import mean_second
from models.errors import InputError

__all__ = ["Part", "spectrum", "transform"]

Part = Literal["magnitude", "phase", "both"]

# Share of the sum of a map's magnitudes, which no coefficient exceeds. Smaller float64 parts are rounding errors.
_NOTHING = 1e-12


def spectrum(maps: Tensor, of: Part = "magnitude", *, average: bool = False, size: int = 32) -> Tensor:
    """Fourier features float32 ``(B, n)`` of maps ``(B, C, H, W)``: magnitudes, phases in (−π, π], or both in turn.

    Maps are real, so of each spectrum only the half that the other mirrors is given: H rows by W // 2 + 1 columns, row
    after row, the frequency 0 first. Larger spectra are pooled to `size` rows by size // 2 + 1 columns.

    Args:
        maps: floating-point and finite.
        of: "magnitude" (the paper's MFS), "phase" (its PFS) or "both".
        average: one spectrum per image instead of one per channel. Of magnitudes it is the mean. Of phases it is the
            direction of the mean of the unit vectors, since −π and π are the same phase; pooling does likewise.
        size: the largest side of a map whose spectrum is given whole.

    Raises:
        InputError: not ``(B, C, H, W)`` in floating point, without pixels, or an unknown `of`.
    """
    if of not in ("magnitude", "phase", "both"):
        raise InputError(f"expected of='magnitude', 'phase' or 'both', got {of!r}; pass one of the three")
    real, imaginary = transform(maps)
    squared = real * real + imaginary * imaginary
    magnitude = squared.sqrt()
    parts = []
    if of != "phase":
        parts.append(_reduced(magnitude, average, size))
    if of != "magnitude":
        length = torch.where(magnitude > 0, magnitude, 1.0)
        parts.append(_angle(*(_reduced(part / length, average, size) for part in (real, imaginary))))
    return torch.cat([part.flatten(1) for part in parts], dim=1).float()


def transform(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts, float64 ``(B, C, H, W // 2 + 1)``, of the two-dimensional transform of each map.

    Parts that are zero except for rounding are set to zero. Otherwise rounding would decide the phase of a coefficient
    that is zero or a negative real number, as half of those at the highest frequency are.

    Raises:
        InputError: not ``(B, C, H, W)`` in floating point, or without pixels.
    """
    if maps.ndim != 4 or not maps.is_floating_point() or 0 in maps.shape[1:]:
        raise InputError(
            f"expected floating-point maps (B, C, H, W) of at least one pixel, got {maps.dtype} of shape "
            f"{tuple(maps.shape)}; give images, or embeddings with channels second"
        )
    # One by one: the rounding of a transform can depend on the number of maps and on their memory layout.
    halves = [torch.fft.rfft2(one.detach().to(torch.float64, copy=True)) for one in maps]
    shape = (0, *maps.shape[1:3], maps.shape[3] // 2 + 1)
    both = torch.view_as_real(torch.stack(halves)) if halves else maps.new_zeros((*shape, 2), dtype=torch.float64)
    size = mean_second(maps.detach().double().abs().flatten(2).transpose(1, 2)) * (maps.shape[2] * maps.shape[3])
    least = _NOTHING * size[:, :, None, None]
    real, imaginary = (torch.where(part.abs() > least, part, 0.0) for part in both.unbind(dim=-1))
    return real, imaginary


def _reduced(part: Tensor, average: bool, size: int) -> Tensor:
    """The part, averaged over channels if `average`, and pooled to at most `size` by size // 2 + 1."""
    if average:
        part = mean_second(part)[:, None]
    rows, columns = min(part.shape[2], size), min(part.shape[3], size // 2 + 1)
    if (rows, columns) == part.shape[2:] or not len(part):
        return part[:, :, :rows, :columns]
    return torch.stack([torch.nn.functional.adaptive_avg_pool2d(one.clone(), (rows, columns)) for one in part])


def _angle(real: Tensor, imaginary: Tensor) -> Tensor:
    """Angles of vectors of length at most 1; 0 for zero vectors."""
    real, imaginary = (torch.where(part.abs() > _NOTHING, part, 0.0) for part in (real, imaginary))
    if not len(real):
        return real
    return torch.stack([torch.atan2(*pair) for pair in zip(imaginary, real, strict=True)])
