"""Figures of decoded blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.datasets.base import ImageDataset
from models.geometry.autoencoder import Autoencoder
from service.formatting import percent
from service.geometry.decodings.decoding import Decoded, embeddings
from service.report.figures.axes import draw_legend, new_figure, plain, quiet, text_options
from service.report.html.palette import line_of

__all__ = ["draw_changes", "draw_decodings"]

_SIDE = 0.55  # inches
_PANELS = {
    "decoding_distance": "decodings, mean square per value",
    "embedding_distance": "embeddings, share of the encoder's",
}


def draw_decodings(
    autoencoder: Autoencoder,
    networks: Sequence[tuple[Mapping[str, Any], Decoded]],
    data: ImageDataset,
    chosen: np.ndarray,
) -> Figure:
    """A grid per network: a row per image, and columns original, ae, b1 to bM (Figures 29 to 34).

    Args:
        autoencoder: whose decoder shows the blocks.
        networks: (figures, decoded blocks) of each.
        data: held-out images.
        chosen: numbers of the drawn images.
    """
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
    for part, grid, (figures, _) in zip(parts, grids, networks, strict=True):
        # One picture per grid: the layout of an axes per image would take long.
        axes = part.subplots()
        axes.imshow(np.concatenate([np.concatenate(list(row), 1) for row in grid]), interpolation="nearest")
        axes.set_xticks([(place + 0.5) * width - 0.5 for place in range(len(columns))], columns)
        axes.set_yticks([])
        axes.tick_params(length=0, labelsize=7, top=False, bottom=False, labeltop=True, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        title = f"{figures['objective']}: accuracy {percent(figures['accuracy'])}"
        axes.set_title(plain(title), **text_options(size=7.5), loc="left")
    return figure


def draw_changes(networks: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean squared distance of decodings and embeddings to the autoencoder's own, block by block."""
    figure = new_figure(6.8, 3.0)
    handles = []
    for axes, (key, name) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        quiet(axes, x="block")
        axes.set_title(name, **text_options(), loc="left")
        handles = [
            axes.plot(range(1, len(each[key]) + 1), each[key], color=line_of(place).colour, marker=".")[0]
            for place, each in enumerate(networks)
        ]
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(figure, handles, [str(each["objective"]) for each in networks])
    return figure
