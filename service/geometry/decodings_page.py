"""Pictures of decoded blocks, and the page that holds them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.datasets.base import ImageDataset
from models.geometry.autoencoder import Autoencoder
from service.formatting import counted, percent
from service.geometry.decoded import Decoded, embeddings
from service.report.axes import new_figure, plain, quiet, text_options
from service.report.curves import draw_legend
from service.report.markup import Row, caption, fact, figure, name_cell, section, table
from service.report.palette import line_of
from service.report.style import STYLE
from service.report.svg import inline_svg

__all__ = ["as_page", "draw_changes", "draw_decodings"]

_CAPTIONS = {
    "decodings": "Held-out images, the autoencoder's reconstruction (ae), and what its decoder makes of each block's "
    "output (b1, b2, …).",
    "changes": "How far decodings and embeddings have come from where they began, block by block: means over all "
    "held-out images.",
}
_SIDE = 0.55  # inches


def draw_decodings(
    autoencoder: Autoencoder,
    networks: Sequence[tuple[Mapping[str, Any], Decoded]],
    data: ImageDataset,
    chosen: np.ndarray,
) -> Figure:
    """A grid per network: the chosen images' rows, and columns original, ae, b1 to bM (Figures 29 to 34)."""
    images = data.tensor(chosen)
    height, width = data.image_shape[1:]
    grids = []
    for _, decoded in networks:
        points = embeddings(decoded.network, images)
        with torch.no_grad():
            shown = [images, *(autoencoder.decode(point, height, width) for point in points)]
        grids.append(np.stack([each.numpy().transpose(0, 2, 3, 1) for each in shown], 1))
    columns = ["original", "ae", *(f"b{number + 1}" for number in range(grids[0].shape[1] - 2))]
    figure = new_figure(_SIDE * len(columns) + 0.1, len(grids) * (_SIDE * len(chosen) + 0.45))
    parts = figure.subfigures(len(grids), 1, squeeze=False)[:, 0]
    for part, grid, (facts, _) in zip(parts, grids, networks, strict=True):
        # One picture per grid: so many axes of their own would take long to lay out.
        axes = part.subplots()
        axes.imshow(np.concatenate([np.concatenate(list(row), 1) for row in grid]), interpolation="nearest")
        axes.set_xticks([(place + 0.5) * width - 0.5 for place in range(len(columns))], columns)
        axes.set_yticks([])
        axes.tick_params(length=0, labelsize=7, top=False, bottom=False, labeltop=True, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(plain(_title(facts)), **text_options(size=7.5), loc="left")
    return figure


def _title(facts: Mapping[str, Any]) -> str:
    return f"{facts['objective']}: accuracy {percent(facts['accuracy'])}"


def draw_changes(networks: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean squared distance of decodings and embeddings from the autoencoder's own, block by block."""
    figure = new_figure(6.8, 3.0)
    panels = figure.subplots(1, 2)
    handles = []
    for axes, key, name in zip(
        panels,
        ("decoding_distance", "embedding_distance"),
        ("decodings, mean square per value", "embeddings, share of the encoder's"),
        strict=True,
    ):
        quiet(axes, x="block")
        axes.set_title(name, **text_options(), loc="left")
        handles = [
            axes.plot(range(1, len(each[key]) + 1), each[key], color=line_of(place, True).colour, marker=".")[0]
            for place, each in enumerate(networks)
        ]
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(figure, handles, [str(each["objective"]) for each in networks])
    return figure


def as_page(found: dict[str, Any], pictures: Mapping[str, Figure]) -> str:
    """The report as one HTML page: no script, nothing from elsewhere."""
    rows = [
        Row(
            [
                name_cell(each["objective"]),
                escape(percent(each["accuracy"])),
                f"{each['transport_cost']:.3g}",
                f"{each['decoding_distance'][-1]:.3g}",
                f"{each['embedding_distance'][-1]:.3g}",
            ]
        )
        for each in found["networks"]
    ]
    headers = ("objective", "accuracy", "transport cost", "decodings have changed by", "embeddings have changed by")
    note = (
        f"On {counted(found['n'], 'held-out image')}. Changes are from the autoencoder's reconstruction and from the "
        "encoder's output to those of the last block: mean squares per value, embeddings as a share of the encoder's "
        f"output. The autoencoder's own error is {found['autoencoder']['error']:.3g} per value."
    )
    drawn = "".join(
        f'<div class="figures single">{figure(inline_svg(picture, prefix=name, alt=_CAPTIONS[name]))}</div>'
        + caption(escape(_CAPTIONS[name]))
        for name, picture in pictures.items()
    )
    facts = {key: value for key, value in found.items() if key != "networks"}
    told = "".join(f"<dt>{escape(key)}</dt><dd>{fact(value)}</dd>" for key, value in facts.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Plumbline: decodings</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        "<header><h1>What does each block make of an image?</h1>"
        f'<p class="facts"><span>data set <b>{escape(found["dataset"])}</b></span></p></header>\n'
        + section("networks", "Networks", table(headers, rows, label="networks", note=note))
        + section("pictures", "Decodings", drawn)
        + f'<section id="provenance" class="provenance"><h2>Where this comes from</h2><dl>{told}</dl></section>'
        "\n</main>\n</body>\n</html>\n"
    )
