"""Cache of an evaluation: arrays with JSON values, written atomically, so that an interrupted run can continue.

    CACHE/evaluation/features/3f….safetensors    features of one set of images
    CACHE/evaluation/results/a0….safetensors     results of one fitted detector on the test images of one run

A file's name is the SHA-256 of everything that decides its content, code included. Stale files are therefore never
read.
"""

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from models.files import write_atomically

__all__ = ["EvaluationCache", "code_closure", "code_digest"]

_FORMAT = 2  # of the files; increase it when their content changes

_TYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "BOOL": np.bool_}

Entry = tuple[Mapping[str, NDArray[Any]], dict[str, Any]]

_OURS = ("models", "detector")  # packages whose code decides features

_log = logging.getLogger(__name__)


class EvaluationCache:
    """Arrays and JSON values by kind and key.

    Args:
        folder: of the cache; None keeps the entries in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / "evaluation"
        self._kept: dict[str, Entry] = {}

    def load(self, kind: str, key: Mapping[str, Any], *, mapped: bool = False) -> Entry | None:
        """The entry with this key; None if it is missing or unreadable.

        Args:
            kind: folder of the entry.
            key: everything that decides its content, as JSON values.
            mapped: map the arrays from the file instead of reading them, to save memory.
        """
        if self._folder is None:
            return self._kept.get(_name(kind, key))
        path = self._folder / f"{_name(kind, key)}.safetensors"
        if not path.is_file():
            return None
        try:
            arrays, more = _mapped(path)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            _log.warning("%s cannot be read (%s); it is computed again", path, exc)
            return None
        return (arrays if mapped else {name: np.array(array) for name, array in arrays.items()}), more

    def save(self, kind: str, key: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], more: dict[str, Any]) -> None:
        """Store an entry.

        Args:
            kind: folder of the entry.
            key: everything that decides its content, as JSON values.
            arrays: named arrays.
            more: JSON values.

        Raises:
            InputError: the folder cannot be written.
        """
        name = _name(kind, key)
        if self._folder is None:
            self._kept[name] = arrays, more
            return
        contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        path = self._folder / f"{name}.safetensors"
        write_atomically(path, safetensors.numpy.save(contiguous, {"more": json.dumps(more)}))


def code_closure(module: ModuleType | str) -> str:
    """SHA-256 of the source code of a module and of all modules of `models` and `detector` that it imports."""
    sources: dict[str, str] = {}
    waiting = [module if isinstance(module, str) else module.__name__]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        spec = importlib.util.find_spec(name) if name in sys.modules or name.partition(".")[0] in _OURS else None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        sources[name] = Path(spec.origin).read_text(encoding="utf-8")
        waiting += [each for each in _imported(sources[name]) if each.partition(".")[0] in _OURS]
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


@functools.cache  # parsing takes most of the time of a key
def _imported(source: str) -> list[str]:
    """Names of the modules that the source code imports, and of the imported names, which may be modules, too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
            package = importlib.util.find_spec(node.module) if node.module.partition(".")[0] in _OURS else None
            if package is not None and package.submodule_search_locations is not None:
                names += [f"{node.module}.{each.name}" for each in node.names]
    return names


def code_digest(*modules: ModuleType | str) -> str:
    """SHA-256 of the source code of these modules; of every module in a package."""
    digest = hashlib.sha256()
    for module in modules:
        module = importlib.import_module(module) if isinstance(module, str) else module
        files = sorted(Path(module.__path__[0]).rglob("*.py")) if hasattr(module, "__path__") else []
        sources = [file.read_text(encoding="utf-8") for file in files] or [inspect.getsource(module)]
        for source in sources:
            digest.update(source.encode())
    return digest.hexdigest()


def _name(kind: str, key: Mapping[str, Any]) -> str:
    text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    return f"{kind}/{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _mapped(path: Path) -> Entry:
    """Read-only memory maps of the arrays of a safetensors file, and its JSON values."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    more = json.loads(header.pop("__metadata__")["more"])
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if path.stat().st_size != 8 + length + end:
        raise ValueError("the file is truncated")
    arrays = {
        name: np.memmap(path, _TYPES[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
        for name, entry in header.items()
    }
    return {name: np.asarray(array) for name, array in arrays.items()}, more
