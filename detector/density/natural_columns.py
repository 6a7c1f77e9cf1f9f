"""Distance of a row of columns to natural rows of the same predicted class, fitted on natural images only."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from detector.common.array_api import Array, constants, namespace, product_by_row
from detector.common.arrays import require_array, require_keys
from detector.density.gaussians import Gaussians, class_gaussians
from models.errors import InputError

__all__ = ["NaturalColumns"]

# Keeps the square of every standardised float32 finite.
_LARGEST = 1e30


class NaturalColumns:
    """Squared Mahalanobis distance of a row of columns to natural rows of the same predicted class.

    Args:
        centre: mean of each column, float64 ``(F,)``.
        scale: standard deviation of each column, float64 ``(F,)``.
        gaussians: of the standardised columns, one layer, one mean per class of the network.
    """

    def __init__(self, centre: np.ndarray, scale: np.ndarray, gaussians: Gaussians) -> None:
        self.centre, self.scale, self.gaussians = centre, scale, gaussians

    @classmethod
    def fit(cls, columns: np.ndarray, predicted: np.ndarray, num_classes: int) -> Self:
        """Fit on natural rows ``(N, F)`` and their predicted classes; see `class_gaussians`."""
        values = columns.astype(np.float64)
        centre, scale = values.mean(axis=0), values.std(axis=0)
        scale = np.where(scale > 1e-12 * np.maximum(np.abs(centre), 1e-12), scale, 1.0)
        standard = (values - centre) / scale
        return cls(centre, scale, class_gaussians(standard[:, None], predicted, num_classes))

    def distances(self, columns: Array, predicted: Array) -> Array:
        """Distances float64 ``(B,)`` of rows ``(B, F)``; in NumPy, bit for bit independent of the other rows."""
        xp, gaussians = namespace(columns), self.gaussians
        centre, scale, middle, whitening, means = constants(
            columns,
            self.centre, self.scale, gaussians.centre[0], gaussians.whitening[0], gaussians.whitened_means[0],
        )  # fmt: skip
        standard = xp.minimum(xp.maximum((columns - centre) / scale, -_LARGEST), _LARGEST)
        away = product_by_row(standard - middle, whitening) - means[predicted]
        return xp.vecdot(away, away)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {"centre": self.centre, "scale": self.scale, **self.gaussians.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], num_classes: int, num_columns: int) -> Self:
        """Restore from untrusted arrays.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, not finite, or a scale is not positive.
        """
        require_keys(state, {"centre", "scale", "means", "whitening"})
        centre, scale = (require_array(state, name, np.float64, (num_columns,)) for name in ("centre", "scale"))
        if not (scale > 0).all():
            raise InputError(f"expected positive scales, got {scale.min()}; the state is damaged")
        gaussians = Gaussians.from_state({name: state[name] for name in ("means", "whitening")}, num_classes)
        if gaussians.means.shape != (1, num_classes, num_columns):
            raise InputError(
                f"expected one mean of {num_columns} columns for each of {num_classes} classes, got "
                f"{gaussians.means.shape}; the state is damaged"
            )
        return cls(centre, scale, gaussians)
