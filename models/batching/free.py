"""Memory that is free for this process, and memory that it uses."""

import ctypes
import os
from pathlib import Path

__all__ = ["control_groups_free", "free_memory", "used_memory"]


_MALLINFO = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]


class _MallInfo(ctypes.Structure):
    """The result of glibc's mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO]


def free_memory() -> int:
    """Bytes that this process can still allocate: of the machine, and of its control groups (containers)."""
    candidates = [_machine_free(), *control_groups_free()]
    return max(0, min(candidates))


def control_groups_free(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that every limited control group of this process leaves; empty without limits."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = top / path.lstrip("/")
        # A container sees its own group at the top, whatever its path outside is.
        for folder in (group, *(each for each in group.parents if top in each.parents), top):
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                free.append(limit - used + _reclaimable(folder))
    return free


def used_memory() -> int:
    """Bytes that this process uses, without freed memory that glibc keeps for later allocations."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return resident
    mallinfo2.restype = _MallInfo
    return max(0, resident - int(mallinfo2().fordblks))


def _machine_free() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 4 * 2**30


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is not a number
        return None


def _reclaimable(group: Path) -> int:
    """Bytes of files that the kernel drops when memory is short."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    sizes = dict(line.split()[:2] for line in lines if " " in line)
    return int(sizes.get("inactive_file", sizes.get("total_inactive_file", 0)))
