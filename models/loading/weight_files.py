"""Weight files, recognised by their content and read as tensors only.

Formats are safetensors and what ``torch.save`` writes, under any name. ``torch.load`` runs with ``weights_only=True``:
no code in a file runs. Objects of other classes beside the weights, such as an ``argparse.Namespace``, are skipped.
"""

import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.errors import CheckpointError, InputError
from models.files import placeholder

__all__ = ["has_pickled_module", "read_weights", "tensor_groups"]

# More classes than any checkpoint names; each is one more attempt to read the file.
_MAX_SKIPPED_CLASSES = 200
_MAX_DEPTH = 4
_RESAVE = (
    "if you trust the file and have its code, load it and save the weights alone: "
    "torch.save(network.state_dict(), 'weights.pt')"
)
# First bytes of files that have no weights that can be read here → what they are, with the remedy.
_OTHER_FORMATS = {
    b"\x1f\x8b": "the file is compressed with gzip; unpack it first",
    b"\x89HDF": "the file is HDF5, as Keras writes it; convert it to a state dictionary of PyTorch",
    b"\x93NUMPY": "the file is a NumPy array; expected the state dictionary of a network",
}
_safe_globals_lock = threading.Lock()


class _Skipped:
    """Stands for an object of a class that is not read; accepts any arguments and keeps none.

    `is_module` says whether the object has the state of an ``nn.Module``.
    """

    is_module = False

    def __new__(cls, *_: Any) -> "_Skipped":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.is_module = isinstance(state, Mapping) and "_parameters" in state


def read_weights(path: Path) -> Any:
    """The content of a weight file on the CPU: containers of tensors and plain values.

    Raises:
        InputError: no such file.
        CheckpointError: it is empty, incomplete, or of no format that is read.
    """
    if not path.is_file():
        raise InputError(f"expected an existing weight file, got {path}")
    if fault := placeholder(path):
        raise CheckpointError(f"{path}: {fault}")
    with path.open("rb") as file:
        head = file.read(265)
    for start, fault in _OTHER_FORMATS.items():
        if head.startswith(start):
            raise CheckpointError(f"{path}: {fault}")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path}: the file is a tar archive; unpack it first")
    if head[8:9] == b"{":
        return _read(path, load_file, "safetensors")
    if head.startswith(b"PK"):
        _check_archive(path)
        return _read(path, _load_with_torch, "PyTorch")
    if head.startswith(b"\x80"):
        return _read(path, _load_with_torch, "PyTorch")
    raise CheckpointError(
        f"{path}: the file is neither safetensors nor written by torch.save; save network.state_dict() with torch.save"
    )


def tensor_groups(content: Any) -> dict[str, dict[str, Tensor]]:
    """The dictionaries in a weight file that contain tensors, by their keys joined with dots, in the file's order.

    The outermost dictionary has the name "". A network's parameters are often in one of several such dictionaries:
    ``state_dict``, ``model``, ``ema``.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    _collect(content, "", groups, _MAX_DEPTH)
    return groups


def has_pickled_module(content: Any, depth: int = _MAX_DEPTH) -> bool:
    """Whether the content is or contains a pickled module, which needs code to be read."""
    if isinstance(content, _Skipped):
        return content.is_module
    return (
        bool(depth)
        and isinstance(content, Mapping)
        and any(has_pickled_module(value, depth - 1) for value in content.values())
    )


def _collect(content: Any, name: str, groups: dict[str, dict[str, Tensor]], depth: int) -> None:
    if not isinstance(content, Mapping) or not depth:
        return
    if tensors := {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}:
        groups[name] = tensors
    for key, value in content.items():
        if isinstance(key, str):
            _collect(value, f"{name}.{key}".lstrip("."), groups, depth - 1)


def _read(path: Path, load: Callable[[Path], Any], library: str) -> Any:
    try:
        return load(path)
    except CheckpointError:
        raise
    except Exception as exc:  # torch and safetensors raise many kinds for damaged files
        # The text of torch advises to switch off safe loading; its last part is enough.
        reason = str(exc).partition("WeightsUnpickler error:")[2].strip() or str(exc)
        if "weights_only" in reason or "add_safe_globals" in reason:
            reason = type(exc).__name__
        raise CheckpointError(
            f"{path}: the file starts as {library} writes it, but it cannot be read ({reason}); if it is incomplete, "
            f"download or copy it again; otherwise, {_RESAVE}"
        ) from exc


def _check_archive(path: Path) -> None:
    """Refuse archives that torch.save did not write, and incomplete ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as exc:
        raise CheckpointError(
            f"{path}: the file is incomplete: it has {path.stat().st_size} bytes and ends early; download or copy it "
            "again"
        ) from exc
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        raise CheckpointError(
            f"{path}: the file is a TorchScript program; if you trust it, save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
    if "data.pkl" not in ends:
        raise CheckpointError(f"{path}: the file is a zip archive without weights of PyTorch; unpack it first")


def _load_with_torch(path: Path) -> Any:
    """The content of the file, with `_Skipped` for every class that torch refuses."""
    skipped: set[str] = set()
    while True:
        # The classes that torch accepts are a setting of the process.
        with _safe_globals_lock, torch.serialization.safe_globals([(_Skipped, name) for name in skipped]):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of deprecated storages
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            except Exception as exc:
                name = re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(exc))
                if name is None or name[1] in skipped or len(skipped) >= _MAX_SKIPPED_CLASSES:
                    raise
                # torch leaves the name of the module builtins out.
                skipped.add(name[1] if "." in name[1] else f"builtins.{name[1]}")
