"""Which columns, learner and signs `path`, `views` and `fusion` are made of, chosen on images that no study looks at.

    python -m benchmarks.detection.search --use cifar10=npz:cifar10-test.npz --use cifar10-train=npz:cifar10-train.npz

Studies see the first 5,000 test images of an order that the seed makes; this search sees the next 3,000, and compares
them with 5,000 of the training images. One table holds, of every image, all columns of `fusion` and those of
`detection.candidates`. Combinations are fitted on two folds of originals and judged on the third, on successful
attacks and all natural images, fold by fold. What is chosen has the largest mean of two means: over attacks that were
fitted on, and over attacks that were not. Attacks, table and scores are kept under --work for the next run.
"""

import argparse
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import write_result
from benchmarks.detection.folds import Area, Cells, area_of, chosen, folds_of, interval, resamples_of, summary
from benchmarks.detection.search_columns import CANDIDATES, CHANGED, SYNTHETIC, Columns, Subset, search_rows, table_of
from benchmarks.detection.search_fits import Fits, Said
from detector.base.composite import LEARNT, joined
from detector.classifiers.conditional import Classifier
from detector.detectors.fusion import Fusion
from detector.features.path_groups import PATH_GROUPS, VIEW_GROUPS
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.loading.references import load_network
from models.progress import progress_bar
from models.residuals import StatisticsSpec, discover
from service.cache import EvaluationCache
from service.evaluation.planning.subject import Subject
from service.evaluation.records import NATURAL
from service.inputs import label, network_name, view_of, with_labels_of

Array = np.ndarray
Fit = tuple[str, ...]
Scores = Mapping[str, Array]  # set → a score per image

STUDIED, SEARCHED, REFERENCE = 5000, 3000, 5000  # images
FOLDS = 3

_SMALL_PGD = "pgd:steps=40:epsilon=2/255"
# The slower an attack, the fewer images.
ATTACKS = (
    Subset("fgm", None),
    Subset("pgd:steps=20", 1024),
    Subset(_SMALL_PGD, 1500),
    Subset("pgd:steps=20:epsilon=1/255", 512),
    Subset("fgm:epsilon=1/255", None),
    Subset("deepfool", None),
    Subset("carlini_wagner", None),
    Subset("carlini_wagner:confidence=5", 256),
    Subset("fab", 192),
    Subset("autoattack", 128),
    Subset("square", 300),
)
FITS: tuple[Fit, ...] = (("fgm",), (_SMALL_PGD,), ("carlini_wagner",), ("fgm", _SMALL_PGD, "carlini_wagner"))
# Forests of every class's own take long; one attack and several are enough to compare learners by.
LEARNER_FITS = (FITS[0], FITS[-1])
LEARNERS: tuple[Classifier, ...] = ("gradient_boosting", "random_forest", "logistic_regression")
POWERS = (1.0, 2.0, 3.0, math.inf)
WEIGHTS = (1.0, 1.5, 2.0, 3.0)


