"""Tables that compare networks, from evaluations with the same settings."""

from collections.abc import Mapping, Sequence

from benchmarks.tables.cells import Entry, Figure, Result, area, mean_figure, shown
from benchmarks.tables.detection import fit

__all__ = ["by_network", "figure_of", "network_accuracies", "under_attack"]


def by_network(results: Mapping[str, Result], measure: str) -> list[str]:
    """A row per detector and choice of attacks to fit on, a column per network; without baselines that are fitted.

    Args:
        results: condensed evaluations that differ in the network only.
        measure: "unseen", the mean AUROC over the attacks that the detector was not fitted on; "worst_case", the share
            of images that are flagged under every attack that succeeded on them; "false_positives", the realised rate;
            or the name of a set of images, for its AUROC.
    """
    columns = {_network(result): _column(result, measure) for result in results.values()}
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return [
        f"| detector | fitted on | {' | '.join(f'`{name}`' for name in columns)} |",
        "|---|---|" + "---|" * len(columns),
        *(f"| {row} | {' | '.join(column.get(row, '–') for column in columns.values())} |" for row in rows),
    ]


def network_accuracies(results: Mapping[str, Result]) -> list[str]:
    """A row per network: its accuracy, natural and under each attack."""
    return under_attack([(f"`{_network(result)}`", result) for result in results.values()], "network")


def under_attack(rows: Sequence[tuple[str, Result]], heading: str) -> list[str]:
    """Accuracies, natural and under each attack.

    Args:
        rows: first cell and condensed evaluation of each row.
        heading: of the first column.
    """
    attacks = [entry["name"] for _, result in rows for entry in result["sets"] if entry["kind"] == "attack"]
    attacks = list(dict.fromkeys(attacks))
    lines = [
        f"| {heading} | natural accuracy (95 % interval) | {' | '.join(map(shown, attacks))} |",
        "|---|---|" + "---|" * len(attacks),
    ]
    for name, result in rows:
        natural = result["natural"]
        low, high = natural["accuracy_interval"]
        under = {entry["name"]: entry["accuracy"] for entry in result["sets"]}
        cells = " | ".join(f"{under[attack]:.1%}" if attack in under else "–" for attack in attacks)
        lines.append(f"| {name} | {natural['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {cells} |")
    return lines


def figure_of(entry: Entry, measure: str, attacks: Sequence[str] = ()) -> Figure:
    """Mean and interval of one detector; None where there is no figure.

    Args:
        entry: the detector and its choice of attacks to fit on.
        measure: as in `by_network`.
        attacks: the attacks of the mean "unseen".
    """
    if measure == "worst_case":
        return entry.get("worst_case", {}).get("share")  # type: ignore[no-any-return]
    if measure == "false_positives":
        return entry.get("false_positives", {}).get("realised")  # type: ignore[no-any-return]
    if measure == "unseen":
        figures = [entry["auroc"].get(name) for name in attacks if name not in entry["seen"]]
        known = [each for each in figures if each is not None]
        return mean_figure(known) if known else None
    return entry["auroc"].get(measure)  # type: ignore[no-any-return]


def _network(result: Result) -> str:
    return str(result["evaluation"]["network"]).removeprefix("pretrained:")


def _column(result: Result, measure: str) -> dict[str, str]:
    """The cells of a network's column, by row."""
    attacks = [each["name"] for each in result["sets"] if each["kind"] == "attack"]
    form = ".1%" if measure in ("worst_case", "false_positives") else ".3f"
    return {
        f"`{entry['detector']}` | {fit(entry)}": area(figure_of(entry, measure, attacks), form)
        for entry in result["detectors"]
        if not (entry["baseline"] and entry["fitted_on"])
    }
