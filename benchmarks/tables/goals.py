"""The figures to beat beside ours: a row per goal, from the study of `path`, `views` and `fusion`.

Public figures are AUROC in valid pixels on CIFAR-10 unless said otherwise, of detectors fitted on the attack: SID
(ResNet-34), multiLID (some with leaking neighbours), OpenOOD v1.5's best post-hoc detectors, the thesis's 5.4.5.
"""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.tables.detection import Result, shown

__all__ = ["class_rates", "cost", "fitted_on_nothing", "goals", "seen_attacks", "unseen_attacks", "worst_cases"]

Entry = dict[str, Any]

LEARNT = ("path", "views", "fusion", "transport", "mahalanobis")
NATURAL_ONLY = (
    "path:classifier=none",
    "views:classifier=none",
    "fusion:classifier=none",
    "mahalanobis:classifier=none",
)
PGD2 = "pgd:steps=40:epsilon=2/255"
UNSEEN = ("deepfool", "bim", "carlini_wagner", "fab", "pgd", "autoattack", "square")
THREE = ("fgm", PGD2, "carlini_wagner")

# goal's name, public figure, our goal, attacks of which the worst counts
SEEN_GOALS: tuple[tuple[str, str, float, tuple[str, ...]], ...] = (
    ("seen: FGM, BIM, PGD, APGD 0.03, the worst of them", "0.993 (SID)", 0.998, ("fgm", "bim", "pgd", "apgd")),
    ("seen: AutoAttack 0.03", "0.995 (multiLID)", 0.998, ("autoattack",)),
    ("seen: PGD 2/255", "0.90 (SID)", 0.95, (PGD2,)),
    ("seen: DeepFool", "0.975 (multiLID, leaking), 0.93 (SID)", 0.98, ("deepfool",)),
    ("seen: CW", "0.979 (multiLID, leaking), 0.903 (SID)", 0.95, ("carlini_wagner",)),
)


