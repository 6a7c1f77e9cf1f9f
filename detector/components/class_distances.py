"""Mahalanobis distances to the classes and to all images, block by block; shared by several components."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array, namespace
from detector.common.arrays import flatten, unflatten
from detector.components.base import Inputs, Sizes
from detector.density.gaussians import Gaussians, class_gaussians
from detector.features.path_columns import class_distances
from detector.features.path_vectors import PathVectors
from models.errors import InputError
from models.features import FeatureRequest, Features
from models.residuals import BlockTensor

__all__ = ["ClassDistances"]


class ClassDistances:
    """Gaussians of the pooled embeddings or residues of every block: one per class, and one of all images.

    Args:
        quantity: "embeddings" or "residues".
    """

    classes_: Gaussians
    background_: Gaussians

    def __init__(self, quantity: BlockTensor) -> None:
        self.name = quantity
        self.request = PathVectors(quantity)
        self._requests: list[FeatureRequest] = [self.request]

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The request for the pooled vectors."""
        return (self.request,)

    def include(self, request: FeatureRequest) -> None:
        """Also compute the distances of these vectors, such as those of a view, in the same evaluation."""
        self._requests.append(request)

    def distances(self, inputs: Inputs, request: FeatureRequest | None = None) -> Array:
        """`class_distances` float64 ``(N, 4·L)`` of the image's own vectors, or of those of an included request.

        The two likeliest classes are always those of the image itself.
        """
        every = inputs.shared(f"class distances of {self.name}", lambda: self._all_distances(inputs))
        if len(self._requests) == 1:
            return every
        index, count = self._requests.index(request or self.request), len(inputs.logits)
        return every[index * count : (index + 1) * count]

    def _all_distances(self, inputs: Inputs) -> Array:
        """Of all requests, one after the other."""
        vectors = [inputs.requested[each.name] for each in self._requests]
        classes = inputs.outputs().top_two_classes
        if len(vectors) == 1:
            return class_distances(vectors[0], classes, self._joined)
        xp = namespace(*vectors)
        return class_distances(xp.concat(vectors), xp.concat([classes] * len(vectors)), self._joined)

    def prepare(self, reference: Features, labels: np.ndarray) -> None:
        """Fit the Gaussians on reference images and their classes."""
        values = reference.requested[self.request.name]
        self.classes_ = class_gaussians(values, labels, reference.logits.shape[1])
        self.background_ = class_gaussians(values, np.zeros_like(labels), 1)
        self._join()

    def _join(self) -> None:
        # One evaluation for both sets of Gaussians.
        self._joined = Gaussians(self.classes_.means, self.classes_.whitening, self.background_)

    def state(self) -> dict[str, np.ndarray]:
        """Means and whitening matrices of both sets of Gaussians."""
        return flatten({"classes": self.classes_.state(), "background": self.background_.state()})

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`.

        Raises:
            InputError: an array is missing or unknown, or does not fit the network's classes and vectors.
        """
        parts = unflatten(state, ("classes", "background"))
        self.classes_ = Gaussians.from_state(parts["classes"], sizes.num_classes)
        self.background_ = Gaussians.from_state(parts["background"], 1)
        layers, width = sizes.inputs.requested[self.request.name].shape[1:]
        for gaussians, classes in ((self.classes_, sizes.num_classes), (self.background_, 1)):
            if gaussians.means.shape != (layers, classes, width):
                raise InputError(
                    f"expected means of {self.name} of shape {(layers, classes, width)}, got {gaussians.means.shape}; "
                    "the state is damaged"
                )
        self._join()
