"""Images of a data set without copies, and data sets without common images."""

import numpy as np

from models.datasets.base import ImageDataset
from models.datasets.contents import contents_of, image_digests, without_copies
from models.errors import InputError
from models.progress import say
from service.inputs.names import label

__all__ = ["distinct_images", "hold_out", "require_disjoint"]


def distinct_images(data: ImageDataset) -> ImageDataset:
    """The images, each once.

    A copy in another part of a split would be scored by a detector that was fitted on it. Copies in one part would
    count as independent images in p-values, covariances and nearest neighbours.
    """
    distinct = without_copies(data)
    if len(distinct) < len(data):
        copies, several = len(data) - len(distinct), contents_of(data).contradictory
        labels = f"; {several} images have copies with another label, and the first label is used" if several else ""
        say(
            f"{copies} of {len(data)} images of {label(data.name)} are copies of others and are left out, which leaves "
            f"{len(distinct)} images{labels}"
        )
    return distinct


def hold_out(data: ImageDataset, count: int, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The images without a random sample, and the sample.

    Args:
        data: images, copies included.
        count: size of the sample.
        seed: of the sample.

    Returns:
        The images that are no copies of sampled ones, and the sample; both in their original order.

    Raises:
        InputError: the sample leaves no image.
    """
    order = np.random.default_rng(seed).permutation(len(data))
    sampled, digests = np.sort(order[:count]), image_digests(data)
    rest = np.flatnonzero(~np.isin(digests, digests[sampled]))
    if not len(rest):
        raise InputError(f"{count} held-out images of {label(data.name)} leave no other images; hold out fewer")
    return data.take(rest), data.take(sampled)


def require_disjoint(one: ImageDataset, other: ImageDataset) -> None:
    """Check that no image is in both data sets, by their pixels.

    Raises:
        InputError: some image is in both.
    """
    overlap = np.intersect1d(image_digests(one), image_digests(other)).size
    if overlap:
        raise InputError(
            f"{label(one.name)} and {label(other.name)} share {overlap} images; use disjoint images: a threshold is "
            "valid only for images that the detector has not seen, and an image that is compared with itself always "
            "looks natural"
        )
