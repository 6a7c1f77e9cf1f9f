"""Pictures of `training.small_sets`: figures 11, 15, 18 and 42 of the thesis."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.files import write_atomically
from service.report.figures.svg import as_png

__all__ = ["draw"]

_NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_MODES = {"figure-43": "in parallel", "table-11": "in sequence", "multi-lap": "in laps"}


def draw(experiments: Mapping[str, Any], folder: Path) -> None:
    """Draw the figures whose experiments are present.

    Args:
        experiments: of a condensed result.
        folder: of the pictures, made if missing.
    """
    if points := experiments.get("figure-11", {}).get("points"):
        figure, (axes,) = _figure(1, 7)
        _points(axes, points)
        _save(figure, folder / "transport-cost-accuracy.png")
    epochs = [row for name in ("table-18", "table-17") for row in _rows(experiments, name) if row["images"] == 1000]
    if epochs:
        figure, panels = _figure(len(epochs), 10)
        for axes, row in zip(panels, epochs, strict=True):
            name = _NAMES.get(row["dataset"], row["dataset"])
            _lines(axes, row["methods"], "tracked", f"{name}, {row['images']:,} training images", "epoch")
        _save(figure, folder / "accuracy-during-training.png")
    modes = [(title, row) for name, title in _MODES.items() for row in _rows(experiments, name)]
    if modes:
        figure, panels = _figure(len(modes), 10)
        for axes, (title, row) in zip(panels, modes, strict=True):
            methods = [each for each in row["methods"] if "modules" in each]
            # Figure 43 has several τ; one of them is enough here.
            chosen = [m for m in methods if "τ" not in m["method"] or m["method"].endswith("τ = 0.5")]
            _lines(axes, chosen, "modules", title, "module")
        _save(figure, folder / "accuracy-after-modules.png")


def _rows(experiments: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = experiments.get(name, {"rows": []})["rows"]
    return rows


def _figure(panels: int, width: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, 4), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, as_png(figure))
    print(path)


def _lines(axes: Axes, methods: Sequence[Mapping[str, Any]], key: str, title: str, label: str) -> None:
    """A line per method with its 95 % interval, in percent."""
    for method in methods:
        found = {bound: [100 * (value or 0) for value in values] for bound, values in method[key].items()}
        numbers = range(1, len(found["mean"]) + 1)
        axes.plot(numbers, found["mean"], marker=".", label=method["method"])
        if None not in method[key]["low"]:
            axes.fill_between(numbers, found["low"], found["high"], alpha=0.2)
    axes.set(title=title, xlabel=label, ylabel="test accuracy, %")
    axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small")


def _points(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Transport cost against test accuracy, a point per network, a colour per gain and a marker per scheme."""
    for scheme, marker in (("orthogonal", "o"), ("normal", "^")):
        for gain in sorted({point["gain"] for point in points if point["initialization"] == scheme}):
            chosen = [p for p in points if p["initialization"] == scheme and p["gain"] == gain]
            axes.scatter(
                [p["transport_cost"] for p in chosen], [100 * p["accuracy"] for p in chosen],
                marker=marker, label=f"{scheme}, {gain:g}",
            )  # fmt: skip
    axes.set(
        xscale="log", xlabel="transport cost of test images (sum over blocks of ‖r‖²/d)", ylabel="test accuracy, %"
    )
    axes.legend(title="initialisation, gain", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
