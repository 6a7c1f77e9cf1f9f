"""Freed memory is kept, seen from outside: how many pages a process faults in while it allocates again and again."""

import os
import platform
import subprocess
import sys

import pytest

from models.errors import InputError
from models.memory import parse_memory

SCRIPT = """
import resource, sys, torch
from models.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def allocate(times):
    for _ in range(times):
        torch.ones(16, 2**20)  # 64 MiB, above the size that glibc by itself learns to keep
allocate(15)  # until the heap has found its size
before = faults()
allocate(10)
print(kept, faults() - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this option")


def _run(mode: str, **environment: str) -> tuple[bool, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@glibc
def test_pages_are_faulted_in_once() -> None:
    left, kept = _run("leave"), _run("keep")
    assert kept[0]
    assert kept[1] < left[1] / 4


@glibc
def test_settings_of_the_user_stand() -> None:
    assert _run("keep", MALLOC_TRIM_THRESHOLD_="0")[0] is False


@pytest.mark.parametrize("text", ["", "3", "GB", "-1GB", "0GB", "3 apples", "1e3GB"])
def test_other_texts_are_no_amount_of_memory(text: str) -> None:
    with pytest.raises(InputError, match="such as 3GB"):
        parse_memory(text)
