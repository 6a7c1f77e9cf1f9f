"""The files of a report on paths' geometry."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.errors import InputError
from models.files import write_atomically, write_json
from service.geometry.measuring import Measured
from service.geometry.page import as_page
from service.geometry.png import as_png
from service.jsonable import as_json

__all__ = ["SCHEMA", "write_files", "write_geometry_report"]

SCHEMA = 1  # counted up when a key of report.json changes its place or its meaning


def write_geometry_report(folder: Path, networks: Sequence[Measured], facts: dict[str, Any]) -> dict[str, Any]:
    """What is in report.json, once that and report.html are in `folder`, each written whole or not at all.

    Both are made before either is written.

    Args:
        folder: made where it is missing; an earlier report in it is replaced.
        networks: at least one, measured on the same images with the same settings.
        facts: what was measured on, how and where; JSON values.

    Raises:
        InputError: the folder cannot be written to.
    """
    told, _ = as_json({"schema": SCHEMA, **facts, "networks": [each.figures for each in networks]}, "report")
    assert isinstance(told, dict)
    page = as_page(networks, {key: value for key, value in told.items() if key != "networks"})
    write_files(folder, told, page)
    return told


def write_files(folder: Path, told: dict[str, Any], page: str, pictures: Mapping[str, Figure] | None = None) -> None:
    """report.json, report.html and a PNG file of each picture, each written whole or not at all.

    Everything is made before anything is written.

    Raises:
        InputError: the folder cannot be written to.
    """
    files = {f"{name}.png": as_png(figure) for name, figure in (pictures or {}).items()}
    try:
        write_json(folder / "report.json", told)
        write_atomically(folder / "report.html", page.encode())
        for name, content in files.items():
            write_atomically(folder / name, content)
    except OSError as exc:
        raise InputError(f"expected a folder to write the report to, got {folder}: {exc.strerror or exc}") from exc
