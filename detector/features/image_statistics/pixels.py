"""Simple pixel statistics, which should not distinguish a correctly made attacked set from natural images.

If a detector with only these columns distinguishes natural from attacked images, the attacked set has artefacts: its
pixels are not multiples of 1/255, were clipped in another space, or are noisier.
"""

import torch
from torch import Tensor

from detector.features.image_statistics.sums import checked_images, mean_per_image

__all__ = ["PIXEL_NAMES", "pixel_statistics"]

PIXEL_NAMES = (
    *(f"{channel}_{what}" for channel in ("red", "green", "blue") for what in ("minimum", "maximum", "mean", "std")),
    "share_of_zeros",
    "share_of_ones",
    "grid_distance_mean",
    "grid_distance_maximum",
    "distinct_values",
    "total_variation",
    "high_frequency_energy",
)

# Distances to a whole grey level that float32 rounding causes: k/255 is stored to within 8e-6 of a level.
_ROUNDING = 1e-4


def pixel_statistics(images: Tensor) -> Tensor:
    """The 19 statistics float32 ``(B, 19)`` of images ``(B, 3, H, W)`` in [0, 1], in the order of `PIXEL_NAMES`.

    Per channel minimum, maximum, mean and standard deviation; the shares of values that are exactly 0 and exactly 1;
    mean and maximum of |255x − round(255x)|, where less than 1e-4 counts as none; the number of distinct values in all
    three channels; total variation (the mean absolute difference of vertical neighbours plus that of horizontal ones);
    and the mean square of the discrete Laplacian, in which high frequencies have more weight. The last
    two are 0 for images too small to have neighbours.

    Raises:
        InputError: not floating-point images ``(B, 3, H, W)``.
    """
    values = checked_images(images)
    columns = []
    for channel in values.unbind(dim=1):
        flat = channel.flatten(1)
        mean = mean_per_image(flat)
        deviation = flat - mean[:, None]
        columns += [flat.amin(dim=1), flat.amax(dim=1), mean, mean_per_image(deviation * deviation).sqrt()]
    columns += [mean_per_image((values == end).double()) for end in (0.0, 1.0)]
    levels = 255 * values
    whole = levels.round()
    distance = (levels - whole).abs()
    distance = torch.where(distance < _ROUNDING, 0.0, distance)
    columns += [mean_per_image(distance), distance.flatten(1).amax(dim=1)]
    ordered = torch.where(distance == 0, whole, levels).flatten(1).sort(dim=1).values
    columns.append(1.0 + (ordered.diff(dim=1) > 0).sum(dim=1))
    vertical, horizontal = (mean_per_image(values.diff(dim=axis).abs()) for axis in (2, 3))
    columns.append(vertical + horizontal)
    columns.append(mean_per_image(_laplacian(values).square()))
    return torch.stack([column.double() for column in columns], dim=1).float()


def _laplacian(values: Tensor) -> Tensor:
    """Four times each inner value less its four neighbours, ``(B, 3, H − 2, W − 2)``."""
    if min(values.shape[2:]) < 3:
        return values.new_zeros(len(values), 0)
    inner = values[..., 1:-1, 1:-1]
    vertical = values[..., :-2, 1:-1] + values[..., 2:, 1:-1]
    return 4 * inner - (vertical + (values[..., 1:-1, :-2] + values[..., 1:-1, 2:]))
