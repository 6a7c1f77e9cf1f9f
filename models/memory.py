"""Amounts of memory, and reuse of freed memory for jobs on CPUs that run one network many times.

glibc returns large blocks to the kernel as soon as they are freed. A network's activations are such blocks, so every
forward pass has page faults, which take more time than some layers.
"""

import ctypes
import os
import re
import sys

from models.errors import InputError

__all__ = ["keep_freed_memory", "parse_memory"]

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

# Numbers of glibc's mallopt(3), from <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_LARGEST_INT = 2**31 - 1
_ALREADY_SET = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Keep up to 2 GiB of freed memory in this process for later allocations; whether this is in effect.

    It works with glibc only. It does nothing if environment variables configure glibc (``MALLOC_…``,
    ``GLIBC_TUNABLES``) or load another allocator (``LD_PRELOAD``).
    """
    if not sys.platform.startswith("linux"):
        return False
    if any(value and name.startswith(_ALREADY_SET) for name, value in os.environ.items()):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl has a mallopt-free libc of the same name
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    # No block comes from mmap. The heap is not trimmed below 2 GiB and grows by 64 MiB at a time. All threads share it,
    # since the heaps of other threads are unmapped when they are empty, regardless of the threshold.
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST_INT), (_TOP_PAD, 64 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in settings)


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
