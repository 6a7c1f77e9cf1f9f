"""Markdown tables of the figures that `benchmarks.detection.evaluation` wrote; `docs/results.md` is made of them.

Every function takes a result as read from its JSON file and gives the lines of a table. Means ± standard deviations are
over runs. A figure that is not there is a dash.
"""

from collections.abc import Callable, Sequence
from typing import Any

from service.report.outliers import plain_name

__all__ = [
    "adaptive", "beside_paper", "by_detector", "clipping", "clipping_alone", "compatible", "costs", "false_positives",
    "matrix", "near_far", "outliers", "robustness", "sets", "speed", "worst_case",
]  # fmt: skip

Result = dict[str, Any]

NAMES = {
    "fgm": "FGM", "bim": "BIM", "pgd": "PGD", "apgd": "APGD", "autoattack": "AutoAttack", "deepfool": "DeepFool",
    "carlini_wagner": "CW", "fab": "FAB", "square": "Square", "hop_skip_jump": "HopSkipJump", "boundary": "Boundary",
}  # fmt: skip

DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST"}


def shown(name: str) -> str:
    """A set's name as people write it: "pgd:epsilon=2/255" → "PGD 2/255"."""
    if "+" in name:
        return " + ".join(shown(each) for each in name.split("+"))
    if " " in name:  # a sentence already
        return name
    kind, _, rest = name.partition(":")
    if kind == "ood":  # ood:random_crops:npz:cifar10-test.npz: what was done, or the file without its path and split
        head, name = rest.partition(":")[0], plain_name(rest)
        return DATA.get(name, name if head == "npz" else head.replace("_", " "))
    options = dict(part.split("=", 1) for part in rest.split(":") if part)
    signs = {"epsilon": "ε", "confidence": "κ"}
    return " ".join([NAMES.get(kind, kind), *(f"{signs[key]} {options[key]}" for key in options if key in signs)])


def fit(entry: dict[str, Any]) -> str:
    """What an entry's detector was fitted on."""
    return " + ".join(shown(name) for name in entry["fitted_on"]) or "natural images only"


def matrix(result: Result, detector: str, metric: str = "auroc", group: str = "successful") -> list[str]:
    """One detector: a row per choice to fit on, a column per attack tested; seen attacks in bold."""
    entries = [e for e in result["results"] if e["detector"] == detector and e["kind"] == "attack"]
    return crossed(entries, fit, "fitted on", lambda e: figure_cell(e, group, metric, bold=e["seen"]))


def by_detector(
    result: Result, fitted_on: Sequence[str], metric: str = "auroc", group: str = "successful"
) -> list[str]:
    """A row per detector, a column per attack; detectors that learn were fitted on `fitted_on`."""
    entries = [entry for entry in _fitted(result["results"], fitted_on) if entry["kind"] == "attack"]
    return crossed(entries, _detector, "detector", lambda e: figure_cell(e, group, metric, bold=e["seen"]))


def outliers(result: Result, metric: str = "auroc") -> list[str]:
    """A row per detector and what it was fitted on, a column per set of outliers; seen ones in bold."""
    entries = [e for e in result["results"] if e["kind"] == "outlier"]
    return crossed(
        entries,
        lambda e: f"{_detector(e)} | {fit(e)}",
        "detector | fitted on",
        lambda e: figure_cell(e, "all", metric, bold=e["seen"]),
    )


def near_far(result: Result) -> list[str]:
    """Means over the near and over the far sets of outliers, those that a detector was fitted on left out."""
    lines = [
        "| detector | fitted on | AUROC near | AUROC far | FPR at 95 % TPR near | far |",
        "|---|---|---|---|---|---|",
    ]
    for entry in result["outliers"]:
        areas = [(entry[distance] or {}).get("auroc") for distance in ("near", "far")]
        rates = [(entry[distance] or {}).get("fpr_at_95_tpr") for distance in ("near", "far")]
        told = [_number(area, 1, 3) for area in areas] + [_percent(rate) for rate in rates]
        lines.append(f"| {_detector(entry)} | {fit(entry)} | {' | '.join(told)} |")
    return lines


