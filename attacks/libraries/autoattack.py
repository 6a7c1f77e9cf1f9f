"""Import of the AutoAttack authors' code: package `autoattack` if it is installed, else `pyautoattack`."""

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from models.errors import AttackError

__all__ = ["autoattack_library", "autoattack_version"]


def _package() -> str:
    return "autoattack" if importlib.util.find_spec("autoattack") else "pyautoattack"


def autoattack_version() -> dict[str, str]:
    """Name and version of the package with the authors' code."""
    name = _package()
    try:
        return {name: importlib.metadata.version(name)}
    except importlib.metadata.PackageNotFoundError:  # a folder on the path, not installed
        return {name: "unknown"}


def autoattack_library() -> Any:
    """The package with the authors' code.

    Raises:
        AttackError: the package cannot be imported.
    """
    name = _package()
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise AttackError(
            f"this attack needs the package autoattack or pyautoattack, which cannot be imported: {exc}; "
            "install Plumbline's requirements"
        ) from exc
