"""Names and cells of Markdown tables. A missing figure is a dash."""

from collections.abc import Callable, Sequence
from typing import Any

from service.inputs.names import plain_name

__all__ = [
    "Entry",
    "Figure",
    "Result",
    "area",
    "crossed",
    "deviation",
    "mean_figure",
    "number",
    "percent",
    "ratio",
    "shown",
]

Result = dict[str, Any]
Entry = dict[str, Any]
Figure = Sequence[float | None] | None  # mean, standard deviation and, where there is an interval, its bounds

NAMES = {
    "fgm": "FGM", "bim": "BIM", "pgd": "PGD", "apgd": "APGD", "autoattack": "AutoAttack", "deepfool": "DeepFool",
    "carlini_wagner": "CW", "fab": "FAB", "square": "Square", "hop_skip_jump": "HopSkipJump", "boundary": "Boundary",
    "jsma": "JSMA", "zoo": "ZOO", "universal_perturbation": "universal perturbation",
    "spatial_transformation": "spatial", "pixel": "pixel", "transfer": "transfer",
}  # fmt: skip
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST"}
_SYMBOLS = {"epsilon": "ε", "confidence": "κ", "theta": "θ"}


def shown(name: str) -> str:
    """The readable name of a set of images: "pgd:epsilon=2/255" → "PGD ε 2/255"."""
    if "+" in name:
        return " + ".join(map(shown, name.split("+")))
    if " " in name:  # readable already
        return name
    kind, _, rest = name.partition(":")
    if kind == "ood":  # ood:random_crops:npz:cifar10-test.npz: the transformation, or the data set of the file
        head, plain = rest.partition(":")[0], plain_name(rest)
        return DATA.get(plain, plain if head == "npz" else head.replace("_", " "))
    options = dict(part.split("=", 1) for part in rest.split(":") if "=" in part)
    named = [f"{symbol} {options[key]}" for key, symbol in _SYMBOLS.items() if key in options]
    return " ".join([NAMES.get(kind, kind), *named])


def crossed(
    entries: Sequence[Entry], row: Callable[[Entry], str], corner: str, cell: Callable[[Entry], str]
) -> list[str]:
    """The lines of a table with one column per `tested_on` of the entries.

    Args:
        entries: one per cell.
        row: the first cells of the entry's row, with ` | ` between them.
        corner: the headings of these cells.
        cell: the entry's own cell.
    """
    columns = list(dict.fromkeys(entry["tested_on"] for entry in entries))
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        rows.setdefault(row(entry), {})[entry["tested_on"]] = cell(entry)
    return [
        f"| {corner} | {' | '.join(map(shown, columns))} |",
        "|" + "---|" * (corner.count("|") + 1 + len(columns)),
        *(f"| {name} | {' | '.join(cells.get(each, '–') for each in columns)} |" for name, cells in rows.items()),
    ]


def deviation(figure: Figure, *, percentage: bool = False) -> str:
    """A mean and its standard deviation over runs."""
    if figure is None or figure[0] is None:
        return "–"
    mean, std = figure[:2]
    form = ".1%" if percentage else ".3f"
    return f"{mean:{form}}" + (f" ± {std:{form}}" if std is not None else "")


def mean_figure(figures: Sequence[Sequence[float]]) -> list[float]:
    """Means of the figures' means, deviations and bounds.

    The interval is conservative: it assumes fully correlated errors.
    """
    return [sum(parts) / len(figures) for parts in zip(*figures, strict=True)]


def area(figure: Figure, form: str = ".3f") -> str:
    """A mean and its interval over runs and images."""
    if figure is None:
        return "–"
    mean, _, low, high = figure
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


def ratio(found: Entry, digits: int = 2) -> str:
    """A ratio of durations and its quartiles over rounds."""
    return f"{found['ratio']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def percent(value: float | None) -> str:
    """A share."""
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None, scale: float, digits: int) -> str:
    """A number in another unit."""
    return "–" if value is None else f"{value * scale:.{digits}f}"
