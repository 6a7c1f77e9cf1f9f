"""The best public figures beside ours, from the evaluation of `path`, `views` and `fusion`.

Public figures are AUROC in valid pixels on CIFAR-10 of detectors fitted on the attack, unless the row says otherwise:
SID (ResNet-34), multiLID (some with leaking neighbours), the best post-hoc detectors of OpenOOD v1.5.
"""

from collections.abc import Mapping, Sequence

from benchmarks.tables.cells import Figure, Result, area, mean_figure, shown
from benchmarks.tables.networks import figure_of

__all__ = ["companion_goals", "goals"]

DETECTORS = ("path", "views", "fusion", "transport", "mahalanobis")
PGD2 = "pgd:steps=40:epsilon=2/255"
UNSEEN = ("deepfool", "bim", "carlini_wagner", "fab", "pgd", "autoattack", "square")
# Name of the goal, public figure, our goal, attacks of which the worst counts.
SEEN: tuple[tuple[str, str, float, tuple[str, ...]], ...] = (
    ("seen: FGM, BIM, PGD, APGD 0.03, the worst of them", "0.993 (SID)", 0.998, ("fgm", "bim", "pgd", "apgd")),
    ("seen: AutoAttack 0.03", "0.995 (multiLID)", 0.998, ("autoattack",)),
    ("seen: PGD 2/255", "0.90 (SID)", 0.95, (PGD2,)),
    ("seen: DeepFool", "0.975 (multiLID, leaking), 0.93 (SID)", 0.98, ("deepfool",)),
    ("seen: CW", "0.979 (multiLID, leaking), 0.903 (SID)", 0.95, ("carlini_wagner",)),
)
OUTLIERS = (("near", "0.911 (CombOOD)", 0.915), ("far", "0.947 (CombOOD)", 0.955))
# Name of the goal, smallest figure that meets it, result, and measure as in `figure_of`.
COMPANION = (
    ("PGD ε 1/255", 0.975, "cifar10-resnet20-companion", "pgd:steps=20:epsilon=1/255"),
    ("FGM ε 1/255", 0.97, "cifar10-resnet20-companion", "fgm:epsilon=1/255"),
    ("CW, confidence 5", 0.98, "cifar10-resnet20-companion", "carlini_wagner:confidence=5"),
    ("flagged under all 17 attacks", 0.75, "cifar10-resnet20-companion", "worst_case"),
    ("CIFAR-100, near outliers", 0.90, "cifar10-resnet20-near-outliers", "ood:npz:cifar100-test.npz"),
    ("MNIST, far outliers", 0.99, "cifar10-resnet20-near-outliers", "ood:npz:mnist-test.npz"),
    ("PGD ε 1/255 at 224 pixels", 0.975, "imagenet-lite0-companion", "pgd:steps=10:epsilon=1/255"),
    ("FGM ε 1/255 at 224 pixels", 0.97, "imagenet-lite0-companion", "fgm:epsilon=1/255"),
    ("flagged under all 7 attacks at 224 pixels", 0.75, "imagenet-lite0-companion", "worst_case"),
    ("CIFAR-100 on the wide ResNet", 0.93, "cifar10-networks-cifar10-wide-resnet16-4", "ood:npz:cifar100-test.npz"),
)


def goals(result: Result) -> list[str]:
    """A row per goal: the best public figure, the goal, our figures, and whether one of ours meets the goal.

    A cell is the mean AUROC over runs and its interval. Of several attacks it is the worst, or the mean of means and of
    bounds; the latter interval is conservative, because it assumes that the errors of the attacks are equal.
    """
    figures = {
        (entry["detector"], tuple(entry["fitted_on"]), name): figure
        for entry in result["detectors"]
        for name, figure in entry["auroc"].items()
    }

    def cells(detector_suffix: str, fitted_on: tuple[str, ...], names: Sequence[str]) -> list[Figure]:
        found = [[figures.get((each + detector_suffix, fitted_on, name)) for name in names] for each in DETECTORS]
        return [mean_figure([each for each in row if each]) if all(row) else None for row in found]

    lines = [
        "| | best public figure | goal | `path` | `views` | `fusion` | `transport` | `mahalanobis` | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, public, goal, attacks in SEEN:
        seen = [[figures[each, (attack,), attack] for attack in attacks] for each in DETECTORS]
        lines.append(_row(name, public, goal, [min(row) for row in seen]))
    lines.append(_row("unseen: fitted on FGM, mean of 7 attacks", "0.851 (SID)", 0.92, cells("", ("fgm",), UNSEEN)))
    natural_only = cells(":classifier=none", (), UNSEEN)
    lines.append(_row("unseen: fitted on natural images only, the same mean", "–", 0.92, natural_only))
    sets = [each["name"] for each in result["sets"] if each["kind"] == "outlier"]
    for distance, public, goal in OUTLIERS:
        names = [name for name in sets if ("cifar100" in name) == (distance == "near")]
        title = f"out of distribution, {distance}: {' and '.join(map(shown, names))}"
        lines.append(_row(title, public, goal, cells(":classifier=none", (), names)))
    return lines


def companion_goals(results: Mapping[str, Result]) -> list[str]:
    """A row per goal, with the best detector of its evaluation that is fitted on natural images only."""
    lines = ["| | goal | highest mean | detector | |", "|---|---|---|---|---|"]
    for title, goal, name, measure in COMPANION:
        figures = {
            entry["detector"]: figure
            for entry in results.get(name, {"detectors": []})["detectors"]
            if not entry["fitted_on"] and not entry["baseline"] and (figure := figure_of(entry, measure))
        }
        if not figures:
            continue
        best = max(figures, key=lambda detector: figures[detector][0])
        share = measure == "worst_case"
        lines.append(
            f"| {title} | ≥ {f'{goal:.0%}' if share else f'{goal:g}'} | "
            f"{area(figures[best], '.1%' if share else '.3f')} | `{best}` | {_met(figures[best][0] >= goal)} |"
        )
    return lines


def _row(name: str, public: str, goal: float, cells: Sequence[Figure]) -> str:
    """Ours are the first three cells."""
    best = max(cell[0] for cell in cells[:3] if cell is not None and cell[0] is not None)
    return f"| {name} | {public} | ≥ {goal:g} | {' | '.join(map(area, cells))} | {_met(best >= goal)} |"


def _met(met: bool) -> str:
    return "met" if met else "**missed**"
