"""Simple pixel statistics: a baseline that detects attacked sets with obvious artefacts."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detector.base.requested_columns import RequestedColumns
from detector.features.image_statistics import pixel_statistics
from models.errors import InputError
from models.features import FeatureRequest, ForwardPass, Needs

__all__ = ["PixelStatistics"]


class PixelStatistics(RequestedColumns):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, from 19 statistics of its pixels.

    A baseline, not a defence: it detects clipped values, another range, and noise. If its AUROC is near 1, the attacked
    set has artefacts that every detector could use, and results on it mean little. By default it rounds pixels as a PNG
    file does: without rounding, the distance from whole grey levels alone reveals every attacked image. See
    `detector.features.image_statistics.pixel_statistics` for the columns and `detector.base.columns.ColumnsDetector`
    for the classifiers.

    Args:
        rounded: whether pixels are rounded to whole grey levels first.
        options: see `ColumnsDetector`.
    """

    def __init__(
        self,
        *,
        rounded: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.rounded = rounded

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not isinstance(self.rounded, bool):
            raise InputError(f"expected rounded as True or False, got {self.rounded!r}")

    def _request(self) -> FeatureRequest:
        return _Measured("pixel_statistics" if self.rounded else "pixel_statistics:unrounded", self.rounded)


@dataclass(frozen=True)
class _Measured:
    name: str
    rounded: bool

    needs = Needs()

    def __call__(self, context: ForwardPass) -> Tensor:
        images = context.images
        return pixel_statistics((images * 255).round() / 255 if self.rounded else images)
