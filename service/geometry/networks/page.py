"""The report of paths' geometry: one HTML page and its JSON."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from service.geometry.files import write_report
from service.geometry.networks.block_figures import draw_blocks, draw_transport, draw_variation
from service.geometry.networks.figures import draw_costs, draw_paths, draw_units
from service.geometry.networks.measuring import Measured
from service.geometry.networks.overview import number, overview
from service.jsonable import as_json
from service.report.figures.svg import inline_svg
from service.report.html.elements import Cell, Drawing, Row, Section, Table, label, name_cell
from service.report.html.rendering import render

__all__ = ["SCHEMA", "geometry_page", "write_geometry_report"]

SCHEMA = 1  # incremented when a key of report.json changes its place or meaning

_BLOCKS = (
    "Means over images; the band holds the middle half of them. A block with a small ratio and a negative cosine "
    "moves the image slightly in a direction that lowers the loss."
)
_TRANSPORT = (
    "The displacement of the points by a block (root mean square), and the least displacement of any map between "
    "these clouds. In high dimensions points are far from one another, so a small gap is easier to reach than in two."
)
_VARIATION = "‖x − x'‖ / ‖x‖ after each block, x' the path of the disturbed image; mean over images."
_HEADERS = (
    "block", "shape", "cost", "per dimension", "share of its stage's length", "‖r‖ / ‖x‖", "cosine", "W2",
    "displacement", "transport score",
)  # fmt: skip


def write_geometry_report(folder: Path, networks: Sequence[Measured], context: dict[str, Any]) -> dict[str, Any]:
    """Write report.json and report.html to a folder, each atomically; the content of report.json.

    Args:
        folder: created if missing; an earlier report in it is replaced.
        networks: at least one, measured on the same images with the same settings.
        context: data set, settings and provenance, as JSON values.

    Raises:
        InputError: the folder is not writable.
    """
    report, _ = as_json({"schema": SCHEMA, **context, "networks": [each.figures for each in networks]}, "report")
    assert isinstance(report, dict)
    page = geometry_page(networks, {key: value for key, value in report.items() if key != "networks"})
    write_report(folder, report, page)
    return report


def geometry_page(networks: Sequence[Measured], context: dict[str, Any]) -> str:
    """The page. Names of networks, blocks and data sets come from outside and are escaped.

    Args:
        networks: at least one, all with the same disturbances.
        context: data set, settings and provenance, as JSON values.
    """
    units = _each(networks, draw_units, "units", "Accuracy with important units reset.")
    costs = _each(networks, draw_costs, "costs", "Histogram of transport cost.")
    paths = _each(networks, draw_paths, "paths", "Projected paths.")
    tables = {each.name: _table(each) for each in networks}
    provenance = {"entries": context, "page": "docs/geometry.md", "csv": False}
    sections = [
        Section("overview", "Side by side", "table.html.jinja", {"table": _overview(networks)}),
        Section("costs", "Transport cost", "geometry/costs.html.jinja", {"drawings": costs}),
        Section("paths", "Paths in two dimensions", "geometry/paths.html.jinja", {"drawings": paths}),
        Section("blocks", "Block by block", "drawings.html.jinja", {"drawings": _by_block(networks)}),
        Section("units", "Without the most important units", "geometry/units.html.jinja", {"drawings": units}),
        Section("tables", "All blocks", "geometry/tables.html.jinja", {"tables": tables}),
        Section("provenance", "Provenance", "provenance.html.jinja", provenance),
    ]
    return render(
        "geometry/page.html.jinja",
        title="geometry",
        question="How long and how straight are the paths?",
        dataset=context["dataset"],
        networks=networks,
        sections=[section for section in sections if section.name != "units" or units],
    )


def _overview(networks: Sequence[Measured]) -> Table:
    rows = [
        Row([what.strip(), *cells], "" if what.startswith(" ") else "ruled")
        for what, cells in overview([each.figures for each in networks])
    ]
    return Table("figures of each network", ["", *(name_cell(each.name) for each in networks)], rows)


def _each(
    networks: Sequence[Measured], draw: Callable[[Measured], Figure | None], prefix: str, alt: str
) -> list[Drawing]:
    return [
        Drawing(inline_svg(figure, prefix=f"{prefix}{place}", alt=f"{alt} {each.name}"))
        for place, each in enumerate(networks)
        if (figure := draw(each)) is not None
    ]


def _by_block(networks: Sequence[Measured]) -> list[Drawing]:
    drawn: list[tuple[Figure | None, str, str]] = [
        (draw_blocks(networks), "Ratio of residue to input, and cosine with the loss's gradient, by block.", _BLOCKS),
        (draw_transport(networks), "W2 between successive clouds, and displacement, by block.", _TRANSPORT),
        (draw_variation(networks), "Variation rates by block.", _VARIATION),
    ]
    return [
        Drawing(inline_svg(figure, prefix=f"blocks{place}", alt=alt), caption)
        for place, (figure, alt, caption) in enumerate(drawn)
        if figure is not None
    ]


def _table(measured: Measured) -> Table:
    """A row per block."""
    blocks = measured.figures["blocks"]
    shares = [share for stage in measured.figures["stages"] for share in stage["shares"]]
    rows = []
    for place, (block, share) in enumerate(zip(blocks, shares, strict=True)):
        figures = [
            block["cost"], block["cost_per_dimension"], share, block["ratio"]["mean"], block["cosine"]["mean"],
            *(block["transport"][key] for key in ("wasserstein", "displacement", "score")),
        ]  # fmt: skip
        first = place and block["stage"] != blocks[place - 1]["stage"]
        cells: list[Cell | str] = [
            label(f"{place + 1} {block['name']}"),
            "×".join(map(str, block["shape"])),
            *map(number, figures),
        ]
        rows.append(Row(cells, "ruled" if first else ""))
    return Table(f"blocks of {measured.name}", _HEADERS, rows)
