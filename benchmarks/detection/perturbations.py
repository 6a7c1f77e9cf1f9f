"""Natural images changed by nobody who wants anything: noise, blur and contrast, of sizes from unseen to gross."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = ["PERTURBATIONS", "Perturbation", "perturbed"]

Array = np.ndarray


@dataclass(frozen=True)
class Perturbation:
    """Images ``(N, 3, H, W)`` in [0, 1] → the same images perturbed, float32 in [0, 1].

    Args:
        kind: "uniform" noise within ± size, "gaussian" noise of that deviation, "blur" with a Gaussian of that
            deviation in pixels, "contrast" multiplied by it about the image's mean.
    """

    kind: Literal["uniform", "gaussian", "blur", "contrast"]
    size: float

    def __call__(self, images: Array, random: np.random.Generator) -> Array:
        """See the class."""
        values = images.astype(np.float64)
        if self.kind == "uniform":
            values = values + random.uniform(-self.size, self.size, values.shape)
        elif self.kind == "gaussian":
            values = values + random.normal(0, self.size, values.shape)
        elif self.kind == "blur":
            values = gaussian_filter(values, (0, 0, self.size, self.size))
        else:
            centre = values.mean(axis=(1, 2, 3), keepdims=True)
            values = centre + self.size * (values - centre)
        found: Array = np.clip(values, 0, 1).astype(np.float32)
        return found


PERTURBATIONS = (
    *(Perturbation("uniform", size / 255) for size in (1, 2, 4, 8, 16, 32)),
    *(Perturbation("gaussian", size / 255) for size in (1, 2, 4, 8, 16, 32)),
    *(Perturbation("blur", size) for size in (0.4, 0.6, 1.0, 1.5)),
    *(Perturbation("contrast", size) for size in (0.4, 0.7, 1.4, 2.0)),
)


def perturbed(images: Array, seed: int, choices: Sequence[Perturbation] = PERTURBATIONS) -> Array:
    """Every image ``(N, 3, H, W)`` with one of the perturbations, drawn by the seed."""
    random = np.random.default_rng(seed)
    drawn = random.integers(len(choices), size=len(images))
    found = np.empty(images.shape, np.float32)
    for number, choice in enumerate(choices):
        if (mine := drawn == number).any():
            found[mine] = choice(images[mine], random)
    return found
