"""WebDataset shards: .tar files with NAME.jpg (.jpeg, .png or .webp) followed by NAME.cls, its class index or name."""

import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple

from models.datasets._encoded import EncodedImage, class_labels, decode_images, within_limits
from models.datasets._files import find_files, open_file
from models.datasets.base import DatasetRequest, ImageDataset
from models.errors import DatasetError
from models.images.decoding import Limits
from models.progress import say

__all__ = ["load"]

_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
_MAX_LABEL_BYTES = 1024
_BLOCK = 512  # bytes; an archive ends with a block of zeros


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the shards `request.argument`: a file, a pattern or a folder, on this machine or at a URL.

    The shards are read twice, labels first. Nothing is unpacked to the disk.

    Raises:
        DatasetError: no such file, a damaged or compressed shard, or a sample without a label or with several images.
        ImageError: too many images that cannot be decoded, or an image of another size than the first.
    """
    shards = find_files("webdataset", request, ".tar")
    texts: list[str] = []
    others: list[str] = []
    for sample in _samples(shards):
        others += sample.others
        if sample.image is not None:
            texts.append(_label(sample))
    if others:
        say(f"{len(others)} files of the shards are skipped, such as {others[0]}")
    labels, classes = class_labels(texts, shards[0])
    return decode_images(
        partial(_images, shards, labels, request.limits), len(labels), classes, request,
        source=shards[0].rpartition("/")[2], skipped={"other_files": len(others)},
    )  # fmt: skip


class _Sample(NamedTuple):
    """Files of one name up to its first dot, which follow each other in a shard.

    Args:
        where: shard and name.
        tar: the opened shard.
        image, label: two of the files.
        others: names of the other files.
    """

    where: str
    tar: tarfile.TarFile
    image: tarfile.TarInfo | None
    label: tarfile.TarInfo | None
    others: Sequence[str]


def _images(shards: Sequence[str], labels: Sequence[int], limits: Limits, rows: range) -> Iterator[EncodedImage]:
    samples = (sample for sample in _samples(shards) if sample.image is not None)
    for sample, label in zip(islice(samples, rows.start, rows.stop), labels[rows.start : rows.stop], strict=True):
        assert sample.image is not None
        size = sample.image.size
        content = _content(sample.tar, sample.image) if size <= limits.max_bytes else b""
        yield EncodedImage(sample.where, label, partial(within_limits, content, size))


def _samples(shards: Sequence[str]) -> Iterator[_Sample]:
    for shard in shards:
        try:
            with open_file(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for name, members in groupby(tar, _name):
                    yield _sample(f"{shard}: {name}", tar, list(members))
                file.seek(tar.offset)
                if file.read(_BLOCK) != bytes(_BLOCK):
                    raise tarfile.ReadError("the end is missing")
        except (OSError, tarfile.TarError) as exc:
            raise DatasetError(
                f"{shard}: the .tar file cannot be read: {exc}; copy it again, or decompress it if it is compressed"
            ) from exc


def _sample(where: str, tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> _Sample:
    files = {member.name: member for member in members if _is_whole(member) and not _hidden(member)}
    images = [member for member in files.values() if _suffix(member) in _SUFFIXES]
    labels = [member for member in files.values() if _suffix(member) == "cls"]
    if len(images) > 1:
        raise DatasetError(f"{where}: expected one image per sample, got {', '.join(each.name for each in images)}")
    used = images + (labels if images else [])
    others = [member.name for member in members if not member.isdir() and member not in used and not _hidden(member)]
    return _Sample(where, tar, images[0] if images else None, labels[0] if labels else None, others)


def _name(member: tarfile.TarInfo) -> str:
    folder, slash, file = member.name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _suffix(member: tarfile.TarInfo) -> str:
    return member.name.rpartition(".")[2].lower()


def _is_whole(member: tarfile.TarInfo) -> bool:
    """Whether it is a file whose bytes are all in the shard; a small sparse file can have any number of zeros."""
    return member.isfile() and not member.issparse()


def _hidden(member: tarfile.TarInfo) -> bool:
    return member.name.rpartition("/")[2].startswith(".")


def _label(sample: _Sample) -> str:
    if sample.label is None:
        raise DatasetError(f"{sample.where}: expected a .cls file with the class beside the image, got none")
    try:
        return _content(sample.tar, sample.label, _MAX_LABEL_BYTES).decode().strip()
    except UnicodeDecodeError as exc:
        raise DatasetError(f"{sample.where}: expected a class index or name in the .cls file, got other bytes") from exc


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int = -1) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, member.name
    return file.read(limit)
