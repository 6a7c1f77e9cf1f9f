"""Plug-ins and rules by name and options, such as ``pgd:steps=40:epsilon=2/255``."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from attacks import Attack, build_attack
from detector.base.detector import Detector, build_detector
from models.errors import InputError
from models.objectives.base import Objective, build_objective
from models.options import parse_value
from models.training.depth import DepthRule
from service.inputs.companions import needs_companion
from service.inputs.external import EXTERNAL, external_detector

__all__ = ["attack_of", "depth_rule_of", "detector_of", "objective_of", "refuse_unused"]


def attack_of(text: str, *, epsilon: str, seed: int) -> Attack:
    """The attack that ``NAME`` or ``NAME:OPTION=VALUE:…`` names, such as ``pgd:steps=40:epsilon=2/255``.

    Args:
        text: name and options.
        epsilon: the budget of an attack that has one and whose text does not state it.
        seed: likewise.

    Raises:
        UnknownNameError: no such attack.
        InputError: an option without a value or given twice, or one that the attack does not have or accept.
    """
    name, pairs = _name_and_options(text, "pgd:steps=40")
    options = {option: value if option == "epsilon" else parse_value(value) for option, value in pairs.items()}
    return build_attack(name, options, where_accepted={"epsilon": epsilon, "seed": seed})


def detector_of(text: str, offered: Mapping[str, Any], *, classifier: str | None = None) -> Detector:
    """The detector that ``NAME`` or ``NAME:OPTION=VALUE:…`` names, such as ``mahalanobis:magnitude=0.0014``.

    The name can also be ``external:PATH.py:CALLABLE``, see `service.inputs.external`.

    Args:
        text: name and options.
        offered: options for a detector that has them, unless the text states them; "network" is for external detectors,
            which are refused without it.
        classifier: the value of ``--classifier``; None if not given.

    Raises:
        UnknownNameError: no such detector.
        InputError: an option without a value or given twice, or one that the detector does not have or accept; a
            classifier for a detector that has none, or whose text states another one.
    """
    if text.partition(":")[0] == EXTERNAL and classifier is None:
        return _external(text, offered)
    name, pairs = _name_and_options(text, "mahalanobis:magnitude=0.0014")
    if classifier is None:
        return build_detector(name, _values(pairs), where_accepted=offered)
    if pairs.get("classifier", classifier) != classifier:
        raise InputError(f"--classifier {classifier} contradicts the detector {text}; leave one of the two out")
    detector = build_detector(name, _values(pairs), where_accepted={**offered, "classifier": classifier})
    if "classifier" not in detector.parameters():
        raise InputError(f"the detector {name} has no classifier; leave --classifier {classifier} out")
    return detector


def objective_of(text: str, offered: Mapping[str, Any]) -> Objective:
    """The objective that ``NAME`` or ``NAME:OPTION=VALUE:…`` names, such as ``least_action:increase=0.1``.

    Args:
        text: name and options.
        offered: options for an objective that has them, unless the text states them.

    Raises:
        UnknownNameError: no such objective.
        InputError: an option without a value or given twice, or one that the objective does not have or accept.
    """
    name, pairs = _name_and_options(text, "least_action:increase=0.1")
    return build_objective(name, _values(pairs), where_accepted=offered)


def depth_rule_of(text: str) -> DepthRule:
    """The rule of adaptive depth that ``NAME:OPTION=VALUE:…`` names, such as ``halve:tolerance=1:every=5``.

    Raises:
        InputError: an unknown rule; an option without a value or given twice, one that the rules do not have or
            accept, or no tolerance.
    """
    name, pairs = _name_and_options(text, "halve:tolerance=1")
    known = {field.name for field in fields(DepthRule)} - {"rule"}
    if "tolerance" not in pairs or not pairs.keys() <= known:
        raise InputError(f"expected RULE:tolerance=E with options of {', '.join(sorted(known))}, got {text!r}")
    return DepthRule(rule=name, **_values(pairs))  # type: ignore[arg-type]  # checked there


def refuse_unused(
    detectors: Iterable[Detector],
    *,
    attacks: Iterable[str] | None = None,
    attacked: Path | None = None,
    runner: str | None = None,
    reference: str | None = None,
    companion: str | None = None,
) -> None:
    """Refuse options that none of the detectors uses.

    Args:
        detectors: those that the command fits.
        attacks: values of ``--attack``; None if not given.
        attacked: the value of ``--attacked``; None if not given.
        runner: the value of ``--runner``; None if not given.
        reference: the value of ``--reference``; None if not given.
        companion: the value of ``--companion``; None if not given.

    Raises:
        InputError: attacks or attacked images although no detector is fitted on any, or reference images or a companion
            although no detector compares with any.
    """
    chosen = list(detectors)
    names = ", ".join(detector.name for detector in chosen)
    words = None if attacks is None else " ".join(attacks)
    given = {"--attack": words, "--attacked": attacked, "--runner": runner}
    for option, value in given.items():
        if value is not None and not any(detector.needs_adversarial for detector in chosen):
            raise InputError(f"{option} {value} has no effect on {names}; leave it out")
    if reference is not None and not any(detector.needs_reference for detector in chosen):
        raise InputError(f"--reference {reference} has no effect on {names}; leave it out")
    if companion is not None and not any(map(needs_companion, chosen)):
        raise InputError(
            f"--companion {companion} has no effect on {names}; leave it out, or use --detector companion or "
            "two_part:passes=3"
        )


def _external(text: str, offered: Mapping[str, Any]) -> Detector:
    _, _, reference = text.partition(":")
    path, separator, rest = reference.partition(".py:")
    if not separator:
        raise InputError(f"expected external:PATH.py:CALLABLE or external:PATH.py:CALLABLE:OPTION=VALUE, got {text!r}")
    function, pairs = _name_and_options(rest, f"{EXTERNAL}:{path}.py:CALLABLE:k=5")
    return external_detector(
        f"{path}.py", function, _values(pairs), network=offered.get("network"), seed=offered.get("seed", 0)
    )


def _values(pairs: Mapping[str, str]) -> dict[str, Any]:
    return {option: parse_value(value) for option, value in pairs.items()}


def _name_and_options(text: str, example: str) -> tuple[str, dict[str, str]]:
    name, *pairs = text.split(":")
    options: dict[str, str] = {}
    for pair in pairs:
        option, separator, value = pair.partition("=")
        if not separator and options:  # the preceding value has a colon: substitute=pretrained:NAME
            option, value = options.popitem()
            value = f"{value}:{pair}"
        elif not separator:
            raise InputError(f"expected NAME:OPTION=VALUE, such as {example}, got {text!r}")
        if option in options:
            raise InputError(f"{text!r} states the option {option} twice; state it once")
        options[option] = value
    return name, options
