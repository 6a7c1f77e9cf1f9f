"""Tensors in nested arguments and outputs, and the numbering of function calls."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["FunctionTally", "Path", "at_path", "tensors_in"]

Path = tuple[int | str, ...]  # indices and keys, from the outermost container inwards


def tensors_in(structure: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in nested tuples, lists and dictionaries, with its path."""
    if isinstance(structure, Tensor):
        yield path, structure
    elif isinstance(structure, (tuple, list)):
        for index, item in enumerate(structure):
            yield from tensors_in(item, (*path, index))
    elif isinstance(structure, Mapping):
        for key, item in structure.items():
            yield from tensors_in(item, (*path, key))


def at_path(structure: Any, path: Path) -> Any:
    """The item of a nested structure at a path; None if it does not exist."""
    for step in path:
        try:
            structure = structure[step]
        except (LookupError, TypeError):
            return None
    return structure


class FunctionTally:
    """Numbers the calls of each function, to identify a call again in another forward pass."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)

    def count(self, function: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> int | None:
        """The number of this call among the calls of that function, from 0; None if the call is not counted.

        Only calls whose first argument is a floating-point tensor with at least two axes are counted. Bookkeeping calls
        (batch normalisation counts its batches in training mode) would make the numbers depend on the mode.
        """
        first = args[0] if args else keywords.get("input")
        if not isinstance(first, Tensor) or first.dim() < 2 or not first.is_floating_point():
            return None
        ordinal = self._counts[function]
        self._counts[function] = ordinal + 1
        return ordinal
