"""From decoded images to the network's pixels, in the same way for images to fit on and images to score."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from models.errors import ImageError, InputError

__all__ = ["Preprocessing"]

_MAXIMUM_SIDE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """Pixels uint8 ``(3, height, width)`` of an RGB image.

    Args:
        resize: pixels of the shorter side after a bilinear, anti-aliased resize; None does not resize.
        crop: side of the central square that is cropped afterwards, in pixels; None does not crop.
        height, width: of the result, in pixels. An image with another size after `resize` and `crop` is refused: the
            threshold was not calibrated on images that are resized otherwise.
    """

    resize: int | None
    crop: int | None
    height: int
    width: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is None and name in ("resize", "crop"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAXIMUM_SIDE:
                raise InputError(f"expected {name} to be pixels between 1 and {_MAXIMUM_SIDE}, got {value!r}")
        if self.crop is not None and (self.height, self.width) != (self.crop, self.crop):
            raise InputError(f"expected height and width to equal crop {self.crop}, got {self.height}×{self.width}")

    @property
    def num_bytes(self) -> int:
        """Bytes of the result."""
        return 3 * self.height * self.width

    @property
    def any_size(self) -> bool:
        """Whether it accepts images of several sizes."""
        return self.resize is not None or self.crop is not None

    def check_size(self, width: int, height: int) -> None:
        """Refuse the size of an image, in pixels, if `apply` refuses it both upright and rotated by 90°.

        Raises:
            ImageError: as `apply`.
        """
        size = (width, height)
        if self.resize is not None:
            size = _resized(size, self.resize)
        if self.crop is not None:
            _check_crop(size, self.crop)
        elif sorted(size) != sorted((self.width, self.height)):
            raise self._other_size(size)

    def apply(self, image: Image.Image) -> np.ndarray:
        """Pixels uint8 ``(3, height, width)`` of `image`, which must be in mode RGB.

        Raises:
            ImageError: the image is smaller than the crop, or of another size than expected.
        """
        assert image.mode == "RGB", image.mode
        if self.resize is not None:
            image = _resize_shorter_side(image, self.resize)
        if self.crop is not None:
            image = _crop_centre(image, self.crop)
        if (image.height, image.width) != (self.height, self.width):
            raise self._other_size(image.size)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def _other_size(self, size: tuple[int, int]) -> ImageError:
        return ImageError(
            f"expected an image of {self.width}×{self.height} pixels (width × height), got {size[0]}×{size[1]}; "
            "send that size, or fit the detector with --resize and --crop"
        )

    def to_json(self) -> dict[str, int | None]:
        """The fields, for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> "Preprocessing":
        """The preprocessing from the fields of `to_json`.

        Raises:
            InputError: a field is missing, unknown or out of range.
        """
        if not isinstance(fields, dict) or set(fields) != {"resize", "crop", "height", "width"}:
            raise InputError(f"expected preprocessing with resize, crop, height and width, got {fields!r}")
        return cls(**fields)


def _resize_shorter_side(image: Image.Image, side: int) -> Image.Image:
    if min(image.size) == side:
        return image
    return image.resize(_resized(image.size, side), Image.Resampling.BILINEAR)


def _resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    if min(size) == side:
        return size
    scale = side / min(size)
    width, height = (max(side, round(length * scale)) for length in size)
    if max(width, height) > _MAXIMUM_SIDE:
        raise ImageError(f"expected a side ratio that keeps resized images under {_MAXIMUM_SIDE} pixels, got {size}")
    return width, height


def _crop_centre(image: Image.Image, side: int) -> Image.Image:
    _check_crop(image.size, side)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _check_crop(size: tuple[int, int], side: int) -> None:
    if min(size) < side:
        raise ImageError(
            f"expected an image of at least {side}×{side} pixels to crop, got {size[0]}×{size[1]}; "
            "send a larger one, or fit the detector with a --resize at least as large as --crop"
        )
