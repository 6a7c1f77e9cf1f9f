"""Our figures beside those of the thesis, and the effect of clipping normalised images."""

from collections.abc import Mapping, Sequence

from benchmarks.tables.cells import Entry, Figure, Result, crossed
from benchmarks.tables.detection import fit, objectives_of, sorted_by_group

__all__ = ["beside_paper", "by_votes", "clipping", "clipping_alone", "published_by_objective"]

_TRAININGS = {"cross-entropy": "VAN", "least action": "LAP", "reverse cross-entropy": "RCE"}


def beside_paper(result: Result, table: str) -> list[str]:
    """One published table of vanilla training: published figure / ours, in percent; a column per tested set."""
    rows = [row for row in result["published"] if row["table"] == table and row["training"] == "VAN"]
    return crossed(
        rows,
        lambda row: f"{row['detector']} | {row['fitted_on'] or 'the same'} | {row['metric'].replace('_', ' ')}",
        "detector | fitted on | metric",
        _cell,
    )


def published_by_objective(results: Mapping[str, Result], tables: Sequence[str]) -> list[str]:
    """A row per detector, choice to fit on and objective: published detection accuracy / ours, in percent.

    Args:
        results: condensed evaluations of the same networks, trained with different objectives.
        tables: of the thesis; attacks that we did not run are left out.
    """
    rows = [
        {**row, "objective": objective, "fitted_on": row["fitted_on"] or "the same"}
        for objective, result in objectives_of(results)
        for row in result["published"]
        if row["table"] in tables and row["training"] == _TRAININGS[objective] and row["ours"] is not None
    ]
    return crossed(
        sorted_by_group(rows, "detector", "fitted_on"),
        lambda row: f"{row['detector']} | {row['fitted_on']} | {row['objective']}",
        "detector | fitted on | trained with",
        _cell,
    )


def by_votes(result: Result) -> list[str]:
    """Detection accuracy at a vote of 0.5, in percent: a row per detector and fit, a column per tested set."""
    return crossed(
        result["votes"],
        lambda entry: f"`{entry['detector']}` | {fit(entry)}",
        "detector | fitted on",
        lambda entry: _percentages(entry["accuracy"]),
    )


def clipping(result: Result) -> list[str]:
    """A row per change of the images: accuracy of the network, and of detectors that were fitted on the change."""
    entries = {
        (row["detector"], row["tested_on"]): row for row in result["results"] if row["fitted_on"] == row["tested_on"]
    }
    detectors = list(dict.fromkeys(name for name, _ in entries))
    lines = [
        "| images | accuracy of the network | median L2 in pixels | "
        + " | ".join(f"`{name}`: accuracy, AUROC" for name in detectors) + " |",
        "|" + "---|" * (3 + len(detectors)),
    ]  # fmt: skip
    for each in result["sets"]:
        if (detectors[0], each["name"]) in entries:
            rows = [entries[name, each["name"]] for name in detectors]
            cells = " | ".join(f"{row['accuracy']:.1%}, {row['auroc']:.3f}" for row in rows)
            lines.append(f"| {each['name']} | {each['accuracy']:.1%} | {each['l2_median']:.3f} | {cells} |")
    return lines


def clipping_alone(result: Result) -> list[str]:
    """Share flagged of each attacked set by detectors that were fitted on changed images without an attack."""
    return crossed(
        [row for row in result["results"] if row["tested_on"] != row["fitted_on"]],
        lambda row: f"`{row['detector']}` | {row['fitted_on']}",
        "detector | fitted on",
        lambda row: f"{row['flagged']:.1%}",
    )


def _cell(row: Entry) -> str:
    return f"{_percentages(row['published'])} / {_percentages(row['ours'])}"


def _percentages(figure: Figure) -> str:
    if figure is None or figure[0] is None:
        return "–"
    mean, std = figure[:2]
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")
