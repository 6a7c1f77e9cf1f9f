"""Base class of runners: the results of one function for many items, from one process or several.

A new runner is one file with a class that implements `run`. Scheduling and retries are those of the library behind it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from models.options import check_count

__all__ = ["Item", "Result", "Runner"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runner(ABC):
    """Base class: runs a function on items, which are independent of each other.

    Args:
        workers: number of processes; None for the runner's default.
        device: where the function runs its network; a runner that assigns GPUs assigns one per process for "cuda".
    """

    def __init__(self, *, workers: int | None = None, device: str = "cpu") -> None:
        self.workers = None if workers is None else check_count("workers", workers)
        self.device = device

    @abstractmethod
    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results, in the order in which they finish.

        Args:
            work: the function, with its network and options as attributes. A process receives it once.
            items: read when a process needs one, so that few are in memory.

        Raises:
            PlumblineError: `work` raised it; results so far are valid.
            RunnerError: `work` cannot be sent to a process, or a process died.
        """
