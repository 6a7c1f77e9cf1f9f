"""Markdown tables of the figures that `benchmarks.study` and the experiments wrote; `docs/results.md` is made of them.

Every function takes a result as read from its JSON file and gives the lines of a table. Means ± standard deviations are
over runs. A figure that is not there is a dash.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["beside_paper", "by_detector", "costs", "false_positives", "matrix", "outliers", "sets", "worst_case"]

Result = dict[str, Any]

NAMES = {
    "fgm": "FGM", "bim": "BIM", "pgd": "PGD", "apgd": "APGD", "autoattack": "AutoAttack", "deepfool": "DeepFool",
    "carlini_wagner": "CW", "hop_skip_jump": "HopSkipJump", "boundary": "Boundary",
}  # fmt: skip


def shown(name: str) -> str:
    """A set's name as people write it: "pgd:epsilon=2/255" → "PGD 2/255"."""
    if "+" in name:
        return " + ".join(shown(each) for each in name.split("+"))
    kind, _, rest = name.partition(":")
    if kind == "ood":
        return rest
    return " ".join([NAMES.get(kind, kind), *(part.removeprefix("epsilon=") for part in rest.split(":") if part)])


def fit(entry: dict[str, Any]) -> str:
    """What an entry's detector was fitted on."""
    return " + ".join(shown(name) for name in entry["fitted_on"]) or "natural images only"


def matrix(result: Result, detector: str, metric: str = "auroc", group: str = "successful") -> list[str]:
    """One detector: a row per choice to fit on, a column per attack tested; seen attacks in bold."""
    entries = [e for e in result["results"] if e["detector"] == detector and e["kind"] == "attack"]
    return _crossed(entries, fit, "fitted on", lambda e: _cell(e, group, metric, bold=e["seen"]))


def by_detector(
    result: Result, fitted_on: Sequence[str], metric: str = "auroc", group: str = "successful"
) -> list[str]:
    """A row per detector, a column per attack; detectors that learn were fitted on `fitted_on`."""
    entries = [
        e
        for e in result["results"]
        if e["kind"] == "attack" and (not e["fitted_on"] or sorted(e["fitted_on"]) == sorted(fitted_on))
    ]
    return _crossed(entries, _detector, "detector", lambda e: _cell(e, group, metric, bold=e["seen"]))


def outliers(result: Result, metric: str = "auroc") -> list[str]:
    """A row per detector and what it was fitted on, a column per set of outliers; seen ones in bold."""
    entries = [e for e in result["results"] if e["kind"] == "outlier"]
    return _crossed(
        entries,
        lambda e: f"{_detector(e)} | {fit(e)}",
        "detector | fitted on",
        lambda e: _cell(e, "all", metric, bold=e["seen"]),
    )


def worst_case(result: Result, detectors: Iterable[str] | None = None) -> list[str]:
    """Share of images that are flagged under every attack that succeeded on them."""
    lines = ["| detector | fitted on | flagged under every attack | AUROC of the lowest score |", "|---|---|---|---|"]
    for entry in result["worst_case"]:
        if detectors is None or entry["detector"] in detectors:
            share, area = (_mean_std(entry["mean"].get(k), entry["std"].get(k)) for k in ("share", "auroc"))
            lines.append(f"| {_detector(entry)} | {fit(entry)} | {share} | {area} |")
    return lines


def false_positives(result: Result, nominal: float = 0.05) -> list[str]:
    """Realised rates at one nominal rate: mean over runs, and in how many of the runs it was compatible."""
    lines = ["| detector | fitted on | realised | first run (95 % interval) |", "|---|---|---|---|"]
    for entry in result["false_positives"]:
        if entry["nominal"] == nominal:
            first = entry["first_run"]
            low, high = first["interval"]
            realised = _mean_std(entry["mean"]["realised"], entry["std"]["realised"], percent=True)
            lines.append(
                f"| {_detector(entry)} | {fit(entry)} | {realised} | "
                f"{first['realised']:.1%} ({low:.1%} to {high:.1%}) |"
            )
    return lines


def sets(result: Result) -> list[str]:
    """The attacked sets themselves."""
    lines = [
        "| set | images | accuracy | success rate | median L∞ ·255 | median L2 | given away by pixels |",
        "|---|" * 1 + "---|" * 6,
    ]
    lines += [
        f"| {shown(each['name'])} | {each['images']:,} | {_percent(each['accuracy'])} | "
        f"{_percent(each['success_rate'])} | {_number(each['linf_median'], 255, 2)} | "
        f"{_number(each['l2_median'], 1, 3)} | {'yes' if each['broken'] else 'no'} |"
        for each in result["sets"]
        if each["kind"] != "outlier"
    ]
    return lines


def costs(result: Result) -> list[str]:
    """Milliseconds per image, detector by detector, as measured in the study itself."""
    lines = ["| detector | measurements | score | fitting, s |", "|---|---|---|---|"]
    seen = set()
    for entry in result["costs"]:
        if entry["detector"] not in seen:
            seen.add(entry["detector"])
            lines.append(
                f"| {_detector(entry)} | {_number(entry['measure_seconds_per_image'], 1000, 3)} | "
                f"{_number(entry['score_seconds_per_image'], 1000, 3)} | {_number(entry['fit_seconds'], 1, 1)} |"
            )
    return lines


def beside_paper(result: Result, tables: Sequence[int], training: str = "VAN") -> list[str]:
    """Published figures of some tables beside ours, in percent."""
    lines = [
        "| table | detector | fitted on | tested on | metric | published | ours |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['table']} | {row['detector']} | {row['fitted_on']} | {row['tested_on']} | {row['metric']} | "
        f"{_published(row['published'], row['published_std'])} | {_published(row['ours'], row['ours_std'])} |"
        for row in result["beside_paper"]["rows"]
        if int(row["table"]) in tables and row["training"] == training
    ]
    return lines


def _crossed(
    entries: Sequence[dict[str, Any]], row: Callable[[Any], str], corner: str, cell: Callable[[Any], str]
) -> list[str]:
    columns = list(dict.fromkeys(entry["tested_on"] for entry in entries))
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        rows.setdefault(row(entry), {})[entry["tested_on"]] = cell(entry)
    width = corner.count("|") + 1 + len(columns)
    return [
        f"| {corner} | " + " | ".join(shown(name) for name in columns) + " |",
        "|" + "---|" * width,
        *(f"| {name} | " + " | ".join(cells.get(c, "–") for c in columns) + " |" for name, cells in rows.items()),
    ]


def _detector(entry: dict[str, Any]) -> str:
    return f"`{entry['detector']}`" + (" (baseline)" if entry.get("baseline") else "")


def _cell(entry: dict[str, Any], group: str, metric: str, bold: bool) -> str:
    mean, std = (entry[which].get(group) or {} for which in ("mean", "std"))
    text = _mean_std(mean.get(metric), std.get(metric))
    return f"**{text}**" if bold and text != "–" else text


def _mean_std(mean: float | None, std: float | None, percent: bool = False) -> str:
    if mean is None:
        return "–"
    if percent:
        return f"{mean:.1%}" + (f" ± {std:.1%}" if std is not None else "")
    return f"{mean:.3f}" + (f" ± {std:.3f}" if std is not None else "")


def _published(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.1f}" + (f" ± {std:.1f}" if std is not None else "")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None, scale: float, digits: int) -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}"
