"""Encoded images of one source, decoded in threads into one data set; and their labels as class indices."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image

from models.datasets.base import MAX_CLASSES, DatasetRequest, EmptyPartError, ImageDataset, preprocessing_for
from models.errors import DatasetError, ImageError
from models.files import readable
from models.images.decoding import Limits, open_rgb
from models.images.prefetch import prefetched
from models.images.preprocessing import Preprocessing
from models.images.stored import ImageBuffer
from models.progress import progress_bar, say

__all__ = ["EncodedImage", "class_labels", "decode_images", "within_limits"]

_MAX_UNREADABLE_PERCENT = 1


@dataclass(frozen=True)
class EncodedImage:
    """One image of a source.

    Args:
        name: of the file or row, for messages.
        label: index of its class.
        read: returns the bytes of the image file, in any thread; checks the file size against the limits first.
    """

    name: str
    label: int
    read: Callable[[Limits], bytes]


def within_limits(content: bytes | memoryview, size: int, limits: Limits) -> bytes:
    """The bytes of an image file that a table or an archive contains, for `EncodedImage.read`.

    Args:
        content: the bytes; not used if the size exceeds the limits.
        size: number of bytes in the source.
        limits: on the size; `Limits.check_bytes` raises.
    """
    limits.check_bytes(size)
    return bytes(content)


def decode_images(
    images: Callable[[range], Iterable[EncodedImage]],
    count: int,
    classes: Sequence[str],
    request: DatasetRequest,
    *,
    source: str,
    skipped: Mapping[str, int] | None = None,
) -> ImageDataset:
    """The data set of encoded images, each decoded as the server decodes an upload, in one thread per core.

    Images have 3·H·W bytes after preprocessing; more than 256 MiB are in a temporary file. The first image that can be
    decoded decides the size of all. At most 1 % of the images of the source, and at least one, may be unreadable; they
    are reported and left out, unless the request is strict.

    Args:
        images: returns the images at given positions of the source, in order; a few images are read ahead.
        count: number of images in the source.
        classes: names, by label.
        request: the part of the images, resizing, cropping and limits.
        source: name of the folder or file, for messages.
        skipped: reason → number of files of the source that are not among the images.

    Raises:
        ImageError: too many images that cannot be decoded, or an image of another size than the first.
        DatasetError: no image, or labels outside the classes.
        EmptyPartError: no image of the part can be decoded.
    """
    rows = request.rows(count)
    unreadable = _Unreadable(0 if request.strict else max(1, count * _MAX_UNREADABLE_PERCENT // 100), count)
    wanted, preprocessing = _first_size(zip(rows, images(rows), strict=True), request, unreadable)

    def pixels_of(image: EncodedImage) -> np.ndarray | str:
        opened = _open(image, request.limits)
        if isinstance(opened, str):
            return opened
        try:
            return preprocessing.apply(opened)
        except ImageError as exc:
            raise ImageError(f"{image.name}: {exc}") from exc

    buffer = ImageBuffer(len(rows), (3, preprocessing.height, preprocessing.width), np.uint8)
    labels, positions = list[int](), list[int]()
    with progress_bar(what=f"reading {source}", unit="image", total=len(rows)) as bar:
        bar.update(len(unreadable.errors))
        for (row, image), pixels in prefetched(lambda each: (each, pixels_of(each[1])), wanted):
            bar.update()
            if isinstance(pixels, str):
                unreadable.add(f"{image.name}: {pixels}", row)
                continue
            buffer.write(len(labels), pixels[None])
            labels.append(image.label)
            positions.append(row)
    unreadable.report(source)
    counts = {"unreadable": len(unreadable.errors), **(skipped or {})}
    return ImageDataset(
        source, buffer.images(len(labels)), np.array(labels, dtype=np.int64), tuple(map(readable, classes)),
        preprocessing, {reason: number for reason, number in counts.items() if number},
        np.array(positions, dtype=np.int64),
    )  # fmt: skip


def class_labels(labels: Sequence[str | int], source: str) -> tuple[list[int], tuple[str, ...]]:
    """Class indices of labels, and the names of the classes.

    Whole numbers are class indices, whose names are the numbers. Other labels are names; they are numbered in
    alphabetical order. If every label is -1, as in lists of out-of-distribution images, there is one class.

    Raises:
        DatasetError: a negative number among other numbers, or one that is too large.
    """
    texts = [str(label).strip() for label in labels]
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        names = sorted(set(texts))
        index = {name: label for label, name in enumerate(names)}
        return [index[text] for text in texts], tuple(names)
    if set(numbers) == {-1}:
        return [0] * len(numbers), ("-1",)
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low < 0 or high >= MAX_CLASSES:
        raise DatasetError(
            f"{source}: expected labels in 0..{MAX_CLASSES - 1}, or -1 for every image, got {low}..{high}; number the "
            "classes from 0"
        )
    return numbers, tuple(map(str, range(high + 1)))


def _first_size(
    images: Iterator[tuple[int, EncodedImage]], request: DatasetRequest, unreadable: "_Unreadable"
) -> tuple[Iterator[tuple[int, EncodedImage]], Preprocessing]:
    """The images from the first one on that can be decoded, and the preprocessing for its size."""
    for row, image in images:
        opened = _open(image, request.limits)
        if not isinstance(opened, str):
            return chain([(row, image)], images), preprocessing_for(opened.height, opened.width, request)
        unreadable.add(f"{image.name}: {opened}", row)
    if errors := unreadable.errors:
        if len(errors) < unreadable.images:
            raise EmptyPartError(f"none of the {len(errors)} images of this part can be decoded: {errors[0]}")
        raise ImageError(f"no image can be decoded; {errors[0]}")
    raise DatasetError("expected at least one image, got none")


def _open(image: EncodedImage, limits: Limits) -> Image.Image | str:
    """The image, or the reason why it cannot be decoded."""
    try:
        return open_rgb(image.read(limits), limits)
    except ImageError as exc:
        return str(exc)
    except OSError as exc:
        return f"the file cannot be read: {exc.strerror or exc}"


class _Unreadable:
    """Images that cannot be decoded.

    Args:
        limit: the number that is accepted.
        images: number of all images of the source.
    """

    def __init__(self, limit: int, images: int) -> None:
        self.limit, self.images = limit, images
        self.errors: list[str] = []
        self.positions: list[int] = []

    def add(self, error: str, position: int) -> None:
        """Count an image.

        Raises:
            ImageError: more images than the limit cannot be decoded.
        """
        self.errors.append(error)
        self.positions.append(position)
        if len(self.errors) > self.limit:
            count = f"{len(self.errors)} of {self.images} files, more than the accepted {self.limit}, cannot be decoded"
            raise ImageError(f"{count}; {self.errors[0]}" if self.limit else self.errors[0])

    def report(self, source: str) -> None:
        """Print the number of images, the positions of the first ten, and the reason for the first."""
        if self.errors:
            positions = ", ".join(map(str, self.positions[:10])) + (", …" if len(self.positions) > 10 else "")
            say(
                f"{len(self.errors)} of {self.images} files of {source} are left out (index {positions}, from 0): "
                f"{self.errors[0]}"
            )
