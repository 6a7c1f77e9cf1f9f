"""Memory that batches may use: a limit of the user, or a share of what is free."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.batching.free import free_memory, used_memory
from models.errors import InputError

__all__ = ["memory_budget", "memory_limited", "memory_share", "parse_memory"]

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

_FREE_SHARE = {"cpu": 0.25, "cuda": 0.5}
_CPU_DEFAULT = 2**30  # on CPUs, larger batches are not faster: their activations have left the caches
_LIMIT_SHARE = 0.7  # of what a limit leaves; the rest is for results, for kernels and for gaps in the heap
_LEAST = 64 * 2**20

_limit: int | None = None


def parse_memory(text: str) -> int:
    """Bytes of a text such as "3GB", "512 MiB" or "1.5GB".

    Raises:
        InputError: another text, or less than 1 byte.

    >>> parse_memory("3GB"), parse_memory("0.5 GiB")
    (3000000000, 536870912)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?B)", text.strip().upper())
    size = 0 if match is None else int(float(match[1]) * _UNITS[match[2]])
    if size < 1:
        raise InputError(
            f"expected an amount of memory, got {text!r}; write a number and a unit, such as 3GB or 512MiB"
        )
    return size


@contextmanager
def memory_limited(limit: int | None) -> Iterator[None]:
    """Limit the memory of this process to about `limit` bytes inside the context, by smaller batches; None: no limit.

    On a CUDA device, the limit is for the memory of the device.
    """
    global _limit
    before, _limit = _limit, limit
    try:
        yield
    finally:
        _limit = before


def memory_budget(device: str | torch.device = "cpu") -> int:
    """Bytes that one batch may use now, at least 64 MiB.

    Under a limit, a share of what the process leaves of it. Otherwise a share of the free memory; on CPUs at most
    1 GiB.
    """
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    if _limit is not None:
        used = torch.cuda.memory_allocated(device) if kind == "cuda" else used_memory()
        return max(_LEAST, int(_LIMIT_SHARE * (_limit - used)))
    if kind == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(_LEAST, int(_FREE_SHARE[kind] * (free + cached)))
    return max(_LEAST, min(_CPU_DEFAULT, int(_FREE_SHARE[kind] * free_memory())))


def memory_share(workers: int) -> int:
    """The limit of each of several worker processes on this machine, in bytes.

    A worker needs its own copy of the libraries, so that a limit for all of them is divided and a default is, too.
    """
    return (_limit if _limit is not None else free_memory()) // max(1, workers)
