"""A .npz file: ``x`` uint8 images (N, H, W, 3), (N, H, W, 1) or (N, H, W), ``y`` labels, and optional ``classes``.

A name that several classes share, as "crane" in ImageNet, gets the number of the class: "crane (134)".
"""

import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.datasets._files import is_url, open_file
from models.datasets.base import MAX_CLASSES, DatasetRequest, EmptyPartError, ImageDataset, from_arrays
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
            present = {name: arrays[name] for name in ("y", "classes") if name in arrays}
            part = None if request.part is None else _part_of(arrays, request)
            if part is None and "x" in arrays:
                present["x"] = arrays["x"]
    except EmptyPartError:
        raise
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as exc:
        raise DatasetError(f"{path}: the file is no .npz file of plain arrays: {exc}") from exc
    if "y" not in present or (part is None and "x" not in present):
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
    if part is None:
        return from_arrays(present["x"], labels, classes, request)
    pixels, rows = part
    data = from_arrays(pixels, labels[rows.start : rows.stop], classes, request)
    return replace(data, positions=np.arange(rows.start, rows.stop))


def _part_of(arrays: Any, request: DatasetRequest) -> tuple[np.ndarray, range] | None:
    """The rows of the array ``x`` in the part, without loading the others; None if they are not contiguous."""
    if "x.npy" not in arrays.zip.namelist() or "y" not in arrays:  # numpy also reads a member with the name "x"
        return None
    with arrays.zip.open("x.npy") as file:
        formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        read_header = formats.get(np.lib.format.read_magic(file))
        if read_header is None:
            return None
        shape, by_columns, dtype = read_header(file)
        if by_columns or dtype.hasobject or shape[:1] != arrays["y"].shape[:1] or 0 in shape or not shape:
            return None
        rows, size = request.rows(shape[0]), int(np.prod(shape[1:])) * dtype.itemsize
        file.seek(rows.start * size, os.SEEK_CUR)
        content = file.read(len(rows) * size)
    return np.frombuffer(content, dtype).reshape(len(rows), *shape[1:]), rows
