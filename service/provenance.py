"""The provenance of a result: machine, versions, date and revision of the code."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

_PACKAGES = (
    "plumbline",
    "torch",
    "torchvision",
    "scikit-learn",
    "numpy",
    "adversarial-robustness-toolbox",
    "pyautoattack",
)


def provenance() -> dict[str, Any]:
    """Date, machine, versions and the revision of the checkout, as JSON values; no host or user name."""
    import torch

    machine: dict[str, Any] = {"cpu": _cpu_model(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()}
    # Settings that change timings: threads, and how the C library returns memory.
    settings = {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "MKL_", "MALLOC_", "PYTORCH_"))}
    if settings:
        machine["settings"] = settings
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "revision": _revision(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: use the generic name below
    return platform.processor() or platform.machine()


def _revision() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
