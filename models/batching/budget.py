"""Memory that batches may use: a limit of the user, or a share of what is free."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.batching.free import free_memory, used_memory

__all__ = ["memory_budget", "memory_limit", "memory_limited"]

_FREE_SHARE = {"cpu": 0.25, "cuda": 0.5}
_CPU_DEFAULT = 2**30  # on CPUs, larger batches are not faster: their activations have left the caches
_LIMIT_SHARE = 0.7  # of what a limit leaves; the rest is for results, for kernels and for gaps in the heap
_LEAST = 64 * 2**20

_limit: int | None = None
_processes = 1


@contextmanager
def memory_limited(limit: int | None, processes: int = 1) -> Iterator[None]:
    """Limit the memory of this job to about `limit` bytes inside the context, by smaller batches.

    Args:
        limit: bytes of the main memory, or on a CUDA device of the device's memory; None: no limit.
        processes: number of processes that share the memory equally.
    """
    global _limit, _processes
    before = _limit, _processes
    _limit, _processes = limit, processes
    try:
        yield
    finally:
        _limit, _processes = before


def memory_limit() -> int | None:
    """The limit that is in effect."""
    return _limit


def memory_budget(device: str | torch.device = "cpu") -> int:
    """Bytes that one batch may use now, at least 64 MiB.

    Under a limit, a share of what the process leaves of it. Otherwise a share of the free memory; on CPUs at most
    1 GiB.
    """
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    if _limit is not None:
        used = torch.cuda.memory_allocated(device) if kind == "cuda" else used_memory()
        return max(_LEAST, int(_LIMIT_SHARE * (_limit // _processes - used)))
    if kind == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(_LEAST, int(_FREE_SHARE[kind] * (free + cached)) // _processes)
    return max(_LEAST, min(_CPU_DEFAULT, int(_FREE_SHARE[kind] * free_memory()) // _processes))
