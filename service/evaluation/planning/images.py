"""Images of an evaluation: none twice, none that the artifact has seen, and no image in two sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.artifact import Artifact
from models.datasets.base import ImageDataset
from models.datasets.contents import image_digests
from models.errors import InputError
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.selection import outlier_name
from service.evaluation.planning.settings import EvaluationSettings
from service.inputs import distinct_images, label, require_disjoint, say, with_labels_of
from service.inputs.names import plain_name
from service.inputs.seen_images import unpack

__all__ = ["EvaluationImages", "OutlierImages", "prepare_images", "without_seen"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OutlierImages:
    """A data set of outliers and the rows of it that are used, at most as many as there are natural images."""

    images: ImageDataset
    rows: Rows


@dataclass(frozen=True, eq=False)
class EvaluationImages:
    """The images of an evaluation, of one size, with labels that index the network's logits.

    Args:
        data: natural images, without copies.
        reference: images that detectors compare with, none of them in `data`; None: not given.
        outliers: name of the set → its images, none of them in `data`.
        unseen: rows of `data` that the artifact has not seen; empty without an artifact.
    """

    data: ImageDataset
    reference: ImageDataset | None
    outliers: Mapping[str, OutlierImages]
    unseen: Rows


def prepare_images(inputs: EvaluationInputs, settings: EvaluationSettings, *, artifact_only: bool) -> EvaluationImages:
    """The images of an evaluation, without copies and overlaps.

    Args:
        inputs: as loaded.
        settings: of the evaluation.
        artifact_only: whether images that the artifact has seen are left out altogether.

    Raises:
        InputError: neither a network nor an artifact, images of another size or other classes, sets that overlap, or
            no images left.
    """
    data = _natural(inputs)
    if inputs.artifact is not None and artifact_only:
        data = without_seen(inputs.artifact, data)
    reference = inputs.reference
    if reference is not None:
        reference = distinct_images(with_labels_of(reference, data.classes, len(data.classes), "the network"))
        require_disjoint(reference, data)
    outliers = {
        outlier_name(name): _sampled(images, len(data), settings.seed)
        for name, images in _disjoint_outliers(inputs.outliers, data, settings.fit_ood).items()
    }
    shape = data.image_shape if inputs.artifact is None else inputs.artifact.pipeline.image_shape
    _check_sizes(shape, data, reference, outliers)
    unseen = np.empty(0, np.int64) if inputs.artifact is None else _unseen_rows(inputs.artifact, data)
    return EvaluationImages(data, reference, outliers, unseen)


def _natural(inputs: EvaluationInputs) -> ImageDataset:
    """The natural images with the network's labels, without copies."""
    if inputs.artifact is not None:
        classes = inputs.artifact.pipeline.classes
        return distinct_images(with_labels_of(inputs.data, classes, len(classes), "the artifact"))
    if inputs.network is None:
        raise InputError("give a network or an artifact to evaluate (--network or --artifact)")
    loaded = inputs.network
    return distinct_images(
        with_labels_of(inputs.data, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    )


def _unseen_rows(artifact: Artifact, data: ImageDataset) -> Rows:
    """Rows of the images that the artifact was neither fitted, calibrated nor prepared on, by their pixels."""
    seen = unpack(artifact.manifest["provenance"].get("originals", ""))
    return np.flatnonzero(~np.isin(image_digests(data), seen))


def without_seen(artifact: Artifact, data: ImageDataset) -> ImageDataset:
    """The images of `_unseen_rows`.

    Raises:
        InputError: the artifact has seen all images.
    """
    rows = _unseen_rows(artifact, data)
    if not len(rows):
        raise InputError(f"the artifact has seen all images of {data.name}; give others")
    if len(rows) < len(data):
        say(f"{len(data) - len(rows)} of {len(data)} images were fitted or calibrated on and are left out")
    return data.take(rows)


def _disjoint_outliers(
    outliers: Mapping[str, ImageDataset], data: ImageDataset, fit_ood: Sequence[str]
) -> dict[str, ImageDataset]:
    """The outliers without copies, without natural images, and without images of a set that is fitted on.

    Args:
        outliers: label → data set.
        data: natural images.
        fit_ood: labels of the sets that are fitted on.

    Raises:
        InputError: a set comes from the natural images' data set, or no image of it is left.
    """
    distinct = {name: distinct_images(images) for name, images in outliers.items()}
    own = plain_name(data.name)
    for name in distinct:
        if name == label(data.name) or (own and plain_name(name) == own):
            raise InputError(f"expected outliers from another data set than {label(data.name)}, got {name}")
    taken = image_digests(data)
    for name in sorted(distinct, key=lambda name: name not in fit_ood):  # those that are fitted on first
        digests = image_digests(distinct[name])
        fresh = np.flatnonzero(~np.isin(digests, taken))
        if not len(fresh):
            raise InputError(f"all outliers in {name} are natural images or in a set to fit on; give other outliers")
        if len(fresh) < len(digests):
            say(f"{len(digests) - len(fresh)} of {len(digests)} images of {name} are in another set and are left out")
            distinct[name] = distinct[name].take(fresh)
        if name in fit_ood:
            taken = np.union1d(taken, digests)
    return distinct


def _sampled(images: ImageDataset, count: int, seed: int) -> OutlierImages:
    """At most `count` images, sampled at random."""
    return OutlierImages(images, np.sort(np.random.default_rng([seed, 3]).permutation(len(images))[:count]))


def _check_sizes(
    shape: tuple[int, int, int],
    data: ImageDataset,
    reference: ImageDataset | None,
    outliers: Mapping[str, OutlierImages],
) -> None:
    others = {name: each.images for name, each in outliers.items()}
    for name, images in {"the natural images": data, **others, "the reference": reference}.items():
        if images is not None and images.image_shape != shape:
            raise InputError(f"expected images {shape} in {name}, got {images.image_shape}")
