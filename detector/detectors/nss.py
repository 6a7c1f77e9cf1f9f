"""Natural scene statistics: classifiers on 18 statistics of local contrast (Kherchouche et al., 2020; thesis E.2.2)."""

from dataclasses import dataclass

from torch import Tensor

from detector.base.requested_columns import RequestedColumns
from detector.classifiers.conditional import LearnedClassifier
from detector.features.image_statistics import nss
from models.features import FeatureRequest, ForwardPass, Needs

__all__ = ["NSS"]


class NSS(RequestedColumns):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, from the image's scene statistics.

    Of the network, only the predicted class is used. See `detector.features.image_statistics.nss` for the
    columns and `detector.base.columns.ColumnsDetector` for the classifiers.

    Args:
        classifier: "random_forest", "gradient_boosting", "logistic_regression" or "svm", the paper's choice; the
            default is the same as for other detectors, so that a comparison compares the columns.
        num_trees: trees per forest; used by random forests only.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this uses the all-class
            classifier.
        seed: of the classifiers.
        n_jobs: processes or threads while fitting, as in scikit-learn; does not change the result.
    """

    def __init__(
        self,
        *,
        classifier: LearnedClassifier = "random_forest",
        num_trees: int = 100,
        minimum_per_class: int = 20,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            classifier=classifier, num_trees=num_trees, minimum_per_class=minimum_per_class, seed=seed, n_jobs=n_jobs
        )

    def _request(self) -> FeatureRequest:
        return _Measured()


@dataclass(frozen=True)
class _Measured:
    name: str = "nss"

    needs = Needs()

    def __call__(self, context: ForwardPass) -> Tensor:
        return nss(context.images)
