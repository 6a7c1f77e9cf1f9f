"""A .npz file: ``x`` uint8 images (N, H, W, 3), (N, H, W, 1) or (N, H, W), ``y`` labels, and optional ``classes``.

A name that several classes share, as "crane" in ImageNet, gets the number of the class: "crane (134)".
"""

import zipfile
from pathlib import Path

import numpy as np

from models.datasets._files import is_url, open_file
from models.datasets.base import MAX_CLASSES, DatasetRequest, ImageDataset, from_arrays
from models.datasets.contents import distinct_names
from models.errors import DatasetError
from models.files import placeholder, readable

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the file `request.argument`, which may be a URL, for either split.

    Raises:
        DatasetError: the file is missing or unreadable, or an array is missing or malformed.
    """
    path = request.argument
    if not is_url(path):
        if not path or not Path(path).is_file():
            raise DatasetError(f"expected npz:FILE with an existing .npz file, got 'npz:{path}'")
        if fault := placeholder(Path(path)):
            raise DatasetError(f"{path}: {fault}")
    try:
        with open_file(path) as file, np.load(file, allow_pickle=False) as arrays:
            present = {name: arrays[name] for name in ("x", "y", "classes") if name in arrays}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as exc:
        raise DatasetError(f"{path}: the file is no .npz file of plain arrays: {exc}") from exc
    if "x" not in present or "y" not in present:
        raise DatasetError(f"{path}: expected the arrays 'x' and 'y', got {sorted(present) or 'neither'}")
    labels = present["y"]
    if "classes" in present:
        classes = list(distinct_names([readable(str(name)) for name in np.atleast_1d(present["classes"])]))
    elif labels.ndim == 1 and labels.size and np.issubdtype(labels.dtype, np.integer):
        if (highest := int(labels.max())) >= MAX_CLASSES:
            raise DatasetError(f"{path}: expected labels under {MAX_CLASSES}, got {highest}; number the classes from 0")
        classes = [str(label) for label in range(highest + 1)]
    else:
        classes = []
    return from_arrays(present["x"], labels, classes, request)
