"""Data sets of the Hugging Face Hub, or folders with their files, through the package `datasets`: hf:NAME[:SPLIT]."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub

from models.datasets._tables import BATCH, decode_table
from models.datasets.base import DatasetRequest, ImageDataset
from models.errors import DatasetError

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the data set NAME, or of the folder of that name, from the cache of the package `datasets`.

    SPLIT is the split of the request by default.

    Raises:
        DatasetError: it is not in the cache and `request.download` is false, an unknown split, or a missing column; see
            `decode_table`.
        ImageError: too many images that cannot be decoded, or an image of another size than the first.
    """
    name, _, split = request.argument.partition(":")
    if not name:
        raise DatasetError("expected hf:NAME or hf:NAME:SPLIT, got no name")
    try:
        with _connection(request.download):
            data = datasets.load_dataset(name, split=split or request.split)
    except Exception as exc:  # the library raises exceptions of many types
        remedy = (
            "check the name and the split" if request.download else "check the name and the split, or pass --download"
        )
        raise DatasetError(f"hf:{request.argument} cannot be loaded: {exc}; {remedy}") from exc

    def batches(column: str, rows: range | None) -> Iterator[Any]:
        chosen = data if rows is None else data.select(rows)
        yield from chosen.select_columns([column]).with_format("arrow").iter(BATCH)

    return decode_table(data.features.arrow_schema, batches, request, name, read_paths=True)


@contextmanager
def _connection(allowed: bool) -> Iterator[None]:
    """Allow or forbid connections to the Hub inside the block."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
