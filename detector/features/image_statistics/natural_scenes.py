"""Natural scene statistics: statistics of the local contrast, which follow known distributions in photographs.

Mittal, Moorthy and Bovik (2012), "No-reference image quality assessment in the spatial domain" (BRISQUE), at one scale;
Kherchouche et al. (2020) feed these 18 numbers to a detector of adversarial images (thesis E.2.2).
"""

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.features.image_statistics.sums import checked_images, mean_per_image, sum_per_image

__all__ = ["NSS_NAMES", "SHAPES", "fit_aggd", "fit_ggd", "luminance", "mscn", "neighbour_products", "nss"]

SHAPES = (0.2, 10.0)
"""Where a shape is looked for, as in the authors' release. 1 is Laplace, 2 is Gauss; near 10 it is almost uniform."""

_DIRECTIONS = ("horizontal", "vertical", "diagonal", "antidiagonal")
_SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))

_ROUNDING = 1e-9  # above the rounding error of float64 means of values up to 255

NSS_NAMES = (
    "mscn_shape",
    "mscn_variance",
    *(f"{way}_{what}" for way in _DIRECTIONS for what in ("shape", "mean", "left_variance", "right_variance")),
)


def nss(images: Tensor) -> Tensor:
    """The 18 statistics float32 ``(B, 18)`` of images ``(B, 3, H, W)`` in [0, 1], in the order of `NSS_NAMES`.

    Shape and variance of the generalised Gaussian fitted to the MSCN coefficients of the luminance; then shape, mean,
    left and right variance of the asymmetric one fitted to the products of neighbours, in four directions.

    Finite for every image. A constant image has coefficients other than 0 along its borders only, where the window
    reaches past the image; a black one has none at all, and gets the variances and means 0 and the shape 10.

    Raises:
        InputError: not floating-point images ``(B, 3, H, W)``.
    """
    coefficients = mscn(luminance(images))
    shape, variance = fit_ggd(coefficients)
    columns = [shape, variance]
    for products in neighbour_products(coefficients):
        columns.extend(fit_aggd(products))
    return torch.stack(columns, dim=1).float()


def luminance(images: Tensor) -> Tensor:
    """Luminance float64 ``(B, H, W)`` in [0, 255]: 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601).

    It is not rounded to whole grey levels, which the release of BRISQUE does: that would hide small perturbations.
    """
    red, green, blue = checked_images(images).unbind(dim=1)
    return 255 * (0.299 * red + 0.587 * green + 0.114 * blue)


def mscn(grey: Tensor) -> Tensor:
    """Mean-subtracted contrast-normalised coefficients ``(B, H, W)``: (I − μ) / (φ + 1), for I in [0, 255].

    μ and φ are the local mean and standard deviation in a 7×7 Gaussian window of σ = 7/6. Past the borders the image is
    taken as 0, as in the authors' release.
    """
    mean = _blurred(grey)
    variance = _blurred(grey * grey) - mean * mean  # the window's weights sum to 1
    centred = grey - mean
    # In a constant window only rounding errors remain, whose sign would look like that of a coefficient.
    centred = torch.where(centred.abs() > _ROUNDING, centred, 0.0)
    return centred / (variance.clamp_min(0).sqrt() + 1)


def neighbour_products(coefficients: Tensor) -> list[Tensor]:
    """Products ``(B, H, W)`` of each coefficient with its neighbour: horizontal, vertical, and along the two diagonals.

    The neighbour of a coefficient at a border is the one at the opposite border, as in the authors' release.
    """
    return [coefficients * torch.roll(coefficients, shift, dims=(-2, -1)) for shift in _SHIFTS]


def fit_ggd(values: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and variance, each ``(B,)``, of the generalised Gaussian around 0 with the moments of values ``(B, …)``.

    The shape α solves Γ(2/α)² / (Γ(1/α) Γ(3/α)) = E[|x|]² / E[x²], within `SHAPES`.
    """
    magnitude, variance = mean_per_image(values.abs()), mean_per_image(values * values)
    return _shape(magnitude * magnitude, variance), variance


def fit_aggd(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, mean, left and right variance, each ``(B,)``, of the asymmetric generalised Gaussian of values ``(B, …)``.

    A variance is the mean square of the values on its side of 0, and 0 where there are none (Lasmar et al., 2009; in
    Mittal et al. equations 8 to 14).
    """
    squares = values * values
    left, right = (_mean_where(squares, side) for side in (values < 0, values > 0))
    low, high = left.sqrt(), right.sqrt()
    magnitude = mean_per_image(values.abs())
    # (γ³ + 1)(γ + 1) / (γ² + 1)² with γ = low / high, defined also if one side is empty.
    numerator = magnitude * magnitude * (low * left + high * right) * (low + high)
    denominator = mean_per_image(squares) * (left + right) * (left + right)
    shape = _shape(numerator, denominator)
    alpha = shape.cpu().numpy()
    scale = np.exp(
        scipy.special.gammaln(2 / alpha) - (scipy.special.gammaln(1 / alpha) + scipy.special.gammaln(3 / alpha)) / 2
    )
    return shape, (high - low) * torch.from_numpy(scale).to(values.device), left, right


def _blurred(grey: Tensor) -> Tensor:
    """Weighted means in the window, rows first, then columns.

    Sums of shifted copies: the order of addition of a convolution may depend on the batch.
    """
    offsets = np.arange(-3, 4)
    weights = np.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    weights /= weights.sum()
    for axis in (1, 2):
        length = grey.shape[axis]
        padded = torch.nn.functional.pad(grey, (0, 0, 3, 3) if axis == 1 else (3, 3, 0, 0))
        total = torch.zeros_like(grey)
        for offset, weight in enumerate(weights.tolist()):
            total = total + weight * padded.narrow(axis, offset, length)
        grey = total
    return grey


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Means ``(B,)`` over the places in `mask`; 0 where it is empty."""
    count = mask.flatten(1).sum(dim=1)
    return sum_per_image(torch.where(mask, values, 0.0)) / count.clamp_min(1)


def _shape(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The α in `SHAPES` at which Γ(2/α)² / (Γ(1/α) Γ(3/α)) is numerator / denominator; the upper end for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.log(numerator.cpu().numpy()) - np.log(denominator.cpu().numpy())
    low, high = (np.full(wanted.shape, end) for end in SHAPES)
    # The ratio grows with α. After 60 halvings the interval is below float64 precision.
    for _ in range(60):
        middle = (low + high) / 2
        below = ~(_log_ratio(middle) >= wanted)  # true of 0 / 0, a NaN
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return torch.from_numpy((low + high) / 2).to(numerator.device)


def _log_ratio(alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = (
        2 * scipy.special.gammaln(2 / alpha) - scipy.special.gammaln(1 / alpha) - scipy.special.gammaln(3 / alpha)
    )
    return ratio
