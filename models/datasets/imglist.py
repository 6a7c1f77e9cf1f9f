"""A list of image files: "PATH LABEL" per line, as in OpenOOD, or a .csv file with the columns path and label."""

import csv
import io
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from models.datasets._encoded import EncodedImage, class_labels, decode_images
from models.datasets._files import find_files, is_url, join_path, open_file, read_image
from models.datasets.base import DatasetRequest, ImageDataset
from models.errors import DatasetError

__all__ = ["load"]

_COLUMNS = ("path", "label")


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the list `request.argument`, a file or a URL.

    Relative paths start at the folder of the list, or at `request.root` if the first image is not in that folder. A
    list at a URL names images of its own host only, so that it cannot read files of this machine or its network.
    Labels are class indices or class names. If all are -1, as for out-of-distribution images, there is one class.

    Raises:
        DatasetError: no such list, a line without a label, a missing column, labels that are no class indices, or a URL
            of another host in a list at a URL.
        ImageError: too many files that cannot be read or decoded, or an image of another size than the first.
    """
    files = find_files("imglist", request, ".txt")
    if len(files) > 1:
        raise DatasetError(f"expected imglist:FILE with one list, got {len(files)}: {', '.join(files[:3])}")
    source = files[0]
    try:
        with open_file(source) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DatasetError(f"{source}: the list cannot be read: {exc}") from exc
    rows = _csv_rows(text, source) if source.lower().endswith(".csv") else _lines(text, source)
    if not rows:
        raise DatasetError(f"{source}: expected at least one image, got none")
    if is_url(source):
        _require_host(source, [path for path, _ in rows])
    labels, classes = class_labels([label for _, label in rows], source)
    folder = _folder(source, rows[0][0], request)

    def images(wanted: range) -> Iterator[EncodedImage]:
        for row in wanted:
            path = join_path(folder, rows[row][0])
            yield EncodedImage(path, labels[row], partial(read_image, path))

    return decode_images(images, len(rows), classes, request, source=source.rpartition("/")[2])


def _lines(text: str, source: str) -> list[tuple[str, str]]:
    """Path and label of each line; the label is its last word."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not (words := line.rsplit(maxsplit=1)):
            continue
        if len(words) != 2:
            raise DatasetError(f"{source}, line {number}: expected 'PATH LABEL', got {line.strip()[:80]!r}")
        rows.append((words[0].strip(), words[1]))
    return rows


def _csv_rows(text: str, source: str) -> list[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
        raise DatasetError(
            f"{source}: expected a header with the columns path and label, got no column {missing[0]!r} among "
            f"{', '.join(reader.fieldnames or ()) or 'none'}; rename the columns"
        )
    rows = []
    for row in reader:
        if not row["path"] or not row["label"]:
            raise DatasetError(f"{source}, line {reader.line_num}: expected a path and a label, got {row}")
        rows.append((row["path"], row["label"]))
    return rows


def _require_host(source: str, paths: list[str]) -> None:
    host = urlsplit(source)[:2]
    if other := next((path for path in paths if is_url(path) and urlsplit(path)[:2] != host), None):
        raise DatasetError(
            f"{source}: expected paths, or URLs at {host[0]}://{host[1]}, got {other!r}; copy the list to this machine "
            "if you trust it"
        )


def _folder(source: str, first: str, request: DatasetRequest) -> str:
    """The folder where relative paths start."""
    beside = source.rpartition("/")[0] or "."
    for folder in (beside, str(request.root)):
        if _exists(join_path(folder, first)):
            return folder
    raise DatasetError(
        f"{source}: the first image, {first}, is neither in {beside} nor in {request.root}; pass the folder of the "
        "images as --data-root"
    )


def _exists(path: str) -> bool:
    try:
        with open_file(path):
            return True
    except OSError:
        return False
