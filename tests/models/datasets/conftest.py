"""A few encoded images for the data sets that read them from files of their own kind."""

import io

import numpy as np
import pytest
from PIL import Image

LABELS = [0, 1, 2, 0, 1, 2]


@pytest.fixture
def pictures(rng: np.random.Generator) -> list[bytes]:
    """Six PNG files of 8×8 pixels."""
    return [png(rng) for _ in LABELS]


def png(rng: np.random.Generator, side: int = 8) -> bytes:
    """A PNG file of random pixels."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


def pixels(picture: bytes) -> np.ndarray:
    """uint8 ``(3, H, W)``, decoded by Pillow."""
    return np.asarray(Image.open(io.BytesIO(picture))).transpose(2, 0, 1)
