"""Digests of the images that a detector was fitted, calibrated or prepared on; evaluations skip these images.

A digest (`models.datasets.contents.image_digests`) does not reveal the image. If two images share a digest, which is
unlikely, an evaluation leaves out one image too many.
"""

import base64

import numpy as np
from numpy.typing import NDArray

from models.errors import ArtifactError

__all__ = ["pack", "unpack"]


def pack(digests: NDArray[np.uint64]) -> str:
    """Digests as text for a manifest, sorted and without repetition."""
    return base64.b64encode(np.unique(digests).astype("<u8").tobytes()).decode("ascii")


def unpack(text: object) -> NDArray[np.uint64]:
    """The digests that `pack` wrote.

    Raises:
        ArtifactError: the text has another format.
    """
    try:
        return np.frombuffer(base64.b64decode(str(text), validate=True), dtype="<u8")
    except ValueError as exc:
        raise ArtifactError("the artifact's list of seen images is damaged; fit again") from exc
