"""Parquet files with a column of encoded images and a column of labels, as data sets on the Hugging Face Hub have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow
import pyarrow.parquet

from models.datasets._files import find_files, open_file
from models.datasets._tables import BATCH, decode_table
from models.datasets.base import DatasetRequest, ImageDataset
from models.errors import DatasetError, ImageError

__all__ = ["load"]

_READ_BYTES = 2**20  # at once; `pre_buffer` would keep every row group in memory


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the files `request.argument`: a file, a pattern or a folder, on this machine or at a URL.

    Raises:
        DatasetError: no such file, a file that is not Parquet, or a missing column; see `decode_table`.
        ImageError: too many images that cannot be decoded, or an image of another size than the first.
    """
    files = find_files("parquet", request, ".parquet")

    def batches(column: str, rows: range | None) -> Iterator[Any]:
        start = 0
        for path in files:
            with _opened(path) as file:
                if column not in file.schema_arrow.names:
                    raise DatasetError(f"{path}: expected the columns of {files[0]}, got no column {column!r}")
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    if rows is None or (rows.start < end and rows.stop > start):
                        _check_size(file, group, column, request, path)
                        read = file.iter_batches(BATCH, row_groups=[group], columns=[column], use_threads=False)
                        yield from read if rows is None else _within(read, rows.start - start, rows.stop - start)
                    start = end

    with _opened(files[0]) as first:
        schema = first.schema_arrow
    return decode_table(schema, batches, request, files[0].rpartition("/")[2])


def _within(batches: Iterator[Any], start: int, stop: int) -> Iterator[Any]:
    """The rows of record batches from `start` up to `stop`."""
    first = 0
    for batch in batches:
        if first >= stop:
            return
        low = min(max(start - first, 0), len(batch))
        yield batch.slice(low, max(0, stop - first - low))
        first += len(batch)


def _check_size(file: Any, group: int, column: str, request: DatasetRequest, path: str) -> None:
    """Check the mean size of the images in a row group by the metadata, before they are read."""
    metadata = file.metadata.row_group(group)
    chunks = [metadata.column(index) for index in range(metadata.num_columns)]
    size = sum(each.total_uncompressed_size for each in chunks if each.path_in_schema.split(".")[0] == column)
    try:
        # Page headers may repeat the smallest and the largest value of a page, hence the factor 3.
        request.limits.check_bytes(size // (3 * max(1, metadata.num_rows)))
    except ImageError as exc:
        raise ImageError(f"{path}, row group {group}, on average: {exc}") from exc


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with open_file(path) as file:
            yield pyarrow.parquet.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as exc:
        raise DatasetError(f"{path}: the Parquet file cannot be read: {exc}; copy it again") from exc
