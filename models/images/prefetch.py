"""Work on files in threads, a few files ahead of the consumer."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["prefetched"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of a function, in the order of the items, computed in one thread per core.

    At most four results per thread wait in memory. An exception of the function appears in its place. Threads suffice
    for a function that releases the interpreter's lock, as decoders of images do.

    Args:
        function: safe to call from several threads.
        items: its arguments.
    """
    workers = max(1, min(8, os.cpu_count() or 1))
    left = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(left, 4 * workers))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(left, 1))
        finally:
            for future in waiting:
                future.cancel()
