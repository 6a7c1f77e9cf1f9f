"""Plain facts about pixels: the baseline that tells whether an attacked set gives itself away."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from detector.image_statistics import pixel_statistics
from detector.measured_columns import MeasuredColumns
from models.features import Measurement, Pass

__all__ = ["PixelStatistics"]


class PixelStatistics(MeasuredColumns):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, given 19 plain facts about its pixels.

    A baseline, not a defence: it looks for images off the grid of 8 bits, clipped values, noise. Where it comes near an
    AUROC of 1, so could any detector, and a figure on that attacked set says little. See
    `detector.image_statistics.pixel_statistics` for the columns and `detector.conditional.ColumnsDetector` for the
    classifiers.

    Args:
        classifier: "random_forest", "logistic_regression" or "svm".
        num_trees: trees per forest; used by random forests only.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this has the all-class
            classifier stand in.
        seed: of the classifiers' own randomness.
        n_jobs: processes or threads while fitting, as scikit-learn counts them; changes no result.
    """

    def __init__(
        self,
        *,
        classifier: Literal["random_forest", "logistic_regression", "svm"] = "random_forest",
        num_trees: int = 100,
        minimum_per_class: int = 20,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            classifier=classifier, num_trees=num_trees, minimum_per_class=minimum_per_class, seed=seed, n_jobs=n_jobs
        )

    def _measurement(self) -> Measurement:
        return _Measured()


@dataclass(frozen=True)
class _Measured:
    name: str = "pixel_statistics"
    needs_embeddings: bool = False

    def __call__(self, context: Pass) -> Tensor:
        return pixel_statistics(context.images)
