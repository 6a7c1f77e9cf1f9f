"""Simple pixel statistics: a baseline that detects attacked sets with obvious artefacts."""

from dataclasses import dataclass

from torch import Tensor

from detector.base.requested_columns import RequestedColumns
from detector.classifiers.conditional import LearnedClassifier
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
        classifier: "random_forest", "gradient_boosting", "logistic_regression" or "svm".
        num_trees: trees per forest; used by random forests only.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this uses the all-class
            classifier.
        seed: of the classifiers.
        n_jobs: processes or threads while fitting, as in scikit-learn; does not change the result.
    """

    def __init__(
        self,
        *,
        rounded: bool = True,
        classifier: LearnedClassifier = "random_forest",
        num_trees: int = 100,
        minimum_per_class: int = 20,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            classifier=classifier, num_trees=num_trees, minimum_per_class=minimum_per_class, seed=seed, n_jobs=n_jobs
        )
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
