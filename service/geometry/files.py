"""The files of a report on paths' geometry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.files import json_bytes, write_files
from service.report.figures.svg import as_png

__all__ = ["write_report"]


def write_report(folder: Path, report: dict[str, Any], page: str, pictures: Mapping[str, Figure] | None = None) -> None:
    """Write report.json, report.html and a PNG file of each picture, all or none.

    Args:
        folder: created if missing; files of an earlier report are replaced.
        report: JSON values.
        page: HTML.
        pictures: by name.

    Raises:
        InputError: the folder is not writable.
    """
    files: dict[str, bytes | str] = {f"{name}.png": as_png(figure) for name, figure in (pictures or {}).items()}
    write_files(folder, {"report.json": json_bytes(report), "report.html": page, **files})
