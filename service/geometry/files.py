"""The files of a report on paths' geometry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.errors import InputError
from models.files import write_atomically, write_json
from service.report.figures.svg import as_png

__all__ = ["write_files"]


def write_files(folder: Path, report: dict[str, Any], page: str, pictures: Mapping[str, Figure] | None = None) -> None:
    """Write report.json, report.html and a PNG file of each picture, each atomically.

    All files are made before the first one is written.

    Args:
        folder: created if missing; files of an earlier report are replaced.
        report: JSON values.
        page: HTML.
        pictures: by name.

    Raises:
        InputError: the folder is not writable.
    """
    files = {f"{name}.png": as_png(figure) for name, figure in (pictures or {}).items()}
    try:
        write_json(folder / "report.json", report)
        write_atomically(folder / "report.html", page.encode())
        for name, content in files.items():
            write_atomically(folder / name, content)
    except OSError as exc:
        raise InputError(f"cannot write the report to the folder {folder}: {exc.strerror or exc}") from exc
