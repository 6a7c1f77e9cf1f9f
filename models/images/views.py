"""Views: transformed images, for example mirrored, to which a network was trained to be invariant."""

import re
from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from models.errors import InputError

__all__ = ["IMAGE", "View"]

_LARGEST_SHIFT = 64  # pixels
_SPELLING = re.compile(r"(?P<flip>flip)?(?:(?(flip)\+)shift(?P<shift>[1-9][0-9]?))?")


@dataclass(frozen=True)
class View:
    """Images ``(B, 3, H, W)`` in [0, 1] → the same images mirrored, shifted, or both; still in [0, 1].

    Args:
        flip: whether images are mirrored left to right.
        shift: pixels downwards and to the right; the new border is black, as in the padded crops of training.
    """

    flip: bool = False
    shift: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The view with the name `text`: ``flip``, ``shift2`` (by two pixels) or ``flip+shift1``.

        Raises:
            InputError: another text, or a view that is the image itself.
        """
        found = _SPELLING.fullmatch(text) if isinstance(text, str) and text else None
        if found is None or int(found["shift"] or 0) > _LARGEST_SHIFT:
            raise InputError(
                f"expected a view such as flip, shift1 or flip+shift1, with at most {_LARGEST_SHIFT} pixels, "
                f"got {text!r:.100}"
            )
        return cls(flip=found["flip"] is not None, shift=int(found["shift"] or 0))

    @property
    def name(self) -> str:
        """The text that `parse` takes."""
        parts = ["flip"] * self.flip + [f"shift{self.shift}"] * bool(self.shift)
        return "+".join(parts)

    def __call__(self, images: Tensor) -> Tensor:
        """The view of the images, differentiable.

        Raises:
            InputError: the shift is as large as the images.
        """
        seen = images.flip(3) if self.flip else images
        if not self.shift:
            return seen
        height, width = seen.shape[2:]
        if self.shift >= min(height, width):
            raise InputError(
                f"expected a shift smaller than the images, got {self.shift} pixels for {height}×{width}; shift by less"
            )
        return F.pad(seen, (self.shift, 0, self.shift, 0))[:, :, :height, :width]


IMAGE = View()  # the image itself
