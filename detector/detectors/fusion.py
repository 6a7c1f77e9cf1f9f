"""Path and views together: large perturbations show along the path, small ones in what another view changes."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from detector.base.composite import Sign
from detector.detectors.path import Path
from detector.detectors.views import Views
from detector.features.path_groups import path_groups, path_measurements, view_groups, view_measurements
from models.features import FeatureRequest, Features
from models.images.views import View
from models.residuals import BlockTensor

__all__ = ["Fusion"]


class Fusion(Views):
    """The signs and groups of columns of `path` and `views`.

    Args:
        view: see `Views`.
        groups, classifier, num_trees, minimum_per_class, seed, n_jobs: see `SignsDetector`.
    """

    group_names: ClassVar[Sequence[str]] = (*Path.group_names, *Views.group_names)
    gaussians_of: ClassVar[Sequence[BlockTensor]] = Path.gaussians_of
    # The energy of the view holds that of the image.
    signs: ClassVar[Sequence[Sign]] = (*(sign for sign in Path.signs if sign.name != "energy"), *Views.signs)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Those of `path` and of `views`."""
        return tuple(dict.fromkeys([*path_measurements(), *view_measurements(View.parse(self.view))]))

    def _groups(self, features: Features) -> dict[str, np.ndarray]:
        groups = path_groups(features, self.gaussians_)
        return groups | view_groups(features, View.parse(self.view), self.gaussians_, groups["embeddings"])
