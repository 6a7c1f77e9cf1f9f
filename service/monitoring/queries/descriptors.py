"""The stored values of a query's pixels: a descriptor, a secret sketch and a digest."""

import functools
import hashlib
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["DESCRIPTOR_SIZE", "SKETCH_SIZE", "Query", "Sketcher", "descriptors"]

DESCRIPTOR_SIZE = 48  # 4 × 4 frequencies of three channels
SKETCH_SIZE = 64  # sums

_GRID, _FREQUENCIES = 8, 4
# The sums of a sketch are stored as int16. Natural pixels deviate from 128 by 75 on average; six deviations fit.
_SPREAD, _DEVIATIONS = 75.0, 6.0
_PIECE_PIXELS = 1 << 18  # of images that are converted at once; float32 copies of more do not fit into a cache
_TINY = float(np.finfo(np.float64).tiny)


class Query(NamedTuple):
    """One scored image without its pixels.

    Args:
        descriptor: float32 ``(48,)``; see `descriptors`.
        sketch: int16 ``(64,)``; see `Sketcher`.
        digest: 64 bits of a hash of the exact sums of the sketch and of the pixels' CRC-32.
        log_probabilities: float64 ``(K,)``, of the network, divided by the margin scale.
        label: the predicted class.
        lead: that of the predicted class minus that of the second one; 0 for a single class.
        flagged: of the verdict.
    """

    descriptor: np.ndarray
    sketch: np.ndarray
    digest: int
    log_probabilities: np.ndarray
    label: int
    lead: float
    flagged: bool


class Sketcher:
    """Sketches, digests and queries of images of one shape, under a secret permutation and secret signs.

    The pixels are permuted, multiplied by signs ±1 and summed in 64 groups. The expected squared distance between two
    sketches is that of the images, up to a constant factor. An attacker who does not know the secret cannot choose
    images whose sketches are equal.

    Args:
        shape: (3, H, W) of the images.
        rng: source of the secret.
        margin_scale: of the network; see `service.monitoring.queries.scale`.
    """

    def __init__(self, shape: tuple[int, int, int], rng: np.random.Generator, margin_scale: float = 1.0) -> None:
        size = math.prod(shape)
        columns = math.ceil(size / SKETCH_SIZE)
        order = np.zeros(SKETCH_SIZE * columns, np.intp)
        order[:size] = rng.permutation(size)
        signs = rng.choice(np.array([-1, 1], np.float32), len(order))
        signs[size:] = 0
        self.shape, self.margin_scale = shape, margin_scale
        self._order, self._signs = order, signs.reshape(SKETCH_SIZE, columns)
        self._scale = np.float32(np.iinfo(np.int16).max / (_DEVIATIONS * _SPREAD * math.sqrt(columns)))
        self._offset = 128 * self._signs.sum(1)

    def queries(self, pixels: Sequence[np.ndarray], probabilities: np.ndarray, flagged: Sequence[bool]) -> list[Query]:
        """The queries of images.

        Args:
            pixels: of each image, uint8 ``(3, H, W)``, as the network takes them.
            probabilities: float64 ``(N, K)``, of the network.
            flagged: of each verdict.
        """
        logs = np.log(np.maximum(probabilities, _TINY)) / self.margin_scale
        labels = logs.argmax(1).tolist()
        second, first = np.partition(logs, -2, axis=1)[:, -2:].T if logs.shape[1] > 1 else (logs[:, 0],) * 2
        leads = (first - second).tolist()
        size = max(1, _PIECE_PIXELS // math.prod(self.shape))
        parts = (np.stack(pixels[start : start + size]) for start in range(0, len(pixels), size))
        values = (each for part in parts for each in self._values(part))
        return [
            Query(described, sketch, digest, log, label, lead, flag)
            for (described, sketch, digest), log, label, lead, flag in zip(
                values, logs, labels, leads, flagged, strict=True
            )
        ]

    def _values(self, pixels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Descriptor, sketch and digest of each image of ``(N, 3, H, W)``."""
        permuted = pixels.reshape(len(pixels), -1).take(self._order, axis=1, mode="clip")
        sums = np.vecdot(permuted.reshape(-1, *self._signs.shape).astype(np.float32), self._signs)
        sketches = np.clip(np.rint((sums - self._offset) * self._scale), -32767, 32767).astype(np.int16)
        for image, described, sketch, exact in zip(pixels, descriptors(pixels), sketches, sums, strict=True):
            # A cryptographic hash of all pixels would take longer than the rest. The CRC distinguishes images with
            # equal sums, such as changes of one pixel. Without the secret, images with equal sums cannot be chosen.
            checksum = zlib.crc32(image).to_bytes(4)
            digest = hashlib.blake2b(exact.tobytes() + checksum, digest_size=8).digest()
            yield described, sketch, int.from_bytes(digest)


def descriptors(pixels: np.ndarray) -> np.ndarray:
    """The descriptors float32 ``(N, 48)`` of images uint8 ``(N, 3, H, W)``.

    The lowest 4 × 4 frequencies of an orthonormal DCT-II of the means of 8 × 8 blocks, per channel, divided by 8: the
    first number of a channel is its mean minus 128. Distances between descriptors are in grey levels.
    """
    down, across = _projection(pixels.shape[2]), _projection(pixels.shape[3])
    values: np.ndarray = down @ (pixels.astype(np.float32) @ across.T) / _GRID
    values[:, :, 0, 0] -= 128  # float32 then keeps more digits of a distance
    return values.reshape(-1, DESCRIPTOR_SIZE)


@functools.cache
def _projection(length: int) -> np.ndarray:
    """``(4, length)``: means of 8 blocks of equal size, which may divide pixels, then their lowest frequencies."""
    edges = np.linspace(0, length, _GRID + 1)
    pixels = np.arange(length)
    covered = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, None)
    means = covered / (length / _GRID)
    places, frequencies = np.arange(_GRID), np.arange(_FREQUENCIES)[:, None]
    cosines = math.sqrt(2 / _GRID) * np.cos(np.pi * (2 * places + 1) * frequencies / (2 * _GRID))
    cosines[0] = 1 / math.sqrt(_GRID)
    projection: np.ndarray = (cosines @ means).astype(np.float32)
    return projection
