"""Arrow tables with a column of encoded images and a column of labels, as the package `datasets` writes them."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from models.datasets._encoded import EncodedImage, class_labels, decode_images, within_limits
from models.datasets._files import read_image
from models.datasets.base import DatasetRequest, ImageDataset
from models.datasets.contents import distinct_names
from models.errors import DatasetError
from models.images.decoding import Limits

__all__ = ["BATCH", "decode_table"]

BATCH = 64  # rows that are read at once
_LABELS = ("label", "labels", "fine_label", "class", "cls", "target")


def decode_table(
    schema: Any,
    batches: Callable[[str, range | None], Iterable[Any]],
    request: DatasetRequest,
    source: str,
    *,
    read_paths: bool = False,
) -> ImageDataset:
    """The images of a table.

    Images are in the only column of bytes, or of structures with the field ``bytes``. Labels are in the first column of
    the name ``label``, ``labels``, ``fine_label``, ``class``, ``cls`` or ``target``. If the package `datasets`
    stored class names in the schema, they are used.

    Args:
        schema: pyarrow's, with the type of every column.
        batches: returns one column of the rows in a range, or of all rows, as tables or record batches of pyarrow;
            called twice.
        request: the part of the images, resizing, cropping and limits.
        source: name of the file or data set, for messages.
        read_paths: whether an image without bytes is read from the path in the field ``path`` of its structure.

    Raises:
        DatasetError: a column is missing, several columns have images, or a row has no label or one of another type.
        ImageError: too many images that cannot be decoded, or an image of another size than the first.
    """
    image, label = _image_column(schema, source), _label_column(schema, source)
    values = [value for batch in batches(label, None) for value in batch.column(label).to_pylist()]
    names = _class_names(schema, label)
    if None in values or (names and -1 in values):
        raise DatasetError(f"{source}: expected a label in every row, got rows without one; use another split")
    others = [value for value in values if not isinstance(value, int | str)]
    if others:
        raise DatasetError(
            f"{source}: expected whole numbers or names in the column {label}, got {others[0]!r}; convert the column"
        )
    labels, classes = class_labels(values, source)

    def images(rows: range) -> Iterator[EncodedImage]:
        values = (value for batch in batches(image, rows) for value in batch.column(image))
        for row, value in zip(rows, values, strict=True):
            yield EncodedImage(f"{source}, row {row}", labels[row], _reader(value, read_paths=read_paths))

    return decode_images(images, len(labels), names or classes, request, source=source)


def _reader(value: Any, *, read_paths: bool) -> Callable[[Limits], bytes]:
    """A function that returns the bytes of a pyarrow scalar: bytes, or a structure with the field ``bytes``."""
    path = None
    if value.is_valid and value.type.num_fields:
        path = value["path"].as_py() if read_paths and not value["bytes"].is_valid else None
        value = value["bytes"]
    if path is not None:
        return partial(read_image, path)
    if not value.is_valid:
        return partial(within_limits, b"", 0)
    buffer = value.as_buffer()
    return partial(within_limits, memoryview(buffer), buffer.size)


def _image_column(schema: Any, source: str) -> str:
    names = [field.name for field in schema if _has_bytes(field.type)]
    if len(names) == 1:
        return str(names[0])
    got = ", ".join(names) or "none among " + ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise DatasetError(
        f"{source}: expected one column with encoded images (bytes, or structures with the field bytes), got {got}; "
        "encode the images as JPEG or PNG, or remove the other columns"
    )


def _has_bytes(kind: Any) -> bool:
    fields = [kind.field(index) for index in range(kind.num_fields)]
    return str(kind) in ("binary", "large_binary") or any(
        field.name == "bytes" and _has_bytes(field.type) for field in fields
    )


def _label_column(schema: Any, source: str) -> str:
    for name in _LABELS:
        if name in schema.names:
            return name
    raise DatasetError(
        f"{source}: expected a column with the name {', '.join(_LABELS[:-1])} or {_LABELS[-1]}, got "
        f"{', '.join(schema.names)}; rename the column of the labels"
    )


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """The names that the package `datasets` stores in the schema; empty without them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return distinct_names([str(name) for name in features[column]["names"]])
    except (KeyError, TypeError, ValueError):
        return ()
