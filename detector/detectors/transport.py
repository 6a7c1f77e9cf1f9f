"""The Transport detector: classifiers on the path of an image through the residual blocks (thesis 5.3.1, 5.4.2)."""

import numpy as np

from detector.base.columns import ColumnsDetector
from detector.classifiers.conditional import LearnedClassifier
from models.features import Features

__all__ = ["Transport"]


class Transport(ColumnsDetector):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, given the statistics of equation 34.

    One classifier learns from all images ("all_class"), one per class from the natural and adversarial images that the
    network assigns to this class ("predicted_class"). A score of at least 0.5 is the paper's "an input is considered an
    attack if at least one detector says so".

    Args:
        classifier: "random_forest" (the paper's choice), "gradient_boosting", "logistic_regression" or "svm".
        num_trees: trees per forest; used by random forests only.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this uses the all-class
            classifier. The paper does so for classes that an attack never predicts; a forest of fewer than about 20
            images of a kind overfits.
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

    def _columns(self, features: Features) -> np.ndarray:
        return features.statistics

    def _known_column_count(self) -> int | None:
        return self.num_columns_
