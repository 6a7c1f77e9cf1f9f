"""The files of a report on paths' geometry."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import InputError
from models.files import write_atomically, write_json
from service.geometry.measuring import Measured
from service.geometry.page import as_page
from service.jsonable import as_json

__all__ = ["SCHEMA", "write_geometry_report"]

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
    try:
        write_json(folder / "report.json", told)
        write_atomically(folder / "report.html", page.encode())
    except OSError as exc:
        raise InputError(f"expected a folder to write the report to, got {folder}: {exc.strerror or exc}") from exc
    return told