def worst_case(result: Result, fitted_on: Sequence[str]) -> list[str]:
    """Share of images that are flagged under every attack that succeeded on them; detectors as in `by_detector`."""
    lines = ["| detector | flagged under every attack | AUROC of the lowest score |", "|---|---|---|"]
    for entry in _fitted(result["worst_case"], fitted_on):
        share = _mean_std(entry["mean"].get("share"), entry["std"].get("share"), percent=True)
        area = _mean_std(entry["mean"].get("auroc"), entry["std"].get("auroc"))
        lines.append(f"| {_detector(entry)} | {share} | {area} |")
    return lines


def false_positives(result: Result, fitted_on: Sequence[str], nominal: float = 0.05) -> list[str]:
    """Realised rates at one nominal rate, and the first run's with its interval; detectors as in `by_detector`."""
    lines = ["| detector | realised | first run (95 % interval) |", "|---|---|---|"]
    for entry in _fitted(result["false_positives"], fitted_on):
        if entry["nominal"] == nominal:
            first = entry["first_run"]
            low, high = first["interval"]
            realised = _mean_std(entry["mean"]["realised"], entry["std"]["realised"], percent=True)
            lines.append(f"| {_detector(entry)} | {realised} | {first['realised']:.1%} ({low:.1%} to {high:.1%}) |")
    return lines


def compatible(result: Result, nominal: float = 0.05) -> list[str]:
    """How many of the realised rates lie where chance puts 95 in 100 of them, over all detectors, fits and runs."""
    entries = [entry for entry in result["false_positives"] if entry["nominal"] == nominal]
    runs, inside = (sum(entry[key] for entry in entries) for key in ("runs", "compatible_runs"))
    return [
        "| thresholds at this rate | realised rate where 95 in 100 should be |",
        "|---|---|",
        f"| {runs} | {inside} ({inside / runs:.1%}) |",
    ]


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


def beside_paper(result: Result, table: str, training: str = "VAN") -> list[str]:
    """One published table: a row per detector, a column per attack or data set, published figure / ours, in percent."""
    rows = [
        row for row in result["beside_paper"]["rows"] if row["table"] == str(table) and row["training"] == training
    ]  # fmt: skip

    def name(row: dict[str, Any]) -> str:
        told = [row["detector"], row["detector_trained_on"] or "the same", row["metric"].replace("_", " ")]
        return " | ".join(told)

    return crossed(rows, name, "detector | fitted on | metric", lambda row: f"{given(row)} / {own(row)}")


