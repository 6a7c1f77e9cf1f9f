"""What `fit` and `evaluate` have in common: images that fit a network, and references that name no folder."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attacks import Attack, build_attack
from detector.base.detector import Detector, build_detector
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.images.views import View
from models.loading.network_options import value_of_word
from models.loading.references import LoadedNetwork, preset_size
from models.objectives.base import Objective, build_objective

__all__ = [
    "attack_of",
    "detector_of",
    "label",
    "network_name",
    "objective_of",
    "say",
    "view_of",
    "view_of_artifact",
    "view_of_training",
    "with_labels_of",
]


def attack_of(text: str, *, epsilon: str, seed: int) -> Attack:
    """The attack that ``NAME`` or ``NAME:OPTION=VALUE:…`` names, such as ``pgd:steps=40:epsilon=2/255``.

    Args:
        epsilon, seed: for attacks that have them, unless the text says otherwise.

    Raises:
        UnknownNameError: no such attack.
        InputError: an option without a value or given twice, or one that the attack does not have or accept.
    """
    name, pairs = _name_and_options(text, "pgd:steps=40")
    options = {option: value if option == "epsilon" else value_of_word(value) for option, value in pairs.items()}
    return build_attack(name, options, where_accepted={"epsilon": epsilon, "seed": seed})


def detector_of(text: str, offered: Mapping[str, Any]) -> Detector:
    """The detector that ``NAME`` or ``NAME:OPTION=VALUE:…`` names, such as ``mahalanobis:magnitude=0.0014``.

    Args:
        offered: options for detectors that have them, unless the text says otherwise.

    Raises:
        UnknownNameError: no such detector.
        InputError: an option without a value or given twice, or one that the detector does not have or accept.
    """
    name, pairs = _name_and_options(text, "mahalanobis:magnitude=0.0014")
    options = {option: value_of_word(value) for option, value in pairs.items()}
    return build_detector(name, options, where_accepted=offered)


def objective_of(text: str, offered: Mapping[str, Any]) -> Objective:
    """The objective that ``NAME`` or ``NAME:OPTION=VALUE:…`` names, such as ``least_action:increase=0.1``.

    Args:
        offered: options for objectives that have them, unless the text says otherwise.

    Raises:
        UnknownNameError: no such objective.
        InputError: an option without a value or given twice, or one that the objective does not have or accept.
    """
    name, pairs = _name_and_options(text, "least_action:increase=0.1")
    return build_objective(
        name, {option: value_of_word(value) for option, value in pairs.items()}, where_accepted=offered
    )


def _name_and_options(text: str, example: str) -> tuple[str, dict[str, str]]:
    name, *pairs = text.split(":")
    options = {}
    for pair in pairs:
        option, separator, value = pair.partition("=")
        if not separator:
            raise InputError(f"expected NAME:OPTION=VALUE, such as {example}, got {text!r}")
        if option in options:
            raise InputError(f"expected {option} of {name} once, got it again in {text!r}")
        options[option] = value
    return name, options


def with_labels_of(data: ImageDataset, classes: tuple[str, ...] | None, num_classes: int, network: str) -> ImageDataset:
    """The data set with labels that index the network's logits.

    Where the network's class names are known and hold the data set's, labels are matched by name; otherwise the data
    set must have as many classes as the network has logits, and they are taken to be in the same order.

    Raises:
        InputError: neither holds, or only some of the names match.
    """
    if classes is not None and set(data.classes) <= set(classes):
        places = np.array([classes.index(name) for name in data.classes])
        return replace(data, labels=places[data.labels], classes=classes)
    if classes is not None and (shared := set(data.classes) & set(classes)):
        unknown = ", ".join(sorted(set(data.classes) - shared)[:5])
        raise InputError(
            f"expected classes that {network} knows, got {unknown} beside {len(shared)} that it does know; by place, "
            "labels would be mixed up: name the classes as the network does"
        )
    if len(data.classes) != num_classes:
        raise InputError(
            f"expected a data set of {num_classes} classes for {network}, got {data.name} with {len(data.classes)}; "
            "choose the data set that the network was trained on, or name the classes as the network does"
        )
    return replace(data, classes=classes or data.classes)


def view_of(loaded: LoadedNetwork) -> str | None:
    """The view that a network was trained to be indifferent to, for detectors that look twice; None if unknown.

    Torchvision's own weights are all trained with mirrored images.
    """
    if loaded.reference.startswith("torchvision:") and preset_size(loaded.reference) != (None, None):
        return "flip"
    return view_of_training(loaded.provenance)


def view_of_training(trained: object) -> str | None:
    """What a training's provenance made the network indifferent to: mirroring, or else a shift by random crops.

    A recipe comes out of a file; None where it says neither as a recipe does.
    """
    recipe = trained.get("recipe") if isinstance(trained, Mapping) else None
    if not isinstance(recipe, Mapping):
        return None
    if recipe.get("flip") is True:
        return "flip"
    padding = recipe.get("crop_padding")
    return "shift1" if isinstance(padding, int) and not isinstance(padding, bool) and padding > 0 else None


def view_of_artifact(provenance: Mapping[str, Any]) -> str | None:
    """As `view_of`, of the network of an artifact, whose provenance comes out of a file.

    It is what `plumbline fit` recorded, or else what the training's provenance says.
    """
    recorded = provenance.get("view")
    try:
        return View.parse(recorded).name if isinstance(recorded, str) else view_of_training(provenance.get("trained"))
    except InputError:
        return None


def label(reference: str) -> str:
    """A reference as it goes into results: paths of this machine are cut down to their last part."""
    head, separator, rest = reference.partition(":")
    if separator and head in ("npz", "images"):
        return f"{head}:{Path(rest).name}"
    if head.endswith(".py") or (not separator and Path(reference).is_dir()):
        return Path(head).name + (f":{rest.partition(':')[0]}" if rest else "")
    return reference if "/" not in rest else f"{head}:{rest.partition(':')[0]}:{Path(rest).name}"


def network_name(loaded: LoadedNetwork) -> str:
    """What the network is and where it came from, such as "resnet20 (pretrained:cifar10-resnet20)"."""
    reference = label(loaded.reference)
    return reference if loaded.spec.name in reference else f"{loaded.spec.name} ({reference})"


def say(line: str) -> None:
    """Tell a person at the terminal; standard output is kept for results."""
    print(line, file=sys.stderr, flush=True)
