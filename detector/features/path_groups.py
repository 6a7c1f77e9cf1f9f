"""The groups of columns of an image's path and of another view of it, with the Gaussians that they are measured by."""

from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np

from detector.common.arrays import flatten, unflatten
from detector.density.gaussians import Gaussians
from detector.density.natural import gaussians_of_classes
from detector.features import path_columns
from detector.features.path_vectors import PathVectors, ViewLogits, ViewStatistics, ViewVectors
from models.errors import InputError
from models.features import FeatureRequest, Features
from models.images.views import View
from models.residuals import BlockTensor

__all__ = [
    "PATH_GROUPS",
    "VIEW_GROUPS",
    "PathGaussians",
    "path_groups",
    "path_measurements",
    "view_groups",
    "view_measurements",
]

Array = np.ndarray

PATH_GROUPS = ("statistics", "logits", "embeddings", "contrasts", "residues", "energy")
VIEW_GROUPS = ("outputs", "view_statistics", "view_distances", "view_classes", "view_energy")


class PathGaussians:
    """Gaussians of the embeddings and of the residues of every block: of each class, and of all images alike.

    Args:
        parts: "embeddings.classes" and "embeddings.everyone", and the same of residues where they are looked at.
    """

    def __init__(self, parts: Mapping[str, Gaussians]) -> None:
        self.parts = dict(parts)

    @classmethod
    def fit(cls, reference: Features, labels: Array, of: Iterable[BlockTensor]) -> Self:
        """From natural images and their classes."""
        num_classes = reference.logits.shape[1]
        parts = {}
        for what in of:
            values = reference.requested[PathVectors(what).name]
            parts[f"{what}.classes"] = gaussians_of_classes(values, labels, num_classes)
            parts[f"{what}.everyone"] = gaussians_of_classes(values, np.zeros_like(labels), 1)
        return cls(parts)

    def distances(self, features: Features, of: BlockTensor, vectors: FeatureRequest | None = None) -> Array:
        """`class_distances` of measured vectors, the image's own where no others are given, float64 ``(N, 4·L)``.

        The classes are always those that the image itself is likeliest to be of.
        """
        values = features.requested[(vectors or PathVectors(of)).name]
        likeliest = path_columns.two_likeliest(features.logits)
        return path_columns.class_distances(
            values, likeliest, self.parts[f"{of}.classes"], self.parts[f"{of}.everyone"]
        )

    def require_shapes(self, shapes: Mapping[str, tuple[int, ...]], of: Iterable[BlockTensor]) -> None:
        """Raises InputError unless vectors have the shapes ``(L, D)`` that they are measured in, by measurement."""
        for what in of:
            layers, _, width = self.parts[f"{what}.classes"].means.shape
            if (requested := shapes[PathVectors(what).name]) != (layers, width):
                raise InputError(
                    f"expected means of {what} as they are measured, {requested}, got {(layers, width)}; "
                    "the state is damaged"
                )

    def state(self) -> dict[str, Array]:
        """The arrays by name; `from_state` takes them back."""
        return flatten({part: each.state() for part, each in self.parts.items()})

    @classmethod
    def from_state(cls, state: Mapping[str, Array], num_classes: int, of: Iterable[BlockTensor]) -> Self:
        """From arrays that nobody vouches for.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, or not finite.
        """
        wanted: dict[str, int] = {}
        for what in of:
            wanted |= {f"{what}.classes": num_classes, f"{what}.everyone": 1}
        parts = {part: Gaussians.from_state(arrays, wanted[part]) for part, arrays in unflatten(state, wanted).items()}
        for part, each in parts.items():
            layers, classes, width = each.means.shape
            twin = parts[f"{part.partition('.')[0]}.classes"].means
            if classes != wanted[part] or (layers, width) != (len(twin), twin.shape[2]):
                raise InputError(
                    f"expected means of {wanted[part]} classes and alike layers in {part}, got {each.means.shape}; "
                    "the state is damaged"
                )
        return cls(parts)


def path_measurements() -> tuple[FeatureRequest, ...]:
    """What `path_groups` needs to be measured."""
    return (PathVectors("embeddings"), PathVectors("residues"))


def path_groups(features: Features, gaussians: PathGaussians) -> dict[str, Array]:
    """The groups `PATH_GROUPS` of columns ``(N, F_g)``."""
    embeddings = gaussians.distances(features, "embeddings")
    return {
        "statistics": features.statistics,
        "logits": path_columns.logit_columns(features.logits),
        "embeddings": embeddings,
        "contrasts": path_columns.contrasts(embeddings),
        "residues": gaussians.distances(features, "residues"),
        "energy": path_columns.energy(features.logits),
    }


def view_measurements(view: View) -> tuple[FeatureRequest, ...]:
    """What `view_groups` needs to be measured."""
    return (
        PathVectors("embeddings"), ViewLogits(view), ViewStatistics(view), ViewVectors(view),
    )  # fmt: skip


def view_groups(features: Features, view: View, gaussians: PathGaussians, own: Array | None = None) -> dict[str, Array]:
    """The groups `VIEW_GROUPS` of columns ``(N, F_g)``: what the view changes in output and path.

    Outputs are `output_columns`; the others the change of the statistics, the relative distance of the embeddings, and
    the change of their distances to the classes that the image itself is likeliest to be of.

    Args:
        own: the image's own distances of embeddings, where they are known.
    """
    requested = features.requested
    logits = requested[ViewLogits(view).name]
    own = gaussians.distances(features, "embeddings") if own is None else own
    other = gaussians.distances(features, "embeddings", ViewVectors(view))
    return {
        "outputs": path_columns.output_columns(features.logits, logits),
        "view_statistics": requested[ViewStatistics(view).name] - features.statistics,
        "view_distances": path_columns.relative_distances(
            requested[PathVectors("embeddings").name], requested[ViewVectors(view).name]
        ),
        "view_classes": other - own,
        "view_energy": path_columns.energy(features.logits, logits),
    }
