"""Processes of this machine, or this process for one worker."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from models.batching import memory_limit, memory_limited
from models.errors import RunnerError
from models.memory import keep_freed_memory
from models.runners.base import Item, Result, Runner
from models.runners.packing import pack, unpack

__all__ = ["LocalRunner"]


class LocalRunner(Runner):
    """Runs in worker processes, each with its share of the cores and of the memory limit.

    Args:
        workers: number of processes; None or 1: this process.
        device: where the network runs; the processes share one GPU.
    """

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Runner.run`."""
        workers = self.workers or 1
        if workers == 1:
            yield from map(work, items)
            return
        import joblib  # an extra, which one process does not need

        packed, threads = pack(work), max(1, joblib.cpu_count() // workers)
        limits = (memory_limit(), workers)
        pool = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered", pre_dispatch="2*n_jobs")
        try:
            yield from pool(joblib.delayed(_run)(packed, item, threads, limits) for item in items)
        except BrokenProcessPool as exc:
            raise RunnerError(
                "a worker process died, perhaps because memory ran out; run the same command again, with fewer workers "
                "if it happens twice"
            ) from exc


def _run(packed: bytes, item: Any, threads: int, limits: tuple[int | None, int]) -> Any:
    torch.set_num_threads(threads)
    keep_freed_memory()
    work = unpack(packed)
    with memory_limited(*limits):
        return work(item)
