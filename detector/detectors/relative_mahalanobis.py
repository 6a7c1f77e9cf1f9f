"""Mahalanobis distances to the nearest class minus the distance to the mean of all images (Ren et al., 2021)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from detector.base.columns import ColumnsDetector
from detector.common.arrays import flatten, unflatten
from detector.common.options import require_choice
from detector.density.gaussians import MIN_CLASS_IMAGES, Gaussians
from detector.features.embeddings import Layers, PooledEmbeddings
from models.errors import InputError
from models.features import FeatureRequest, Features

__all__ = ["RelativeMahalanobis"]


class RelativeMahalanobis(ColumnsDetector):
    """Columns: per layer, min_c d_c − d_0, with d_c as in `mahalanobis` and d_0 the distance to a Gaussian of all.

    From "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection" (Ren, Fort, Liu, Roy, Padhy and
    Lakshminarayanan, 2021); the thesis, E.2.1. Properties that all classes have in common, such as the brightness of an
    image, then have no effect. The paper uses the last layer, as does the outlier score of classifier="none" by
    default.

    Args:
        layers: "blocks" for all recorded blocks; "stages" for the last of each run of blocks of one shape.
        combine: "sum" or "last", the layers' part in the outlier score.
        options: see `ColumnsDetector`.
    """

    needs_reference = True

    classes_: Gaussians
    background_: Gaussians

    def __init__(
        self,
        *,
        layers: Layers = "blocks",
        combine: Literal["sum", "last"] = "last",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.layers = layers
        self.combine = combine

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_choice("layers", self.layers, get_args(Layers))
        require_choice("combine", self.combine, ("sum", "last"))

    def _unused_options(self) -> tuple[str, ...]:
        return (*super()._unused_options(), *(() if self.classifier == "none" else ("combine",)))

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Embeddings."""
        return (PooledEmbeddings(self.layers),)

    def _prepare(self, reference: Features, labels: np.ndarray) -> None:
        if np.unique(labels, return_counts=True)[1].max() < MIN_CLASS_IMAGES:
            raise InputError(
                "relative_mahalanobis compares the classes with all images, but no class has "
                f"{MIN_CLASS_IMAGES} reference images; give more images per class, or use mahalanobis"
            )
        embeddings = reference.requested[PooledEmbeddings(self.layers).name]
        self.classes_ = Gaussians.fit(embeddings, labels)
        self.background_ = Gaussians.fit(embeddings, np.zeros_like(labels))

    def _columns(self, features: Features) -> np.ndarray:
        embeddings = features.requested[PooledEmbeddings(self.layers).name]
        relative: np.ndarray = self.classes_.distances(embeddings) - self.background_.distances(embeddings)
        return relative

    def _outlier_score(self, features: Features) -> np.ndarray:
        relative = self._columns(features)
        score: np.ndarray = relative.sum(axis=1) if self.combine == "sum" else relative[:, -1].copy()
        return score

    def _reference_state(self) -> dict[str, np.ndarray]:
        return flatten({"classes": self.classes_.state(), "background": self.background_.state()})

    def _restore_reference(self, state: Mapping[str, np.ndarray]) -> None:
        parts = unflatten(state, ("classes", "background"))
        self.classes_ = Gaussians.from_state(parts["classes"], self.num_classes_)
        self.background_ = Gaussians.from_state(parts["background"], 1)
        if self.classes_.means[:, 0].shape != self.background_.means[:, 0].shape:
            raise InputError("expected classes and background of the same layers; the state is damaged")
