"""Tables of detectors on attacked images and outliers, from condensed evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.tables.cells import Entry, Result, area, crossed, deviation, number, percent, shown

__all__ = [
    "ablation", "by_attack", "by_detector", "by_objective", "class_rates", "compatible", "costs", "false_positives",
    "few_images", "matrix", "near_far", "outliers", "sets", "worst_case", "worst_cases",
]  # fmt: skip

OBJECTIVES = ("cross-entropy", "least action", "fixed weight", "reverse cross-entropy")


def sets(result: Result) -> list[str]:
    """The attacked sets: accuracy, success and size of the perturbation."""
    return [
        "| set | images | accuracy | success rate | median L∞ ·255 | median L2 | given away by pixels |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {shown(each['name'])} | {each['images']:,} | {percent(each['accuracy'])} | "
            f"{percent(each['success_rate'])} | {number(each['linf_median'], 255, 2)} | "
            f"{number(each['l2_median'], 1, 3)} | {'yes' if each['broken'] else 'no'} |"
            for each in result["sets"]
            if each["kind"] != "outlier"
        ),
    ]


def matrix(result: Result, detector: str) -> list[str]:
    """AUROC of one detector: a row per choice of attacks to fit on, a column per attack; seen attacks in bold."""
    entries = [each for each in _cells(result, "attack") if each["detector"] == detector]
    return crossed(entries, fit, "fitted on", _bold)


def by_detector(result: Result, fitted_on: Sequence[str]) -> list[str]:
    """AUROC: a row per detector, a column per attack; detectors that learn are fitted on `fitted_on`."""
    return crossed(_fitted(_cells(result, "attack"), fitted_on), _detector, "detector", _bold)


def ablation(result: Result) -> list[str]:
    """AUROC and worst case of a detector with and without groups of columns: a row per choice of groups.

    Every detector but the first names its groups; those that are not named are left out.
    """
    chosen = {entry["detector"]: _groups(entry["detector"]) for entry in result["detectors"] if not entry["baseline"]}
    every = set().union(*chosen.values())

    def components(entry: Entry) -> str:
        present = chosen[entry["detector"]] or every
        absent = every - present
        if not absent:
            return "all"
        return f"without {_listed(absent)}" if len(absent) < len(present) else f"{_listed(present)} alone"

    entries = [
        {**each, "cell": deviation(each["figure"])} for kind in ("attack", "outlier") for each in _cells(result, kind)
    ] + [
        {
            **each,
            "tested_on": "flagged under every attack",
            "cell": deviation(each["worst_case"]["share"], percentage=True),
        }
        for each in result["detectors"]
    ]
    shown_entries = [each for each in entries if each["detector"] in chosen and not each["fitted_on"]]
    return crossed(shown_entries, components, "components", lambda entry: str(entry["cell"]))


def _groups(detector: str) -> set[str]:
    """The value of a detector's option `groups`; the groups of `path` count as one."""
    found = {group for option in detector.split(":") if option.startswith("groups=") for group in option[7:].split("+")}
    path = {"statistics", "embeddings", "contrasts", "residues"}
    return found - path | {"path"} if path <= found else found


def _listed(groups: set[str]) -> str:
    return ", ".join(f"`{each}`" for each in sorted(groups))


def by_attack(result: Result, detectors: Sequence[str], fitted_on: Sequence[str] = ()) -> list[str]:
    """AUROC with its interval: a row per attack, a column per detector.

    Args:
        result: a condensed evaluation.
        detectors: the columns.
        fitted_on: attacks that every detector is fitted on; "same" for the attack of the row.
    """
    same = list(fitted_on) == ["same"]
    found = {
        (entry["detector"], entry["tested_on"]): area(entry["figure"])
        for entry in _cells(result, "attack")
        if entry["fitted_on"] == ([entry["tested_on"]] if same else list(fitted_on))
    }
    attacks = [each["name"] for each in result["sets"] if any((one, each["name"]) in found for one in detectors)]
    return [
        f"| | {' | '.join(f'`{each}`' for each in detectors)} |",
        "|---" * (len(detectors) + 1) + "|",
        *(
            f"| {shown(attack)} | {' | '.join(found.get((each, attack), '–') for each in detectors)} |"
            for attack in attacks
        ),
    ]


