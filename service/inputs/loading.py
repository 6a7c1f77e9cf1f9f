"""Loading of the data sets of a command."""

from pathlib import Path
from typing import Protocol

from detector.artifact import Artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.loading import preset_size

__all__ = ["dataset_request", "load_for_artifact"]


class _Loading(Protocol):
    """`LoadingOptions`, or a request with the same fields."""

    @property
    def data_root(self) -> Path: ...
    @property
    def download(self) -> bool: ...
    @property
    def resize(self) -> int | None: ...
    @property
    def crop(self) -> int | None: ...
    @property
    def max_pixels(self) -> int: ...
    @property
    def strict(self) -> bool: ...


def dataset_request(options: _Loading, network: str | None = None) -> DatasetRequest:
    """The arguments of `load_dataset`; without --resize and --crop, those of the network's preset, if it has one."""
    resize, crop = options.resize, options.crop
    if network is not None and resize is None and crop is None:
        resize, crop = preset_size(network)
    return _request(options, resize, crop)


def load_for_artifact(reference: str, options: _Loading, artifact: Artifact) -> ImageDataset:
    """A data set with the artifact's preprocessing.

    Raises:
        InputError: --resize or --crop differs from the artifact's, or images of another shape.
        DatasetError: see `load_dataset`.
    """
    recorded = artifact.preprocessing
    for name in ("resize", "crop"):
        given, expected = getattr(options, name), getattr(recorded, name)
        if given not in (None, expected):
            raise InputError(f"expected the artifact's --{name} {expected}, got {given}; leave it out")
    data = load_dataset(reference, _request(options, recorded.resize, recorded.crop))
    if data.image_shape != artifact.spec.image_shape:
        raise InputError(f"expected images {artifact.spec.image_shape} for this artifact, got {data.image_shape}")
    return data


def _request(options: _Loading, resize: int | None, crop: int | None) -> DatasetRequest:
    return DatasetRequest(
        root=options.data_root, download=options.download, resize=resize, crop=crop,
        max_pixels=options.max_pixels, strict=options.strict,
    )  # fmt: skip
