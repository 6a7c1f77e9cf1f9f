"""The attacks, detectors and fits that settings select."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attacks import Attack, parse_epsilon
from detector.base.detector import Detector
from models.errors import InputError
from service.evaluation.planning.settings import DEFAULT_DETECTOR, EvaluationSettings
from service.inputs import attack_of, detector_of
from service.inputs.names import OUTLIER_PREFIX

__all__ = ["BASELINES", "Selection", "outlier_name", "select"]

BASELINES = ("max_softmax", "energy", "pixel_statistics")  # trivial detectors, in every table
_ALL = "all"  # as a choice to fit on: every attack that the settings name


@dataclass(frozen=True, eq=False)
class Selection:
    """The attacks, detectors and fits of an evaluation.

    Args:
        attacks: label → attack, of every attacked set.
        limits: label → number of originals, where it is limited.
        detectors: label → unfitted detector, the baselines last.
        fits: the sets of each fit of a detector that learns from attacks or outliers.
        tested: names of the attacked sets to test on.
        outliers: names of the sets of outliers.
    """

    attacks: Mapping[str, Attack]
    limits: Mapping[str, int]
    detectors: Mapping[str, Detector]
    fits: tuple[tuple[str, ...], ...]
    tested: tuple[str, ...]
    outliers: tuple[str, ...]

    def fits_of(self, label: str) -> tuple[tuple[str, ...], ...]:
        """The sets of each fit of this detector; one fit on no set for a detector that needs no attacked images."""
        if not self.detectors[label].needs_adversarial:
            return ((),)
        if label not in BASELINES:
            return self.fits
        # Also on each tested attack by itself: pixels may reveal one set and not another.
        return tuple(dict.fromkeys([*self.fits, *((name,) for name in self.tested)]))

    @property
    def fitted_on(self) -> set[str]:
        """Names of the sets that any detector is fitted on, baselines' further fits left out."""
        return {name for fit in self.fits for name in fit}


def outlier_name(reference: str) -> str:
    """The name of the set of outliers from a data set, by its label."""
    return f"{OUTLIER_PREFIX}{reference}"


def select(
    settings: EvaluationSettings,
    outliers: Iterable[str] = (),
    *,
    offered: Mapping[str, Any] | None = None,
    artifact_only: bool = False,
) -> Selection:
    """The selection of an evaluation.

    Args:
        settings: of the evaluation.
        outliers: labels of the data sets of outliers, those to fit on among them.
        offered: options of the network and its training, for detectors that have them.
        artifact_only: whether an artifact is evaluated without other detectors, so that only baselines are fitted.

    Raises:
        InputError: options that contradict each other.
        UnknownNameError: no such attack or detector.
    """
    outlier_sets = tuple(outlier_name(label) for label in dict.fromkeys(outliers))
    detectors = _detectors(settings, offered or {}, artifact_only)
    # No detector is called "artifact", which is the label of the artifact's own.
    learning = [label for label, each in detectors.items() if each.needs_adversarial and label not in BASELINES]
    choices = settings.fit_on
    if choices is None:
        choices = ("fgm",) if learning and not settings.fit_ood else ()
    tested = settings.test_on
    if tested is None:
        tested = tuple(dict.fromkeys(_named(choices))) or (() if outlier_sets else ("fgm",))
    attacks = _attacks(settings, choices, tested)
    _check_noise(settings, attacks)
    fits = _fits(settings, choices, [label for label in attacks if label in {*tested, *_named(choices)}])
    if unknown := {name for fit in fits for name in fit} - {*attacks, *outlier_sets}:
        raise InputError(f"expected outlier sets of the evaluation to fit on, got {', '.join(sorted(unknown))}")
    if learning and not fits:
        raise InputError(
            f"{', '.join(learning)} learns from attacked images or outliers; give --fit-on or --fit-ood, or a detector "
            "that needs neither, such as mahalanobis:classifier=none"
        )
    budgets = {f"{label}:epsilon={budget}" for label in tested for budget in settings.budgets}
    with_budgets = tuple(dict.fromkeys([*tested, *(label for label in attacks if label in budgets)]))
    return Selection(attacks, _limits(settings.attack_limit, attacks), detectors, fits, with_budgets, outlier_sets)


