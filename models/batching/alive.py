"""Count of the bytes of all tensors that are alive at once."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["AliveMemory"]


class AliveMemory(TorchDispatchMode):
    """Bytes of tensors that are alive, `now` and at `peak`, while the mode is active.

    Every function that torch dispatches is observed, on every device. A tensor's memory counts once for all its views,
    from the function that creates it until it is freed. Temporary memory inside one kernel is not counted.

    Args:
        tensors: alive before the mode starts.
    """

    def __init__(self, tensors: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in tensors:
            self._add(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise the first call imports the compiler: seconds and 250 MiB, also where nothing is compiled.
        return False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._known.add(leaf.untyped_storage())  # weights, of which functions return views
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size
