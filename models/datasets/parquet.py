"""Parquet files with a column of encoded images and a column of labels, as data sets on the Hugging Face Hub have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow
import pyarrow.parquet

from models.datasets._files import find_files, open_file
from models.datasets._tables import BATCH, decode_table
from models.datasets.base import DatasetRequest, ImageDataset
from models.errors import DatasetError

__all__ = ["load"]

_READ_BYTES = 2**20  # at once; `pre_buffer` would keep every row group in memory


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the files `request.argument`: a file, a pattern or a folder, on this machine or at a URL.

    Raises:
        DatasetError: no such file, a file that is not Parquet, or a missing column; see `decode_table`.
        ImageError: too many images that cannot be decoded, or an image of another size than the first.
    """
    files = find_files("parquet", request, ".parquet")

    def batches(columns: list[str]) -> Iterator[Any]:
        for path in files:
            with _opened(path) as file:
                if missing := [name for name in columns if name not in file.schema_arrow.names]:
                    raise DatasetError(f"{path}: expected the columns of {files[0]}, got no column {missing[0]!r}")
                yield from file.iter_batches(BATCH, columns=columns, use_threads=False)

    with _opened(files[0]) as first:
        schema = first.schema_arrow
    return decode_table(schema, batches, request, files[0].rpartition("/")[2])


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with open_file(path) as file:
            yield pyarrow.parquet.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as exc:
        raise DatasetError(f"{path}: the Parquet file cannot be read: {exc}; copy it again") from exc
