"""What an evaluation is to do, as a person says it, and as a plan that was checked before any attack runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attacks import Attack, parse_epsilon
from detector.base.detector import Detector
from models.errors import InputError
from service.adaptive.budgets import Budgets
from service.adaptive.settings import ADAPTIVE_ATTACKS
from service.evaluation.records import Protocol
from service.inputs import attack_of, detector_of

__all__ = ["ALL", "BASELINES", "Plan", "EvaluationSettings", "outlier_name", "plan_of"]

BASELINES = ("max_softmax", "energy", "pixel_statistics")  # trivial ones, in every table
DEFAULT_DETECTOR = "transport"
ALL = "all"  # as a choice to fit on: every attack that is named anywhere


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How an evaluation is made; images, network and outliers come beside it.

    Args:
        protocol: "sound" or "paper"; see docs/evaluation.md.
        runs: splits, each of which every detector is fitted and judged on.
        detectors: labels such as "mahalanobis:magnitude=0.0014"; the trivial baselines are added. Where None:
            transport, or none beside an artifact that is judged alone.
        fit_on: choices of attacks to fit on, one fit each: an attack, several joined by "+", or "all". Where None: fgm,
            if some detector needs attacked images and no outliers are given to fit on.
        test_on: attacks to test on; where None those that are fitted on.
        budgets: further budgets, such as "2/255", of each attack of `test_on` that has one.
        epsilon: budget of attacks that have one and do not name theirs.
        eight_bit: whether attacked images are rounded to 1/255 before the network sees them.
        noisy: whether noisy natural images count as natural; paper's protocol only.
        fit_ood: names of the outlier sets that are fitted on, each by itself.
        reference_limit: most images of a reference set that are used, chosen by lot.
        attack_limit: attack (name or label) → number of originals it is tried on.
        split: shares of the originals to fit, calibrate and test on; paper: to fit and test on.
        fpr: false-positive rate that thresholds are calibrated to; 1 % is reported besides. Where None: the artifact's,
            or 5 %.
        adaptive: adaptive attacks to run in the end, on at most `adaptive_images` images.
        adaptive_budgets: of those; the thesis's where None.
        seed: of splits, noise, classifiers and attacks.
        workers: processes that attack, and jobs of classifiers while fitting.
        cache: folder of attacked images, features and results; None keeps nothing.
        device: where the network runs.
    """

    protocol: Protocol = "sound"
    runs: int = 5
    detectors: tuple[str, ...] | None = None
    fit_on: tuple[str, ...] | None = None
    test_on: tuple[str, ...] | None = None
    budgets: tuple[str, ...] = ()
    epsilon: str = "0.03"
    eight_bit: bool = False
    noisy: bool = False
    fit_ood: tuple[str, ...] = ()
    reference_limit: int = 10_000
    attack_limit: Mapping[str, int] = field(default_factory=dict)
    split: str | None = None
    fpr: float | None = None
    adaptive: tuple[str, ...] = ()
    adaptive_images: int = 200
    adaptive_budgets: Budgets | None = None
    seed: int = 0
    workers: int = 1
    cache: Path | None = None
    device: str = "cpu"

    @property
    def operating_rate(self) -> float:
        """The false-positive rate of the thresholds that images are flagged at."""
        return 0.05 if self.fpr is None else self.fpr

    @property
    def rates(self) -> tuple[float, ...]:
        """The false-positive rates that thresholds are calibrated to, the operating one first."""
        return tuple(dict.fromkeys((self.operating_rate, 0.01)))

    def attacked_adaptively(self) -> tuple[str, ...]:
        """The detectors that adaptive attacks are run on: those that were asked for, not baselines that were added."""
        return (DEFAULT_DETECTOR,) if self.detectors is None else self.detectors

    def artifact_only(self) -> bool:
        """Whether an artifact, where there is one, is judged without any other detector being fitted."""
        return self.detectors is None and self.fit_on is None and not self.fit_ood


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be made and judged.

    Args:
        attacks: label → attack, of every attacked set.
        limits: label → number of originals, where it is limited.
        detectors: label → unfitted detector, the baselines last.
        fits: what learnt detectors are fitted on, one fit each: names of sets.
        tested: names of the attacked sets that are tested on.
        outliers: names of the sets of outliers.
    """

    attacks: Mapping[str, Attack]
    limits: Mapping[str, int]
    detectors: Mapping[str, Detector]
    fits: tuple[tuple[str, ...], ...]
    tested: tuple[str, ...]
    outliers: tuple[str, ...]

    def fits_of(self, label: str) -> tuple[tuple[str, ...], ...]:
        """What this detector is fitted on, one fit each; nothing, once, for one that needs no attacked images."""
        if not self.detectors[label].needs_adversarial:
            return ((),)
        if label not in BASELINES:
            return self.fits
        # On every attack that is tested, too: whether a set gives itself away is asked of each set by itself.
        return tuple(dict.fromkeys([*self.fits, *((name,) for name in self.tested)]))


def outlier_name(reference: str) -> str:
    """The name of the set of outliers from a data set, by its label."""
    return f"ood:{reference}"


def plan_of(
    settings: EvaluationSettings,
    outliers: Iterable[str] = (),
    *,
    columns_per_block: int = 2,
    block_sizes: Sequence[int] = (),
    view: str | None = None,
    artifact: bool = False,
) -> Plan:
    """The plan of an evaluation.

    Args:
        outliers: labels of the data sets of outliers, those to fit on among them.
        columns_per_block, block_sizes, view: of the measure, the network's branches and its training, for detectors
            that ask for them.
        artifact: whether an artifact is judged alone, so that nothing but the pixel baseline is fitted.

    Raises:
        InputError, UnknownNameError: options that contradict each other, names that nobody knows.
    """
    _check(settings)
    names = tuple(outlier_name(label) for label in dict.fromkeys(outliers))
    offered = {
        "seed": settings.seed, "n_jobs": settings.workers, "columns_per_block": columns_per_block,
        "block_sizes": list(block_sizes) or None, **({} if view is None else {"view": view}),
    }  # fmt: skip
    chosen = (DEFAULT_DETECTOR,) if settings.detectors is None else settings.detectors
    labels = dict.fromkeys([*(() if artifact else chosen), *BASELINES])
    detectors = {label: detector_of(label, offered) for label in labels}
    # No detector is called "artifact", which is the label of the one that an artifact holds.
    learnt = [label for label, each in detectors.items() if each.needs_adversarial and label not in BASELINES]
    choices = settings.fit_on
    if choices is None:
        choices = ("fgm",) if learnt and not settings.fit_ood else ()
    tested = settings.test_on
    if tested is None:
        tested = tuple(dict.fromkeys(name for choice in choices for name in choice.split("+") if name != ALL))
        tested = tested or (() if names else ("fgm",))
    attacks = _attacks(settings, choices, tested)
    if settings.noisy and (large := [label for label, attack in attacks.items() if not attack.lp_bounded]):
        raise InputError(
            f"expected attacks of small perturbations for --noisy, got {', '.join(large)}, of whose size noise is no "
            "image any more; leave --noisy or these attacks out"
        )
    everything = tuple(label for label in attacks if label in {*tested, *_named(choices)})
    fits = tuple(dict.fromkeys(_expanded(choice, everything) for choice in choices))
    fits += tuple((outlier_name(label),) for label in settings.fit_ood)
    if unknown := {name for fit in fits for name in fit} - {*attacks, *names}:
        raise InputError(f"expected outlier sets of the evaluation to fit on, got {', '.join(sorted(unknown))}")
    if learnt and not fits:
        raise InputError(
            f"expected something for {', '.join(learnt)} to learn from, got nothing; give --fit-on or --fit-ood, or a "
            "detector that needs no attacked images, such as mahalanobis:classifier=none"
        )
    with_budgets = tuple(dict.fromkeys([*tested, *_further(settings, tested, attacks)]))
    return Plan(attacks, _limits(settings.attack_limit, attacks), detectors, fits, with_budgets, names)


def _attacks(settings: EvaluationSettings, choices: Sequence[str], tested: Sequence[str]) -> dict[str, Attack]:
    """Every attack by its label, those tested on first, then those only fitted on, then the further budgets."""
    found = {
        label: attack_of(label, epsilon=settings.epsilon, seed=settings.seed)
        for label in dict.fromkeys([*tested, *_named(choices)])
    }
    further: dict[str, Attack] = {}
    # Each once, however it is written.
    budgets = {parse_epsilon(budget): budget for budget in reversed(settings.budgets)}
    with_budget = [
        label for label in tested
        if found[label].epsilon is not None and found[label].norm == "linf" and "epsilon=" not in label
    ]  # fmt: skip
    if budgets and not with_budget:
        raise InputError(
            "expected an attack with an L∞ budget that its label does not name among --test-on for --budgets, got "
            f"{', '.join(tested) or 'none'}; add one, such as pgd"
        )
    for label in with_budget:
        for value, budget in reversed(budgets.items()):
            if not math.isclose(value, found[label].epsilon or 0):
                name = f"{label}:epsilon={budget}"
                further[name] = attack_of(name, epsilon=settings.epsilon, seed=settings.seed)
    return {**found, **{name: attack for name, attack in further.items() if name not in found}}


def _further(settings: EvaluationSettings, tested: Sequence[str], attacks: Mapping[str, Attack]) -> list[str]:
    """Labels of the sets that further budgets add, those among them that are fitted on, too."""
    named = {f"{label}:epsilon={budget}" for label in tested for budget in settings.budgets}
    return [label for label in attacks if label in named]


def _named(choices: Sequence[str]) -> list[str]:
    return [name for choice in choices for name in choice.split("+") if name != ALL]


def _expanded(choice: str, everything: tuple[str, ...]) -> tuple[str, ...]:
    names = choice.split("+")
    if ALL not in names:
        return tuple(dict.fromkeys(names))
    if len(names) > 1 or not everything:
        raise InputError(f"expected the word {ALL} alone, beside attacks in --test-on or --fit-on, got {choice!r}")
    return everything


def _limits(given: Mapping[str, int], attacks: Mapping[str, Attack]) -> dict[str, int]:
    """Label → limit; a full label's own limit goes before that of its attack's name."""
    limits: dict[str, int] = {}
    for name, limit in given.items():
        meant = [label for label in attacks if label == name or label.partition(":")[0] == name]
        if not meant:
            raise InputError(
                f"expected attacks of this evaluation in --attack-limit, got {name}; it has {', '.join(attacks)}"
            )
        if limit < 1:
            raise InputError(f"expected --attack-limit {name} of at least one image, got {limit}")
        for label in meant:
            if label == name or label not in given:
                limits[label] = limit
    return limits


def _check(settings: EvaluationSettings) -> None:
    if settings.protocol == "paper":
        if settings.adaptive:
            raise InputError("expected --protocol sound for --adaptive, which needs a calibrated threshold, got paper")
        if settings.fpr is not None:
            raise InputError("expected --protocol sound for --fpr, got paper, which decides at a vote of 0.5")
    elif settings.noisy:
        raise InputError("expected --protocol paper for --noisy, got sound, where natural images are as they came")
    if unknown := [name for name in settings.adaptive if name not in ADAPTIVE_ATTACKS]:
        raise InputError(f"expected --adaptive out of {', '.join(ADAPTIVE_ATTACKS)}, got {', '.join(unknown)}")
    if not 0 < settings.operating_rate < 1:
        raise InputError(f"expected --fpr between 0 and 1, such as 0.05, got {settings.fpr}")
    if settings.adaptive_images < 1:
        raise InputError(f"expected --adaptive-images of at least 1, got {settings.adaptive_images}")
    if settings.reference_limit < 1:
        raise InputError(f"expected --reference-limit of at least 1, got {settings.reference_limit}")
    if settings.runs < 1:
        raise InputError(f"expected at least one run, got --runs {settings.runs}")
    if settings.workers < 1:
        raise InputError(f"expected --workers of at least 1, got {settings.workers}")
