"""Tables of the two-dimensional data set, of decodings, and of plain networks beside residual ones."""

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from benchmarks.tables.cells import Result
from service.geometry.circles.page import NAMES, mean_text
from service.geometry.networks.overview import as_table

__all__ = ["circles", "circles_outliers", "circles_transport", "decodings", "moons", "paths", "plain_twins"]

_PUBLISHED = Path(__file__).resolve().parent / "paper" / "plain_networks.csv"
_TWIN_FIGURES = {
    "train_accuracy": "training accuracy, %", "accuracy": "test accuracy, %", "score": "OTS", "line_shape_ratio": "LSR",
    "line_shape_score": "LSS", "last_share": "last segment",
}  # fmt: skip
_PERCENT = ("train_accuracy", "accuracy", "tracks")
_PATHS = {"plain": "ResNet", "fixed": "λ = 0.07", "multipliers": "LAP-ResNet"}


def circles(result: Result, table: str) -> list[str]:
    """One of the thesis's tables: ours, the gain over the first row, and the published figure, in per cent."""
    (found,) = [each for each in result["tables"] if each["table"] == int(table)]
    lines = [
        "| | no batch normalisation | gain | published | batch normalisation | gain | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for objective, name in NAMES.items():
        rows = [row for row in found["rows"] if row["objective"] == objective]
        cells = [
            text
            for row in rows
            for text in (mean_text(row), mean_text(row["gain"], plus=True), mean_text(row["published"]))
        ]
        lines.append(f"| {name.format(**found)} | {' | '.join(cells)} |")
    return lines


def moons(result: Result) -> list[str]:
    """A row per case and objective: ours and the gain over the first objective, in per cent."""
    lines = [
        "| case | | no batch normalisation | gain | batch normalisation | gain |",
        "|---|---|---|---|---|---|",
    ]
    for found in result["tables"]:
        for objective, name in NAMES.items():
            rows = [row for row in found["rows"] if row["objective"] == objective]
            cells = [text for row in rows for text in (mean_text(row), mean_text(row["gain"], plus=True))]
            lines.append(f"| {found['why']} | {name.format(**found)} | {' | '.join(cells)} |")
    return lines


def circles_transport(result: Result) -> list[str]:
    """Total displacement of the test points over all blocks, and the share that optimal maps would need."""
    lines = ["| | displacement, summed over blocks | W2 ÷ displacement |", "|---|---|---|"]
    for name, found in result["transport"].items():
        total, share = found["total_displacement"], found["share"]
        lines.append(f"| {_PATHS[name]} | {total['mean']:.2f} ± {total['interval']:.2f} | {mean_text(share)} % |")
    return lines


def circles_outliers(result: Result) -> list[str]:
    """Transport cost of test points and of outliers, and the AUROC between them."""
    lines = [
        "| | outliers | cost of test points | cost of outliers | AUROC of the cost | AUROC of its deviation |",
        "|---|---|---|---|---|---|",
    ]
    for name, kinds in result["outliers"].items():
        for each in kinds:
            costs = " | ".join(f"{each[key]['mean']:.3g}" for key in ("natural_cost", "outlier_cost"))
            areas = " | ".join(_area(each[key]) for key in ("auroc", "auroc_deviation"))
            lines.append(f"| {_PATHS[name]} | {each['outliers']} | {costs} | {areas} |")
    return lines


def _area(found: dict[str, float]) -> str:
    return f"{found['mean']:.3f} ± {found['interval']:.3f}"


def decodings(result: Result) -> list[str]:
    """Accuracy, transport cost, and distances of decodings and embeddings after the first, middle and last block."""
    count = len(result["networks"][0]["decoding_distance"])
    shown: Sequence[int] = sorted({0, (count - 1) // 2, count - 1})
    lines = [
        "| objective | accuracy | transport cost | "
        + " | ".join(f"decodings after b{block + 1}" for block in shown)
        + f" | embeddings after b{count} |",
        "|" + "---|" * (4 + len(shown)),
    ]
    for each in result["networks"]:
        changes = " | ".join(f"{each['decoding_distance'][block]:.2g}" for block in shown)
        lines.append(
            f"| `{each['objective']}` | {each['accuracy']:.1%} | {each['transport_cost']:.3g} | {changes} | "
            f"{each['embedding_distance'][-1]:.2g} |"
        )
    return lines


def paths(result: Result) -> list[str]:
    """The table that `plumbline geometry` prints, a column per network."""
    return ["```", *as_table(result["networks"]).splitlines(), "```"]


def plain_twins(result: Result, tables: Sequence[str] = ()) -> list[str]:
    """A row per weight decay, size and network: accuracies, optimal transport score, line shape, last segment's share.

    Args:
        result: of `training.plain_twins`.
        tables: of Gai and Zhang, whose figures follow ours after a slash. Without any, the table also has the tracks
            below their bound and the accuracies under disturbances.
    """
    published = [row for table in tables for row in _published() if row["table"] == table]
    disturbed = [] if tables else list(result["rows"][0]["disturbed"])
    headings = ["γ", "network", *_TWIN_FIGURES.values()]
    if not tables:
        headings += ["tracks below bound, %", *(f"{each}, %" for each in disturbed)]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for row in result["rows"]:
        network = "residual" if row["residual"] else "plain"
        beside = [each for each in published if (float(each["decay"]), each["network"]) == (row["decay"], network)]
        figures = {**row, "last_share": row["shares"][-1]}
        cells = [
            " / ".join([_twin_figure(key, figures[key]), *(each[key] for each in beside if each[key])])
            for key in _TWIN_FIGURES
        ]
        if not tables:
            cells.append(_twin_figure("tracks", row["tracks"]["below_bound"]))
        cells += [_twin_figure("accuracy", row["disturbed"][each]["accuracy"]) for each in disturbed]
        size = f", {row['filters']} × {row['blocks']}" if "filters" in row else ""
        lines.append(f"| {row['decay']:g} | {network}{size} | {' | '.join(cells)} |")
    return lines


def _twin_figure(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if key in _PERCENT else f"{value:.3g}"


@lru_cache
def _published() -> list[dict[str, str]]:
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
