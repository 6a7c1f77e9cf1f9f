"""The report of paths' geometry as one HTML page, of the same make as an evaluation's."""

from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from service.formatting import counted
from service.geometry.drawing import (
    draw_blocks,
    draw_costs,
    draw_paths,
    draw_transport,
    draw_units,
    draw_variation,
)
from service.geometry.measuring import Measured
from service.geometry.overview import number, overview
from service.report.markup import Row, caption, details, fact, figure, figure_grid, name_cell, section, table
from service.report.style import STYLE
from service.report.svg import inline_svg

__all__ = ["as_page"]

_COSTS = (
    "Transport cost of an image: the sum over blocks of ‖r‖², r what a block adds. Natural images lie between the "
    "vertical lines, their 0.02 and 0.98 quantiles, by construction; the further attacked images lie outside, the "
    "better the cost alone tells them."
)
_PATHS = (
    "Paths of some images, from the open circle on, projected by one random Gaussian matrix per stage. A straight path "
    "stays straight in any projection."
)
_BLOCKS = (
    "Means over images; the band holds the middle half of them. A block with a small ratio and a negative cosine "
    "refines: it goes a little way down the loss."
)
_TRANSPORT = (
    "How far a block moves its points (root mean square), beside the least that any map between the same two clouds "
    "has to. In many dimensions few points are near one another, so a small gap is easier to reach than in two."
)
_VARIATION = "‖x − x'‖ / ‖x‖ after each block, x' the path of the disturbed image; mean over images."
_UNITS = (
    "For each class, the units of highest mean activation after the block are set back to what they were before it, in "
    "all images of the class. At 100 % the block is skipped."
)


def as_page(networks: Sequence[Measured], facts: dict[str, Any]) -> str:
    """The page. Whatever came from outside (names of networks, blocks, data sets) is escaped.

    Args:
        networks: at least one, all with the same disturbances.
        facts: what was measured on, how and where, as JSON values.
    """
    body = "\n".join(
        part
        for part in (
            _remarks(networks),
            section("overview", "Side by side", _overview(networks)),
            section(
                "costs",
                "Transport cost",
                _each(networks, draw_costs, "costs", "Histogram of transport cost.") + caption(_COSTS),
            ),
            section(
                "paths",
                "Paths in two dimensions",
                _each(networks, draw_paths, "paths", "Projected paths.") + caption(_PATHS),
            ),
            section("blocks", "Block by block", _together(networks)),
            section("units", "Without the most important units", _units(networks)),
            section("tables", "All blocks", "".join(map(_blocks, networks))),
            _provenance(facts),
        )
        if part
    )
    data = facts["dataset"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Plumbline: geometry</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        '<header><h1>How straight and how short are the paths?</h1><p class="facts">'
        f"<span>data set <b>{escape(data['name'])}</b></span><span>{counted(data['images'], 'image')}</span>"
        f"<span>{counted(len(networks), 'network')}</span></p></header>"
        f"\n{body}\n</main>\n</body>\n</html>\n"
    )


def _remarks(networks: Sequence[Measured]) -> str:
    items = "".join(
        f"<li><b>{escape(each.name)}</b>: {escape(remark)}</li>"
        for each in networks
        for remark in each.figures["remarks"]
    )
    return f'<section class="warnings"><h2>Read with care</h2><ul>{items}</ul></section>' if items else ""


def _overview(networks: Sequence[Measured]) -> str:
    rows = [
        Row([escape(what.strip()), *map(escape, cells)], "" if what.startswith(" ") else "apart")
        for what, cells in overview([each.figures for each in networks])
    ]
    return table(["", *(name_cell(each.name) for each in networks)], rows, label="figures of each network")


def _each(networks: Sequence[Measured], draw: Any, prefix: str, alt: str) -> str:
    return figure_grid(
        figure(inline_svg(drawing, prefix=f"{prefix}{place}", alt=f"{alt} {each.name}"))
        for place, each in enumerate(networks)
        if (drawing := draw(each)) is not None
    )


def _together(networks: Sequence[Measured]) -> str:
    drawn: list[tuple[Figure | None, str, str]] = [
        (draw_blocks(networks), "Ratio of residue to input, and cosine with the loss's gradient, by block.", _BLOCKS),
        (draw_transport(networks), "W2 between successive clouds beside the displacement, by block.", _TRANSPORT),
        (draw_variation(networks), "Variation rates by block.", _VARIATION),
    ]
    return figure_grid(
        figure(inline_svg(drawing, prefix=f"blocks{place}", alt=alt), note)
        for place, (drawing, alt, note) in enumerate(drawn)
        if drawing is not None
    )


def _units(networks: Sequence[Measured]) -> str:
    drawn = _each(networks, draw_units, "units", "Accuracy as important units are set back.")
    return drawn + caption(_UNITS) if drawn else ""


def _blocks(measured: Measured) -> str:
    shares = [share for stage in measured.figures["stages"] for share in stage["shares"]]
    rows = [
        Row(
            [
                f'{place + 1} <span class="name">{escape(block["name"])}</span>',
                escape("×".join(map(str, block["shape"]))),
                number(block["cost"]),
                number(block["cost_per_dimension"]),
                number(shares[place]),
                number(block["ratio"]["mean"]),
                number(block["cosine"]["mean"]),
                number(block["transport"]["wasserstein"]),
                number(block["transport"]["displacement"]),
                number(block["transport"]["score"]),
            ],
            "apart" if place and block["stage"] != measured.figures["blocks"][place - 1]["stage"] else "",
        )
        for place, block in enumerate(measured.figures["blocks"])
    ]
    headers = (
        "block", "shape", "cost", "per dimension", "share of its stage's length", "‖r‖ / ‖x‖", "cosine", "W2",
        "displacement", "transport score",
    )  # fmt: skip
    return details(escape(measured.name), table(headers, rows, label=f"blocks of {measured.name}"), shown=True)


def _provenance(facts: dict[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{fact(value)}</dd>" for key, value in facts.items())
    note = caption("All figures are in <code>report.json</code>; <code>docs/geometry.md</code> explains every key.")
    return f'<section id="provenance" class="provenance"><h2>Where this comes from</h2><dl>{rows}</dl>{note}</section>'
