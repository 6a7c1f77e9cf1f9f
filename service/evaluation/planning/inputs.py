"""The network or artifact, and the images, that an evaluation uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from detector.artifact import Artifact
from models.datasets.base import ImageDataset
from models.loading import LoadedNetwork

__all__ = ["EvaluationInputs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationInputs:
    """The network or artifact to evaluate, and the images.

    Args:
        data: natural images.
        network: to fit detectors on; None beside an artifact.
        artifact: evaluated as it is; None beside a network.
        outliers: label → data set, those to fit on among them, in the size of `data`.
        reference: natural images, none of them in `data`, for detectors that compare with reference images.
        companion: a second network of the same classes, for detectors that compare with one; None beside an artifact,
            which contains its own.
        trained_on: whether the network was trained on these very images, of which the report warns.
    """

    data: ImageDataset
    network: LoadedNetwork | None = None
    artifact: Artifact | None = None
    outliers: Mapping[str, ImageDataset] = field(default_factory=dict)
    reference: ImageDataset | None = None
    companion: LoadedNetwork | None = None
    trained_on: bool = False
