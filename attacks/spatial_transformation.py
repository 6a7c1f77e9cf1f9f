"""Spatial transformations: the worst of many rotations and translations (Engstrom et al., 2019)."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, check_count, check_number
from attacks.common.steps import beats, losses_of
from models.errors import InputError

__all__ = ["SpatialTransformation"]


class SpatialTransformation(Attack):
    """Rotates and shifts an image. Values are not perturbed, so there is no Lp budget.

    The threat model: one rotation by up to `rotation` degrees about the centre, then one translation by up to
    `translation` of the side along each axis, with bilinear interpolation and black outside the image. Reports contain
    the L∞ and L2 norms of these perturbations, too; they are large and do not measure how visible the attack is.

    The attack tries the whole grid of `angles` · `shifts`² transformations, as in the paper (31 · 5²), or `draws`
    random ones ("worst of k"), from each image's own stream. The result is the transformation with the highest loss
    among those that fool the network, or among all, the identity included, if none does. Each transformation costs one
    forward pass and no gradient. The batch size changes nothing but rounding.

    Args:
        rotation: largest angle in degrees, in both directions.
        translation: largest shift as a share of height and width, in both directions; the paper's 3 of 32 pixels.
        angles: number of angles of the grid, evenly spaced.
        shifts: number of shifts of the grid along each axis, evenly spaced.
        draws: number of random transformations; None: the grid.
    """

    lp_bounded: bool = False

    def __init__(
        self,
        *,
        rotation: float = 30.0,
        translation: float = 3 / 32,
        angles: int = 31,
        shifts: int = 5,
        draws: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm="linf", epsilon=None, batch_size=batch_size, seed=seed)
        self.rotation = check_number("rotation", rotation, least=0)
        self.translation = check_number("translation", translation, least=0)
        if self.rotation > 180 or self.translation > 1:
            raise InputError(
                f"expected rotation of at most 180 degrees and translation of at most 1, a share of the image's side, "
                f"got {rotation!r} and {translation!r}"
            )
        self.angles = check_count("angles", angles)
        self.shifts = check_count("shifts", shifts)
        self.draws = draws if draws is None else check_count("draws", draws)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The worst transformation of each image."""
        best = images
        best_losses, best_fooled = losses_of(network, images, labels)
        for angle, down, right in self._transformations(images, noise):
            tried = transformed(images, angle, down, right)
            losses, fooled = losses_of(network, tried, labels)
            better = beats(fooled, losses, best_fooled, best_losses)
            best = torch.where(better[:, None, None, None], tried, best)
            best_losses = torch.where(better, losses, best_losses)
            best_fooled = torch.where(better, fooled, best_fooled)
        return best

    def _transformations(self, images: Tensor, noise: ImageNoise) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Angles in degrees and shifts as shares of the sides, ``(B,)`` each, for every transformation."""
        if self.draws is not None:
            for draw in range(self.draws):
                angle, down, right = noise.uniform(images[:, :1, :1, :1].expand(-1, 3, -1, -1), draw)[:, :, 0, 0].T
                yield angle * self.rotation, down * self.translation, right * self.translation
            return
        one = torch.ones_like(images[:, 0, 0, 0])
        for angle in _evenly(self.rotation, self.angles):
            for down in _evenly(self.translation, self.shifts):
                for right in _evenly(self.translation, self.shifts):
                    yield angle * one, down * one, right * one


def transformed(images: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images rotated about their centre, then shifted, with black outside the image.

    Args:
        images: ``(B, C, H, W)``.
        angle: ``(B,)``, in degrees, anticlockwise.
        down, right: ``(B,)``, shares of height and width.
    """
    height, width = images.shape[2:]
    cosine, sine = torch.cos(angle * math.pi / 180), torch.sin(angle * math.pi / 180)
    # `affine_grid` expects the source of each new pixel, in coordinates where the image is [-1, 1]². The inverse
    # transformation reverts the shift first, then the rotation, which in pixels depends on the ratio of the sides.
    from_x, from_y = -2 * right, -2 * down
    rows = [
        [cosine, -sine * height / width, cosine * from_x - sine * height / width * from_y],
        [sine * width / height, cosine, sine * width / height * from_x + cosine * from_y],
    ]
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp(0.0, 1.0)


def _evenly(most: float, count: int) -> list[float]:
    """`count` evenly spaced numbers from -most to most; [0] for one."""
    if count == 1:
        return [0.0]
    return [most * (2 * step / (count - 1) - 1) for step in range(count)]
