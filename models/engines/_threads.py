"""Objects of ONNX Runtime and OpenVINO, whose number of threads is fixed when they are made."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["PerThreadCount"]


class PerThreadCount:
    """Makes an object for the present number of torch's threads, which may change between calls.

    Args:
        make: a function of the number of threads.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._threads = 0
        self._made: Any = None

    def get(self) -> Any:
        """The object; made again if the number has changed."""
        if (threads := torch.get_num_threads()) != self._threads:
            self._made = None  # two at once need twice the memory
            self._made, self._threads = self._make(threads), threads
        return self._made