def by_objective(results: Mapping[str, Result], fitted_on: Sequence[str] = ("same",)) -> list[str]:
    """AUROC: a row per detector and training objective, a column per attack.

    Args:
        results: condensed evaluations of the same networks, trained with different objectives.
        fitted_on: attacks that every detector is fitted on; "same" for the attack that it is tested on.
    """
    same = list(fitted_on) == ["same"]
    entries = [
        {**entry, "objective": objective}
        for objective, result in objectives_of(results)
        for entry in _cells(result, "attack")
        if entry["fitted_on"] in ([], [entry["tested_on"]] if same else list(fitted_on))
    ]
    return crossed(
        sorted_by_group(entries, "detector"),
        lambda entry: f"`{entry['detector']}` | {entry['objective']}",
        "detector | trained with",
        lambda entry: deviation(entry["figure"]),
    )


def outliers(result: Result, metric: str = "auroc") -> list[str]:
    """A row per detector and choice of sets to fit on, a column per set of outliers; seen sets in bold."""
    return crossed(
        list(_cells(result, "outlier", metric)),
        lambda each: f"{_detector(each)} | {fit(each)}",
        "detector | fitted on",
        _bold,
    )


def near_far(result: Result) -> list[str]:
    """Means over the near and over the far sets of outliers, without the sets that a detector was fitted on."""
    lines = [
        "| detector | fitted on | AUROC near | AUROC far | FPR at 95 % TPR near | far |",
        "|---|---|---|---|---|---|",
    ]
    for entry in result["detectors"]:
        near, far = (entry["outliers"][distance] or {} for distance in ("near", "far"))
        areas = [number(each.get("auroc"), 1, 3) for each in (near, far)]
        rates = [percent(each.get("fpr_at_95_tpr")) for each in (near, far)]
        lines.append(f"| {_detector(entry)} | {fit(entry)} | {' | '.join(areas + rates)} |")
    return lines


def worst_case(result: Result, fitted_on: Sequence[str]) -> list[str]:
    """Share of images that are flagged under every attack that succeeded on them; detectors as in `by_detector`."""
    lines = ["| detector | flagged under every attack | AUROC of the lowest score |", "|---|---|---|"]
    for entry in _fitted(result["detectors"], fitted_on):
        found = entry["worst_case"]
        lines.append(f"| {_detector(entry)} | {area(found['share'], '.1%')} | {deviation(found['auroc'])} |")
    return lines


def worst_cases(result: Result, detectors: Sequence[str], fitted_on: Sequence[str]) -> list[str]:
    """As `worst_case`: a row per choice of attacks to fit on and detector.

    Args:
        result: a condensed evaluation.
        detectors: the rows of each choice.
        fitted_on: choices; "nothing" is the empty one, + joins the attacks of one choice.
    """
    lines = ["| fitted on | detector | flagged under every attack | AUROC of the lowest score |", "|---|---|---|---|"]
    for choice in fitted_on:
        attacks = [] if choice == "nothing" else choice.split("+")
        for entry in result["detectors"]:
            if entry["fitted_on"] == attacks and entry["detector"].partition(":")[0] in detectors:
                found = entry["worst_case"]
                lines.append(
                    f"| {fit(entry)} | `{entry['detector']}` | {area(found['share'], '.1%')} | "
                    f"{number(found['auroc'][0], 1, 3)} |"
                )
    return lines


def false_positives(result: Result, fitted_on: Sequence[str]) -> list[str]:
    """Realised rates on natural images at a nominal rate of 5 %; detectors as in `by_detector`."""
    return [
        "| detector | realised (95 % interval) |",
        "|---|---|",
        *(
            f"| {_detector(entry)} | {area(entry['false_positives']['realised'], '.1%')} |"
            for entry in _fitted(result["detectors"], fitted_on)
        ),
    ]


def compatible(result: Result) -> list[str]:
    """Number of realised rates inside the interval that contains 95 % of them, over detectors, fits and runs."""
    entries = [entry["false_positives"] for entry in result["detectors"]]
    runs, inside = (sum(entry[key] for entry in entries) for key in ("runs", "compatible_runs"))
    return [
        "| thresholds at this rate | realised rate inside the interval that should contain 95 % |",
        "|---|---|",
        f"| {runs} | {inside} ({inside / runs:.1%}) |",
    ]