def _detectors(settings: EvaluationSettings, offered: Mapping[str, Any], artifact_only: bool) -> dict[str, Detector]:
    chosen = (DEFAULT_DETECTOR,) if settings.detectors is None else settings.detectors
    labels = dict.fromkeys([*(() if artifact_only else chosen), *BASELINES])
    return {
        label: detector_of(label, {"seed": settings.seed, "n_jobs": settings.workers, **offered}) for label in labels
    }


def _attacks(settings: EvaluationSettings, choices: Sequence[str], tested: Sequence[str]) -> dict[str, Attack]:
    """Attacks by label: those tested on first, then those only fitted on, then those of further budgets."""
    attacks = {
        label: attack_of(label, epsilon=settings.epsilon, seed=settings.seed)
        for label in dict.fromkeys([*tested, *_named(choices)])
    }
    # Each budget once, however it is written.
    budgets = {parse_epsilon(budget): budget for budget in reversed(settings.budgets)}
    with_budget = [
        label for label in tested
        if attacks[label].epsilon is not None and attacks[label].norm == "linf" and "epsilon=" not in label
    ]  # fmt: skip
    if budgets and not with_budget:
        raise InputError(
            "--budgets needs an attack among --test-on with an L∞ budget that its label does not name, got "
            f"{', '.join(tested) or 'none'}; add one, such as pgd"
        )
    further: dict[str, Attack] = {}
    for label in with_budget:
        for value, budget in reversed(budgets.items()):
            if not math.isclose(value, attacks[label].epsilon or 0):
                name = f"{label}:epsilon={budget}"
                further[name] = attack_of(name, epsilon=settings.epsilon, seed=settings.seed)
    return {**attacks, **{name: attack for name, attack in further.items() if name not in attacks}}


def _check_noise(settings: EvaluationSettings, attacks: Mapping[str, Attack]) -> None:
    large = [label for label, attack in attacks.items() if not attack.lp_bounded]
    if settings.noisy and large:
        raise InputError(
            f"expected norm-bounded attacks for --noisy, got {', '.join(large)}; leave --noisy or these attacks out"
        )


def _fits(settings: EvaluationSettings, choices: Sequence[str], named: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The sets of each fit: each choice of attacks, then each outlier set by itself."""
    fits = tuple(dict.fromkeys(_expanded(choice, tuple(named)) for choice in choices))
    return fits + tuple((outlier_name(label),) for label in settings.fit_ood)


def _named(choices: Sequence[str]) -> list[str]:
    return [name for choice in choices for name in choice.split("+") if name != _ALL]


def _expanded(choice: str, everything: tuple[str, ...]) -> tuple[str, ...]:
    names = choice.split("+")
    if _ALL not in names:
        return tuple(dict.fromkeys(names))
    if len(names) > 1 or not everything:
        raise InputError(f"expected the word {_ALL} alone, beside attacks in --test-on or --fit-on, got {choice!r}")
    return everything


def _limits(given: Mapping[str, int], attacks: Mapping[str, Attack]) -> dict[str, int]:
    """Label → limit; the limit of a full label takes precedence over that of its attack's name."""
    limits: dict[str, int] = {}
    for name, limit in given.items():
        matching = [label for label in attacks if label == name or label.partition(":")[0] == name]
        if not matching:
            raise InputError(
                f"expected attacks of this evaluation in --attack-limit, got {name}; it has {', '.join(attacks)}"
            )
        if limit < 1:
            raise InputError(f"expected --attack-limit {name} of at least one image, got {limit}")
        for label in matching:
            if label == name or label not in given:
                limits[label] = limit
    return limits
