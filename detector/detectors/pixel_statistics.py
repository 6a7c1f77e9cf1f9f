"""Plain facts about pixels: the baseline that tells whether an attacked set gives itself away."""

from dataclasses import dataclass

from torch import Tensor

from detector.base.requested_columns import RequestedColumns
from detector.classifiers.conditional import LearnedClassifier
from detector.features.image_statistics import pixel_statistics
from models.errors import InputError
from models.features import FeatureRequest, ForwardPass, Needs

__all__ = ["PixelStatistics"]


class PixelStatistics(RequestedColumns):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, given 19 plain facts about its pixels.

    A baseline, not a defence: it looks for clipped values, another range, noise. Where it comes near an AUROC of 1, so
    could any detector, and a figure on that attacked set says little. By default it looks at images as a PNG file
    carries them: of images in floating point, their distance from whole grey levels alone would give away every
    attacked one, whatever else is right or wrong about the set. See
    `detector.features.image_statistics.pixel_statistics` for the columns and
    `detector.base.columns.ColumnsDetector` for the classifiers.

    Args:
        rounded: whether pixels are rounded to whole grey levels first.
        classifier: "random_forest", "gradient_boosting", "logistic_regression" or "svm".
        num_trees: trees per forest; used by random forests only.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this has the all-class
            classifier stand in.
        seed: of the classifiers' own randomness.
        n_jobs: processes or threads while fitting, as scikit-learn counts them; changes no result.
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
