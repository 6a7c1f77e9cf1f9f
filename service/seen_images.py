"""Which images a detector has seen: digests of originals, kept in the artifact so that no evaluation reuses one.

A digest is the first 64 bits of the SHA-256 of an image's pixels. It does not tell the image, and two images share one
with a chance that does not matter here; at worst an image is left out of an evaluation.
"""

import base64
import hashlib

import numpy as np

from models.datasets.base import ImageDataset
from models.errors import ArtifactError

__all__ = ["digests", "pack", "unpack"]


def digests(data: ImageDataset) -> np.ndarray:
    """One digest per image, uint64 ``(N,)``."""
    raw = b"".join(hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in data.images)
    return np.frombuffer(raw, dtype="<u8")


def pack(values: np.ndarray) -> str:
    """Digests as text for a manifest, sorted and without repetition."""
    return base64.b64encode(np.unique(values).astype("<u8").tobytes()).decode("ascii")


def unpack(text: object) -> np.ndarray:
    """The digests that `pack` wrote.

    Raises:
        ArtifactError: it is not such a text.
    """
    try:
        return np.frombuffer(base64.b64decode(str(text), validate=True), dtype="<u8")
    except ValueError as exc:
        raise ArtifactError("expected digests of the originals in the artifact, got something else; fit again") from exc