def groups_of() -> dict[str, tuple[str, ...]]:
    """The choices of groups of columns that are compared, by name."""
    alone = {name: (name,) for name in (*PATH_GROUPS, *VIEW_GROUPS)}
    without = {f"path without {name}": tuple(each for each in PATH_GROUPS if each != name) for name in PATH_GROUPS}
    added = {f"path with {name}": (*PATH_GROUPS, name) for name in CANDIDATES}
    return {
        **alone, "path": PATH_GROUPS, **without, **added, "views": VIEW_GROUPS, "fusion": (*PATH_GROUPS, *VIEW_GROUPS),
        "fusion with all candidates": (*PATH_GROUPS, *VIEW_GROUPS, *CANDIDATES),
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Search:
    """The table, its folds, and what is asked of both.

    Args:
        fold: of every original, ``(N,)``.
        counts: resamples of the originals, ``(R, N)``.
    """

    table: Mapping[str, Columns]
    fits: Fits
    fold: Array
    counts: Array

    def cells(self, by_fit: Mapping[Fit, Scores]) -> dict[tuple[Fit, str], Area]:
        """The areas of scores on every attack, by what was fitted on."""
        found = {}
        for fit, scores in by_fit.items():
            for attack, _ in ATTACKS:
                columns = self.table[attack]
                found[fit, attack] = area_of(
                    scores[NATURAL], scores[attack][columns.success], columns.originals[columns.success],
                    self.fold, self.counts,
                )  # fmt: skip
        return found

    def ablation(self) -> dict[str, Cells]:
        """One gradient boosting on some groups of columns, by what they are called."""
        chosen_groups = groups_of()
        return {
            name: self.cells({fit: self.fits.boosting(groups, fit) for fit in FITS})
            for name, groups in progress_bar(chosen_groups.items(), what="groups", unit="choice")
        }

    def learners(self) -> dict[str, Cells]:
        """Learners on all columns: one for all classes, the larger of it and the class's own, and that beside signs."""
        found: dict[str, Cells] = {}
        for learner in progress_bar(LEARNERS, what="learners", unit="learner"):
            said = {fit: self.fits.signs(learner, fit) for fit in LEARNER_FITS}
            found |= {f"{learner}, {how}": self.cells(scores) for how, scores in _ways(said).items()}
        return found

    def no_attack_seen(self) -> dict[str, Cells]:
        """Signs that natural images alone teach, and a learner that saw perturbed images instead of attacks."""
        found: dict[str, Cells] = {"signs": self.cells({(): _scores(self.fits.signs("none", ()))})}
        for name in progress_bar((SYNTHETIC, CHANGED), what="no attack seen", unit="set"):
            said: dict[Fit, Said] = {(name,): self.fits.signs(LEARNERS[0], (name,))}
            found |= {f"{LEARNERS[0]} on {name}, {how}": self.cells(scores) for how, scores in _ways(said).items()}
        return found

    def joining(self) -> dict[str, Cells]:
        """Ways to join the surprises at all signs."""
        said = self._fusion()
        ways = {joining_name(power, weight): (power, weight) for power in POWERS for weight in WEIGHTS}
        return {
            name: self.cells({fit: _scores(each, power, weight) for fit, each in said.items()})
            for name, (power, weight) in progress_bar(ways.items(), what="joining", unit="way")
        }

    def signs(self) -> dict[str, Cells]:
        """All signs, and all but one."""
        said = self._fusion()
        dropped = {"all": None, **{f"without {name}": name for name in (LEARNT, *(s.name for s in Fusion.signs))}}
        return {
            name: self.cells({fit: _scores(each, *present_joining(), drop=drop) for fit, each in said.items()})
            for name, drop in progress_bar(dropped.items(), what="signs", unit="choice")
        }

    def _fusion(self) -> dict[Fit, Said]:
        return {(): self.fits.signs("none", ()), **{fit: self.fits.signs(LEARNERS[0], fit) for fit in FITS}}


def _ways(said: Mapping[Fit, Said]) -> dict[str, dict[Fit, Scores]]:
    """The scores that votes and surprises give: one for all classes, either, and joined with the signs."""
    return {
        "all classes alike": {
            fit: {name: parts["all_class"] for name, parts in each.items()} for fit, each in said.items()
        },
        "or the class's own": {
            fit: {name: np.maximum(parts["all_class"], parts["predicted_class"]) for name, parts in each.items()}
            for fit, each in said.items()
        },
        "joined with the signs": {fit: _scores(each) for fit, each in said.items()},
    }


def _scores(said: Said, power: float | None = None, weight: float | None = None, drop: str | None = None) -> Scores:
    """The joined surprises of every set, but one sign; as the detectors join them where nothing is given."""
    own_power, own_weight = present_joining()
    found = {}
    for name, parts in said.items():
        surprises = {part.partition(":")[2]: values for part, values in parts.items() if part.startswith("surprise:")}
        surprises = {sign: values for sign, values in surprises.items() if sign != drop}
        found[name] = joined(
            surprises,
            power=own_power if power is None else power,
            learnt_weight=own_weight if weight is None else weight,
        )
    return found


def present_joining() -> tuple[float, float]:
    """The power and the weight that the detectors join with."""
    parameters = inspect.signature(joined).parameters
    return float(parameters["power"].default), float(parameters["learnt_weight"].default)


def joining_name(power: float, weight: float) -> str:
    """As a row is called: "power 2, learnt × 2"."""
    return f"power {power:g}, learnt × {weight:g}"


def choices_of(sections: Mapping[str, Mapping[str, Cells]]) -> dict[str, dict[str, Any]]:
    """What the criterion chooses of each kind, beside the detectors' present setting."""
    ablation = sections["ablation"]
    learner = inspect.signature(Fusion.__init__).parameters["classifier"].default
    path = {name: cells for name, cells in ablation.items() if name.split()[0] == "path"}
    fusion = {name: cells for name, cells in ablation.items() if name.split()[0] == "fusion"}
    return {
        "columns of path": chosen(path, "path"),
        "columns of fusion": chosen(fusion, "fusion"),
        "learner": chosen(sections["learners"], f"{learner}, joined with the signs"),
        "no attack seen": chosen(sections["no_attack_seen"], "signs"),
        "joining": chosen(sections["joining"], joining_name(*present_joining())),
        "signs": chosen(sections["signs"], "all"),
    }


# --- the command


def main() -> None:
    """The search that the module's docstring describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--use", action="append", default=[], metavar="NAME=REFERENCE", help="read cifar10 or cifar10-train elsewhere"
    )
    parser.add_argument("--network", default="pretrained:cifar10-resnet20")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("runs"), help="for attacked images, the table and scores")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--resamples", type=int, default=400, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    used = dict(pair.split("=", 1) for pair in options.use)
    loaded = load_network(options.network)

    def images(name: str, reference: str, split: Any) -> ImageDataset:
        given = used.get(name, reference)
        data = load_dataset(given, DatasetRequest(root=options.data_root, split=split))
        return with_labels_of(data, loaded.classes, loaded.spec.num_classes, label(options.network))

    every = images("cifar10", "cifar10", "test")
    rows = search_rows(len(every), STUDIED, STUDIED + SEARCHED, options.seed)
    data = every.take(rows)
    reference = images("cifar10-train", "cifar10", "train").limited(REFERENCE, options.seed)
    view = view_of(loaded) or inspect.signature(Fusion.__init__).parameters["view"].default
    subject = Subject(
        loaded.network,
        discover(loaded.network, data.image_shape),
        StatisticsSpec(),
        data.image_shape,
        data.classes,
        "cpu",
        view,
    )
    cache = options.work / "attacks"
    table = table_of(subject, data, reference, ATTACKS, view=view, cache=cache, seed=options.seed)
    fold = folds_of(len(data), FOLDS, options.seed)
    fits = Fits(table, [attack for attack, _ in ATTACKS], fold, options.seed, EvaluationCache(cache))
    search = Search(table, fits, fold, resamples_of(fold, options.resamples, options.seed))
    sections = {
        "ablation": search.ablation(), "learners": search.learners(), "no_attack_seen": search.no_attack_seen(),
        "joining": search.joining(), "signs": search.signs(),
    }  # fmt: skip
    choices = choices_of(sections)
    payload = {
        "n": len(data), "seed": options.seed, "network": network_name(loaded), "view": view, "folds": FOLDS,
        "data": {name: label(used.get(name, name)) for name in ("cifar10", "cifar10-train")},
        "images": {"studied": STUDIED, "chosen_on": len(data), "reference": len(reference)},
        "resamples": options.resamples, "sets": _sets(table), "choices": choices,
        **{name: [_told(each, cells) for each, cells in section.items()] for name, section in sections.items()},
    }  # fmt: skip
    for what, found in choices.items():
        print(f"{what}: {found['chosen']} {found['criterion']}; now {found['present']} {found['criterion_of_present']}")
    print(f"written to {write_result('search', payload, options.out)}")


def _sets(table: Mapping[str, Columns]) -> list[dict[str, Any]]:
    right = table[NATURAL].features.predicted
    return [
        {"name": name, "images": len(each.originals), "successful": int(each.success.sum())}
        if name in {attack for attack, _ in ATTACKS}
        else {
            "name": name, "images": len(each.originals),
            "answer_changed": int((each.features.predicted != right[each.originals]).sum()),
        }
        for name, each in table.items()
    ]  # fmt: skip


def _told(name: str, cells: Cells) -> dict[str, Any]:
    """A combination as JSON values: its means, its lowest area, and every area with its interval."""
    (fit, tested), lowest = min(cells.items(), key=lambda item: item[1].value)
    fits: Sequence[Fit] = list(dict.fromkeys(fit for fit, _ in cells))
    return {
        "name": name,
        "summary": {part: interval(area) for part, area in summary(cells).items()},
        "lowest": {"auroc": round(lowest.value, 5), "fitted_on": list(fit), "tested_on": tested},
        "cells": [
            {
                "fitted_on": list(each),
                "areas": {tested: interval(area) for (fit, tested), area in cells.items() if fit == each},
            }
            for each in fits
        ],
    }


if __name__ == "__main__":
    main()
