"""How unusual a number, or a row of columns, is among natural images: what is learnt without any attacked image."""

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from detector.common.arrays import require_array, require_keys
from detector.density.gaussians import Gaussians, product_by_row
from models.errors import InputError

__all__ = ["NaturalColumns", "Surprise"]

# So that no square of a standardised float32 overflows.
_LARGEST = 1e30
_MOST = 1e12  # of a surprise, so that a power of it is finite
_TAIL = 0.95
_KNOTS = 96
_FEWEST_BEYOND = 10  # numbers over the 95 % quantile, for their mean excess to count by itself


class NaturalColumns:
    """Squared Mahalanobis distance of a row of columns to natural rows of the same predicted class.

    Args:
        centre, scale: of each column, float64 ``(F,)``.
        gaussians: of the standardised columns, one layer, one mean per class of the network.
    """

    def __init__(self, centre: np.ndarray, scale: np.ndarray, gaussians: Gaussians) -> None:
        self.centre, self.scale, self.gaussians = centre, scale, gaussians

    @classmethod
    def fit(cls, columns: np.ndarray, predicted: np.ndarray, num_classes: int) -> Self:
        """From natural rows ``(N, F)`` and their predicted classes; a class without any has the mean of all rows."""
        values = columns.astype(np.float64)
        centre, scale = values.mean(axis=0), values.std(axis=0)
        scale = np.where(scale > 1e-12 * np.maximum(np.abs(centre), 1e-12), scale, 1.0)
        standard = (values - centre) / scale
        return cls(centre, scale, gaussians_of_classes(standard[:, None], predicted, num_classes))

    def distances(self, columns: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Distances float64 ``(B,)`` of rows ``(B, F)``; none depends on the others, to the last bit."""
        standard = np.clip((columns.astype(np.float64) - self.centre) / self.scale, -_LARGEST, _LARGEST)
        whitened = product_by_row(standard - self.gaussians.centre[0], self.gaussians.whitening[0])
        distance: np.ndarray = np.square(whitened - self.gaussians.whitened_means[0, predicted]).sum(axis=1)
        return distance

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name; `from_state` takes them back."""
        return {"centre": self.centre, "scale": self.scale, **self.gaussians.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], num_classes: int, num_columns: int) -> Self:
        """From arrays that nobody vouches for.

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


def gaussians_of_classes(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> Gaussians:
    """Gaussians of embeddings ``(N, L, D)`` with a mean for every class; one without images has the mean of all."""
    fitted = Gaussians.fit(embeddings, labels)
    means = np.repeat(embeddings.mean(axis=0, dtype=np.float64)[:, None], num_classes, axis=1)
    means[:, np.unique(labels)] = fitted.means
    return Gaussians(means, fitted.whitening)


class Surprise:
    """−log10 of the share of natural images whose number is at least as large: 2 is one natural image in a hundred.

    Up to the natural 95 % quantile it comes from natural numbers themselves; beyond, where those are few, from an
    exponential tail of their mean excess. So it rises with the number and has no end. Where fewer than ten are beyond,
    the tail is at least as long as that of an exponential distribution with the same median and 95 % quantile.

    Args:
        knots: natural quantiles at even steps of the share, float64 ``(Q,)``, ascending.
        excess: the mean excess over the 95 % quantile; above 0.
    """

    levels: ClassVar[np.ndarray] = -np.log10(1 - np.linspace(0, _TAIL, _KNOTS))  # the surprise at each knot

    def __init__(self, knots: np.ndarray, excess: float) -> None:
        self.knots, self.excess = knots, excess

    @classmethod
    def fit(cls, numbers: np.ndarray) -> Self:
        """From the numbers of natural images ``(N,)``; higher = more anomalous."""
        knots = np.quantile(numbers, np.linspace(0, _TAIL, _KNOTS))
        beyond = numbers[numbers > knots[-1]]
        excess = float((beyond - knots[-1]).mean()) if len(beyond) else 0.0
        if len(beyond) < _FEWEST_BEYOND:
            # One number just over the quantile would make every larger one a wonder.
            excess = max(excess, float(knots[-1] - np.median(numbers)) / np.log(0.5 / (1 - _TAIL)))
        # Numbers that hardly differ still need a scale: a small share of their size.
        return cls(knots, max(excess, 1e-6 * float(np.abs(knots).max()), 1e-12))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Surprises float64 ``(B,)``, from 0 on, of numbers float64 ``(B,)``."""
        # The first of equal knots: all that are tied with a number are at least as large.
        right = np.clip(np.searchsorted(self.knots, numbers, side="left"), 1, len(self.knots) - 1)
        below, above = self.knots[right - 1], self.knots[right]
        gap = np.where(above > below, above - below, 1.0)
        part = np.where(numbers > above, 1.0, (np.clip(numbers, below, above) - below) / gap)
        within = self.levels[right - 1] + (self.levels[right] - self.levels[right - 1]) * part
        beyond = np.maximum(numbers - self.knots[-1], 0.0) / self.excess / np.log(10)
        surprise: np.ndarray = np.minimum(within + beyond, _MOST)
        return surprise

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name; `from_state` takes them back."""
        return {"knots": self.knots, "excess": np.array([self.excess])}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """From arrays that nobody vouches for.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, not finite, or out of order.
        """
        require_keys(state, {"knots", "excess"})
        knots = require_array(state, "knots", np.float64, (_KNOTS,))
        excess = float(require_array(state, "excess", np.float64, (1,))[0])
        if (np.diff(knots) < 0).any() or not excess > 0:
            raise InputError("expected ascending knots and an excess above 0, got others; the state is damaged")
        return cls(knots, excess)
