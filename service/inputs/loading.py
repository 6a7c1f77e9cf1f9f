"""Loading of the data sets of a command, and the source of its attacked images."""

from pathlib import Path
from typing import Protocol

from torch import nn

from attacks import Attack
from attacks.generation.folder import AttackedFolder
from attacks.generation.sharded import ShardedAttack
from detector.artifact import Artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.loading import preset_size
from models.runners import build_runner
from service.provenance import provenance

__all__ = ["attacked_source", "dataset_request", "load_for_artifact"]


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


class _Attacking(Protocol):
    """Options of a job that attacks images."""

    @property
    def attacked(self) -> Path | None: ...
    @property
    def runner(self) -> str | None: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def cache(self) -> Path | None: ...
    @property
    def device(self) -> str: ...


def attacked_source(options: _Attacking, network: nn.Module, attack: Attack) -> AttackedFolder | ShardedAttack | None:
    """The source of attacked images by --attacked or --runner; None without both: the job calls `generate`.

    Raises:
        InputError: both options, no --cache for a runner, or no such images in the folder.
    """
    if options.runner is None:
        return None if options.attacked is None else AttackedFolder(options.attacked, network, attack)
    if options.attacked is not None:
        raise InputError("--runner has no effect on the images of --attacked; leave one of the options out")
    if options.cache is None:
        raise InputError("--runner needs --cache, the folder for the attacked images; add it")
    runner = build_runner(options.runner, workers=options.workers, device=options.device)
    return ShardedAttack(options.cache.absolute(), network, attack, runner, metadata={"provenance": provenance()})


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
