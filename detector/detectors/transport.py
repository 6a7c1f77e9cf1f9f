"""The Transport detector: classifiers on the path of an image through the residual blocks (thesis 5.3.1, 5.4.2)."""

from typing import Any

import numpy as np

from detector.base.columns import ColumnsDetector
from detector.features.statistics import by_block
from models.errors import InputError
from models.features import Features
from models.options import check_count

__all__ = ["Transport"]


class Transport(ColumnsDetector):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, given the statistics of equation 34.

    One classifier learns from all images ("all_class"), one per class from the natural and adversarial images that the
    network assigns to this class ("predicted_class"). A score of at least 0.5 is the paper's "an input is considered an
    attack if at least one detector says so".

    Args:
        norms_only: leave out the cosines (5.3.1: "using only the norms already gave good detection accuracy").
        columns_per_block: 2 plus the number of further directions of the measure; used by `norms_only` only.
        options: see `ColumnsDetector`. The paper, too, uses the all-class classifier for classes that an attack never
            predicts; a forest of fewer than about 20 images of a kind overfits.
    """

    def __init__(
        self,
        *,
        norms_only: bool = False,
        columns_per_block: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.norms_only = norms_only
        self.columns_per_block = columns_per_block

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not isinstance(self.norms_only, bool):
            raise InputError(f"expected norms_only to be true or false, got {self.norms_only!r:.200}")
        check_count("columns_per_block", self.columns_per_block, least=2)

    def _columns(self, features: Features) -> np.ndarray:
        if not self.norms_only:
            return features.statistics
        return by_block(features.statistics, self.columns_per_block)[:, :, 0]

    def _known_column_count(self) -> int | None:
        return self.num_columns_ // (self.columns_per_block if self.norms_only else 1)
