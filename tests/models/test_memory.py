"""Freed memory is kept, seen from outside: how many pages a process faults in while it allocates again and again."""

import os
import platform
import subprocess
import sys

import pytest

from models.errors import InputError
from models.memory import parse_memory

SCRIPT = """
import resource
from models.memory import keep_freed_memory
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        b"1" * 2**26  # 64 MiB, above the largest dynamic threshold of glibc
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
left = faults(5)
kept = keep_freed_memory()
faults(5)  # until the size of the heap is constant
print(kept, left, faults(5))
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this option")


def _run(**environment: str) -> tuple[bool, int, int]:
    """Whether memory is kept, and page faults before and after."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, *faults = done.stdout.split()
    before, after = map(int, faults)
    return kept == "True", before, after


@glibc
def test_pages_are_faulted_in_once() -> None:
    kept, before, after = _run()
    assert kept
    assert after < before / 4


@glibc
def test_settings_of_the_user_stand() -> None:
    assert _run(MALLOC_TRIM_THRESHOLD_="0")[0] is False


@pytest.mark.parametrize("text", ["", "3", "GB", "-1GB", "0GB", "3 apples", "1e3GB"])
def test_other_texts_are_no_amount_of_memory(text: str) -> None:
    with pytest.raises(InputError, match="such as 3GB"):
        parse_memory(text)