def goals(result: Result) -> list[str]:
    """A row per goal: the best public figure, the goal, ours, transport, Mahalanobis, and whether ours meets it.

    Cells of AUROC: mean over runs and the first run's 95 % bootstrap interval; of a mean over attacks, the mean of the
    attacks' bounds. Ours meets a goal if the better of `path`, `views` and `fusion` does.
    """
    lines = [
        "| | best public figure | goal | `path` | `views` | `fusion` | `transport` | `mahalanobis` | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, public, goal, attacks in SEEN_GOALS:
        cells = [_worst([_entry(result, detector, (attack,), attack) for attack in attacks]) for detector in LEARNT]
        lines.append(_row(name, public, f"≥ {goal:g}", cells, goal))
    unseen = [_mean([_entry(result, detector, ("fgm",), attack) for attack in UNSEEN]) for detector in LEARNT]
    lines.append(_row("unseen: fitted on FGM, mean of 7 attacks", "0.851 (SID)", "≥ 0.92", unseen, 0.92))
    nothing = [_mean([_entry(result, _natural(detector), (), attack) for attack in UNSEEN]) for detector in LEARNT]
    lines.append(_row("unseen: fitted on nothing, the same mean", "–", "≥ 0.92", nothing, 0.92))
    for distance, public, goal in (("near", "0.911 (CombOOD)", 0.915), ("far", "0.947 (CombOOD)", 0.955)):
        wanted = [each for each in result["sets"] if each["kind"] == "outlier"]
        names = [each["name"] for each in wanted if ("cifar100" in each["name"]) == (distance == "near")]
        cells = [_mean([_entry(result, _natural(detector), (), name) for name in names], "all") for detector in LEARNT]
        where = " and ".join(shown(name) for name in names)
        lines.append(_row(f"out of distribution, {distance}: {where}", public, f"≥ {goal:g}", cells, goal))
    return lines


def seen_attacks(result: Result, detectors: Sequence[str] = ("path", "views", "fusion", "transport")) -> list[str]:
    """A row per attack that was fitted on by itself, a column per detector: AUROC on that attack."""
    ours = [entry for entry in result["results"] if entry["detector"] in detectors]
    fitted = [entry["fitted_on"][0] for entry in ours if len(entry["fitted_on"]) == 1]
    attacks = list(dict.fromkeys(fitted))
    return _crossed(attacks, detectors, lambda attack, detector: _entry(result, detector, (attack,), attack))


def unseen_attacks(result: Result, fitted_on: Sequence[str] = ("fgm",)) -> list[str]:
    """A row per attack, a column per detector, all fitted on the same."""
    return _crossed(
        _attacks(result), LEARNT, lambda attack, detector: _entry(result, detector, tuple(fitted_on), attack)
    )


def fitted_on_nothing(result: Result) -> list[str]:
    """A row per attack, a column per detector that no attacked image was needed for."""
    detectors = (*NATURAL_ONLY, "max_softmax", "energy")
    return _crossed(_attacks(result), detectors, lambda attack, detector: _entry(result, detector, (), attack))


def worst_cases(result: Result) -> list[str]:
    """The share of images that are flagged under every attack that succeeded on them, by what was fitted on."""
    choices = {"natural images only": (), "FGM": ("fgm",), "FGM, PGD 2/255 and CW": THREE}
    lines = ["| fitted on | detector | flagged under every attack | AUROC of the lowest score |", "|---|---|---|---|"]
    for label, fit in choices.items():
        for detector in (*NATURAL_ONLY, "max_softmax", "energy") if not fit else LEARNT:
            found = [e for e in result["worst_case"] if e["detector"] == detector and tuple(e["fitted_on"]) == fit]
            for entry in found:
                share, low, high = entry["mean"]["share"], *entry["first_run"]["interval"]
                area = entry["mean"]["auroc"]
                lines.append(f"| {label} | `{detector}` | {share:.1%} ({low:.1%} to {high:.1%}) | {area:.3f} |")
    return lines


def cost(result: Result) -> list[str]:
    """A row per detector and batch: with the detector ÷ the network alone, eager and compiled, and the state."""
    lines = [
        "| detector | batch | ÷ network alone | of which judging | compiled: pass ÷ network alone | judging | state |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch, twice in result["twice_the_batch"].items():
        lines.append(f"| none, twice as many images | {batch} | {_ratio(twice)} | – | – | – | – |")
    for case in result["cases"]:
        compiled = case["compiled"]
        passing, judging = (_ratio(compiled["passing"]), _share(compiled["judging"])) if compiled else ("–", "–")
        lines.append(
            f"| {case['detector']} | {case['batch']} | {_ratio(case['ratio'])} | {_share(case['judging'])} | "
            f"{passing} | {judging} | {case['state_bytes'] / 1e6:.2f} MB |"
        )
    return lines


def _ratio(ratio: Entry) -> str:
    return f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _share(ratio: Entry) -> str:
    return f"{ratio['ratio']:.3f}"


def class_rates(result: Result) -> list[str]:
    """Realised false-positive rates, overall and of the predicted classes with the lowest and the highest."""
    lines = [
        "| detector | overall (95 % interval) | lowest class | highest class | classes whose interval holds the rate |",
        "|---|---|---|---|---|",
    ]
    for entry in result["detectors"]:
        overall, classes = entry["overall"], entry["classes"]
        low, high = overall["interval"]
        ordered = sorted(classes, key=lambda name: float(classes[name]["rate"]))
        ends = [f"{name} {classes[name]['rate']:.1%}" for name in (ordered[0], ordered[-1])]
        holding = sum(each["holds"] for each in classes.values())
        lines.append(
            f"| `{entry['detector']}` | {overall['rate']:.2%} ({low:.2%} to {high:.2%}) | {ends[0]} | {ends[1]} | "
            f"{holding} of {len(classes)} |"
        )
    return lines


def area(result: Result, detector: str, fitted_on: tuple[str, ...], tested_on: str) -> float:
    """One AUROC on successful attacks, the mean of the runs."""
    cell = _cell(_entry(result, detector, fitted_on, tested_on))
    if cell is None:
        raise KeyError(f"{detector} fitted on {fitted_on} and tested on {tested_on}")
    return cell[0]


def worst_share(result: Result, detector: str, fitted_on: tuple[str, ...]) -> float:
    """The share of images that are flagged under every attack that succeeded on them, the mean of the runs."""
    found = [e for e in result["worst_case"] if (e["detector"], tuple(e["fitted_on"])) == (detector, fitted_on)]
    return float(found[0]["mean"]["share"])


# --- cells: mean and interval


Cell = tuple[float, float, float] | None


def _natural(detector: str) -> str:
    """The same detector without attacked images; transport has no such."""
    return f"{detector}:classifier=none"


def _entry(result: Result, detector: str, fitted_on: tuple[str, ...], tested_on: str) -> Entry | None:
    for entry in result["results"]:
        if (entry["detector"], tuple(entry["fitted_on"]), entry["tested_on"]) == (detector, fitted_on, tested_on):
            found: Entry = entry
            return found
    return None


def _cell(entry: Entry | None, group: str = "successful") -> Cell:
    if entry is None or entry["mean"].get(group) is None:
        return None
    low, high = entry["first_run"]["auroc_interval"]
    return entry["mean"][group]["auroc"], low, high


def _worst(entries: Sequence[Entry | None]) -> Cell:
    cells = [_cell(entry) for entry in entries]
    known = [cell for cell in cells if cell is not None]
    return min(known) if len(known) == len(cells) else None


def _mean(entries: Sequence[Entry | None], group: str = "successful") -> Cell:
    cells = [_cell(entry, group) for entry in entries]
    known = [cell for cell in cells if cell is not None]
    if not known or len(known) != len(cells):
        return None
    mean, low, high = (sum(parts) / len(parts) for parts in zip(*known, strict=True))
    return mean, low, high


def _told(cell: Cell) -> str:
    return "–" if cell is None else f"{cell[0]:.3f} ({cell[1]:.3f} to {cell[2]:.3f})"


def _row(name: str, public: str, goal: str, cells: Sequence[Cell], least: float) -> str:
    ours = max((cell[0] for cell in cells[:3] if cell is not None), default=None)
    met = "–" if ours is None else "met" if ours >= least else "**missed**"
    return f"| {name} | {public} | {goal} | {' | '.join(map(_told, cells))} | {met} |"


def _attacks(result: Result) -> list[str]:
    tested = [entry["tested_on"] for entry in result["results"] if entry["kind"] == "attack"]
    return list(dict.fromkeys(tested))


def _crossed(attacks: Sequence[str], detectors: Sequence[str], found: Callable[[str, str], Entry | None]) -> list[str]:
    lines = [f"| | {' | '.join(f'`{each}`' for each in detectors)} |", "|---" * (len(detectors) + 1) + "|"]
    for attack in attacks:
        cells = [_told(_cell(found(attack, detector))) for detector in detectors]
        lines.append(f"| {shown(attack)} | {' | '.join(cells)} |")
    return lines