def class_rates(result: Result) -> list[str]:
    """Realised false-positive rates: overall, and of the predicted classes with the lowest and the highest rate."""
    lines = [
        "| detector | overall (95 % interval) | lowest class | highest class | classes whose interval has the rate |",
        "|---|---|---|---|---|",
    ]
    for entry in result["detectors"]:
        overall, classes = entry["overall"], entry["classes"]
        low, high = overall["interval"]
        ordered = sorted(classes, key=lambda name: float(classes[name]["rate"]))
        ends = [f"{name} {classes[name]['rate']:.1%}" for name in (ordered[0], ordered[-1])]
        inside = sum(each["holds"] for each in classes.values())
        lines.append(
            f"| `{entry['detector']}` | {overall['rate']:.2%} ({low:.2%} to {high:.2%}) | {ends[0]} | {ends[1]} | "
            f"{inside} of {len(classes)} |"
        )
    return lines


def few_images(result: Result) -> list[str]:
    """Realised false-positive rates of thresholds from few natural images: a row per detector and number of images."""
    samples = result["samples"]
    lines = [
        "| detector | natural images | to calibrate | realised, mean | middle 95 % of samples | compatible samples "
        "| class with images | class without |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in result["rates"]:
        low, high = entry["middle_95"]
        lines.append(
            f"| `{entry['detector']}` | {entry['images']:,} | {entry['calibrated_on']} | {percent(entry['rate'])} | "
            f"{low:.1%} to {high:.1%} | {entry['compatible']} of {samples} | {percent(entry['with_images'])} | "
            f"{percent(entry['without_images'])} |"
        )
    return lines


def costs(result: Result) -> list[str]:
    """Milliseconds per image of each detector, measured during the evaluation."""
    lines = ["| detector | extraction | score | fitting, s |", "|---|---|---|---|"]
    first = {entry["detector"]: entry for entry in reversed(result["detectors"])}
    for entry in reversed(first.values()):
        cost = entry["cost"]
        lines.append(
            f"| {_detector(entry)} | {number(cost['measure_seconds_per_image'], 1000, 3)} | "
            f"{number(cost['score_seconds_per_image'], 1000, 3)} | {number(cost['fit_seconds'], 1, 1)} |"
        )
    return lines


def fit(entry: Entry) -> str:
    """The attacks that an entry's detector was fitted on."""
    return " + ".join(map(shown, entry["fitted_on"])) or "natural images only"


def objectives_of(results: Mapping[str, Result]) -> Iterator[tuple[str, Result]]:
    """Training objective and result; the name of the network ends with its objective unless that is cross-entropy."""
    for objective in OBJECTIVES:
        for result in results.values():
            if _objective(result) == objective:
                yield objective, result


def sorted_by_group(entries: Sequence[Entry], *keys: str) -> list[Entry]:
    """The entries of a group one after the other; groups and their entries stay in the order of appearance."""
    groups = list(dict.fromkeys(tuple(entry[key] for key in keys) for entry in entries))
    return sorted(entries, key=lambda entry: groups.index(tuple(entry[key] for key in keys)))


def _objective(result: Result) -> str:
    network = str(result["evaluation"]["network"])
    return next((each for each in reversed(OBJECTIVES) if network.endswith(each.replace(" ", "-"))), OBJECTIVES[0])


def _cells(result: Result, kind: str, metric: str = "auroc") -> Iterator[Entry]:
    """One entry per detector, choice to fit on and tested set of a kind; the figure under "figure"."""
    kinds = {each["name"]: each["kind"] for each in result["sets"]}
    for entry in result["detectors"]:
        for name, figure in entry[metric].items():
            if kinds[name] == kind:
                yield {**entry, "tested_on": name, "figure": figure}


def _fitted(entries: Any, fitted_on: Sequence[str]) -> list[Entry]:
    """The entries of detectors that were fitted on these sets, and of those that learn nothing."""
    return [each for each in entries if not each["fitted_on"] or sorted(each["fitted_on"]) == sorted(fitted_on)]


def _detector(entry: Entry) -> str:
    return f"`{entry['detector']}`" + (" (baseline)" if entry["baseline"] else "")


def _bold(entry: Entry) -> str:
    text = deviation(entry["figure"])
    return f"**{text}**" if entry["tested_on"] in entry["seen"] and text != "–" else text
