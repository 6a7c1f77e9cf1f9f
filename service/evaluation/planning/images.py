"""Images of an evaluation: none twice, none that the artifact has seen, and no image in two sets."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detector.artifact import Artifact
from models.datasets.base import ImageDataset
from models.errors import InputError
from service.inputs import label, say
from service.inputs.names import plain_name
from service.inputs.seen_images import image_digests, unpack

__all__ = ["disjoint_outliers", "disjoint_reference", "unseen_rows", "without_copies", "without_seen"]


def unseen_rows(artifact: Artifact, data: ImageDataset) -> NDArray[np.int64]:
    """Rows of the images that the artifact was neither fitted, calibrated nor prepared on, by their pixels."""
    seen = unpack(artifact.manifest["provenance"].get("originals", ""))
    return np.flatnonzero(~np.isin(image_digests(data), seen))


def without_seen(artifact: Artifact, data: ImageDataset) -> ImageDataset:
    """The images of `unseen_rows`.

    Raises:
        InputError: the artifact has seen all images.
    """
    rows = unseen_rows(artifact, data)
    if not len(rows):
        raise InputError(f"the artifact has seen all images of {data.name}; give others")
    if len(rows) < len(data):
        say(f"{len(data) - len(rows)} of {len(data)} images were fitted or calibrated on and are left out")
    return data.take(rows)


def without_copies(data: ImageDataset) -> ImageDataset:
    """The images, each once; copies could be in two parts of a split."""
    _, first = np.unique(image_digests(data), return_index=True)
    if len(first) == len(data):
        return data
    say(f"{len(data) - len(first)} of {len(data)} images of {data.name} are copies of others and are left out")
    return data.take(np.sort(first))


def disjoint_reference(reference: ImageDataset, data: ImageDataset) -> ImageDataset:
    """The reference images, unchanged.

    Raises:
        InputError: some of them are among the natural images.
    """
    overlap = np.intersect1d(image_digests(reference), image_digests(data)).size
    if overlap:
        raise InputError(
            f"{overlap} images of the reference {label(reference.name)} are also among the natural images; an image "
            "that is compared with itself always looks natural: give another reference"
        )
    return reference


def disjoint_outliers(
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
    distinct = {name: without_copies(images) for name, images in outliers.items()}
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