def adaptive(result: Result, epsilons: Sequence[str] = ("2", "8")) -> list[str]:
    """Adaptive attacks: of the images that each was run on, the share that was turned, and how far they were moved.

    Args:
        epsilons: the budgets, in 255ths, that are shown of attacks that have one.
    """
    lines = [
        "| detector | attack | images | turned (95 % interval) | within L∞ 8/255 | within L2 0.5 | median L2 | "
        "median L∞ ·255 | queries |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for detector, found in _attacked(result):
        for attack, entry in found["attacks"].items():
            kinds = [(f"`{attack}`", entry)]
            if "budgets" in entry:
                budgets = [(f"{255 * each['epsilon']:.3g}", each) for each in entry["budgets"]]
                kinds = [(f"`{attack}`, ε {size}/255", each) for size, each in budgets if size in epsilons]
            lines += [f"| {detector} | {name} | {_turned(each)} |" for name, each in kinds]
        lines.append(f"| {detector} | any of them | {_turned(found['union'])} |")
    return lines


def robustness(result: Result) -> list[str]:
    """Share of images that no attack broke within ε, and the distance at which that would make a robust classifier."""
    lines = [
        "| detector | right, accepted, no find within (95 % interval) | a classifier would have to be right within |",
        "|---|---|---|",
    ]
    for detector, found in _attacked(result):
        for each in found["robustness"]:
            low, high = each["robust_interval"]
            lines.append(
                f"| {detector} | {255 * each['epsilon']:.3g}/255: {each['robust']:.1%} ({low:.1%} to {high:.1%}) | "
                f"{255 * each['implied_epsilon']:.3g}/255 |"
            )
    return lines


def speed(result: Result) -> list[str]:
    """Ours beside another engine, on the same images in one run: the median over rounds of the ratio of durations."""
    lines = [
        "| attack | images | times as fast (quartiles) | bar | success, ours / theirs | median L2, ours / theirs |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        ratio, both = case["ratio"], (case["ours"], case["theirs"])
        success = " / ".join(_percent(each.get("success", each.get("success_rate"))) for each in both)
        norms = " / ".join(_number(each["l2_median"], 1, 3) for each in both)
        bar = "–" if case["bar"] is None else f"{case['bar']:g}"
        lines.append(
            f"| {shown(case['attack'])} | {case.get('n', result['n'])} | {ratio['ratio']:.2f} ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}) | {bar} | {success} | {norms} |"
        )
    return lines


def clipping(result: Result) -> list[str]:
    """What was done to the images, and what detectors that were fitted on it make of it, in floating point."""
    entries = {
        (row["detector"], row["tested_on"]): row
        for row in result["results"]
        if not row["eight_bit"] and row["fitted_on"] == row["tested_on"]
    }
    detectors = list(dict.fromkeys(name for name, _ in entries))
    lines = [
        "| images | accuracy of the network | median L2 in pixels | "
        + " | ".join(f"`{name}`: accuracy, AUROC" for name in detectors) + " |",
        "|" + "---|" * (3 + len(detectors)),
    ]  # fmt: skip
    for each in result["sets"]:
        if not each["eight_bit"] and (detectors[0], each["name"]) in entries:
            rows = [entries[name, each["name"]] for name in detectors]
            told = " | ".join(f"{row['accuracy']:.1%}, {row['auroc']:.3f}" for row in rows)
            lines.append(f"| {each['name']} | {each['accuracy']:.1%} | {each['l2_median']:.3f} | {told} |")
    return lines


def clipping_alone(result: Result) -> list[str]:
    """Detectors fitted on images that were clipped or nudged and never attacked: share flagged of each attacked set."""
    rows = [
        row for row in result["results"]
        if not row["eight_bit"] and row["fitted_on"] in ("clipped", "nudged") and row["tested_on"] != row["fitted_on"]
    ]  # fmt: skip
    return crossed(
        rows,
        lambda row: f"`{row['detector']}` | {row['fitted_on']}",
        "detector | fitted on",
        lambda row: f"{row['flagged']:.1%}",
    )


def _attacked(result: Result) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for label, figures in result["adaptive"].items():  # "transport fitted on fgm, all_class vote alone"
        who, _, vote = label.partition(", ")
        name = who.partition(" fitted on ")[0]
        found.append((f"`{name}`" + (f", {vote}" if vote else ""), figures))
    return found


def _turned(entry: dict[str, Any]) -> str:
    attempted = entry.get("attempted", entry.get("started"))  # committed results may have the earlier key
    if not attempted:
        return "0 | – | – | – | – | – | –"
    low, high = entry["interval"]
    return (
        f"{attempted} | {entry['share']:.1%} ({low:.1%} to {high:.1%}) | {_within(entry, 'linf', 8 / 255)} | "
        f"{_within(entry, 'l2', 0.5)} | {_number(entry['l2_median'], 1, 2)} | "
        f"{_number(entry['linf_median'], 255, 1)} | {_number(entry.get('queries_median'), 1, 0)}"
    )


def _within(entry: dict[str, Any], norm: str, limit: float) -> str:
    found = [e["share"] for e in entry.get("within", ()) if e["norm"] == norm and abs(e["limit"] - limit) < 1e-6]
    return _percent(found[0] if found else None)


def given(row: dict[str, Any]) -> str:
    return _published(100 * row["published"]["mean"], _times(100, row["published"]["std"]))


def own(row: dict[str, Any]) -> str:
    ours = row["ours"]
    return "–" if ours is None else _published(100 * ours["mean"], _times(100, ours["std"]))


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _fitted(entries: Sequence[dict[str, Any]], fitted_on: Sequence[str]) -> list[dict[str, Any]]:
    """Those of detectors that were fitted on these sets, and of those that learn nothing."""
    return [e for e in entries if not e["fitted_on"] or sorted(e["fitted_on"]) == sorted(fitted_on)]


def crossed(
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


def figure_cell(entry: dict[str, Any], group: str, metric: str, bold: bool) -> str:
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
