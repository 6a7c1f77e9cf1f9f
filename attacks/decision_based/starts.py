"""Decision functions of a network, and adversarial starts for decision-based attacks on it."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.margins import least_lead, margins
from attacks.common.noise import ImageNoise
from attacks.common.queries import logits_of
from attacks.common.targets import Target, target_classes
from attacks.decision_based.search import Decide
from attacks.libraries.art import run_art_attack

__all__ = [
    "decision_and_starts",
    "nearest_of_class",
    "network_decision",
    "random_starts",
    "run_art_from_starts",
]

_GRIDS = (1, 2, 4, 8)  # sides of the coarse noise, in cells


def decision_and_starts(
    network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise, target: Target | None, tries: int
) -> tuple[Decide, Tensor]:
    """A decision function, and a start for each image ``(B, C, H, W)``, which is the image itself if there is none.

    Without a target, every other class is adversarial, and the starts are random. With a target, only that class is,
    and an image starts at the nearest image of the batch that is predicted as its target, or at random without one.

    Args:
        network, images, labels, noise: as in `Attack.run`.
        target: None, or the target of the attack.
        tries: maximum number of random images per image.
    """
    if target is None:
        decide = network_decision(network, labels)
        return decide, random_starts(decide, images, noise, tries)
    predicted = logits_of(network, images).argmax(1)
    targets = target_classes(target, network, images, labels, noise)
    decide = network_decision(network, labels, targets)
    return decide, random_starts(decide, images, noise, tries, nearest_of_class(images, predicted, targets))


def network_decision(network: nn.Module, labels: Tensor, targets: Tensor | None = None) -> Decide:
    """A decision function: the network misclassifies the image, or, with targets, predicts its target.

    The required lead is larger than any rounding, so that a point which is adversarial here is so in every batch.

    Args:
        network: takes images in [0, 1], returns logits.
        labels: ``(B,)``, the true classes of the images.
        targets: ``(B,)``, their targets, if any.
    """
    classes, targeted = (labels, False) if targets is None else (targets, True)

    def decide(points: Tensor, rows: Tensor) -> Tensor:
        logits = logits_of(network, points)
        return margins(logits, classes[rows], targeted=targeted) <= -least_lead(logits)

    return decide


def random_starts(decide: Decide, images: Tensor, noise: ImageNoise, tries: int, first: Tensor | None = None) -> Tensor:
    """The first adversarial random image of each image; the image itself if none is adversarial.

    Every second try has uniform pixels, as in the papers and ART. A network often predicts one class for all of these,
    so that images of this class would have no start. The other tries are coarse: one colour, or a grid of 2 x 2 up to
    8 x 8 colours. All are drawn from the image's own stream.

    Args:
        decide: whether a point is adversarial.
        images: ``(B, C, H, W)``.
        noise: random streams of the images.
        tries: maximum number of random images per image.
        first: ``(B, C, H, W)``, starts that come before the random ones, and that are returned if none is adversarial.
    """
    starts = (images if first is None else first).clone()
    rows = torch.arange(len(images), device=images.device)
    rows = rows[~decide(starts, rows)]
    for draw in range(tries):
        if len(rows) == 0:
            break
        tried = _random_images(images, noise, draw)[rows]
        yes = decide(tried, rows)
        starts[rows[yes]] = tried[yes]
        rows = rows[~yes]
    return starts


def _random_images(images: Tensor, noise: ImageNoise, draw: int) -> Tensor:
    if draw % 2 == 0:
        return (noise.uniform(images, draw) + 1) / 2
    side = _GRIDS[draw // 2 % len(_GRIDS)]
    colours = (noise.uniform(images[:, :, :side, :side], draw) + 1) / 2
    return F.interpolate(colours, size=images.shape[2:], mode="nearest")


def nearest_of_class(images: Tensor, predicted: Tensor, targets: Tensor) -> Tensor:
    """The nearest image in L2 that is predicted as the target of each image; the image itself without one.

    Args:
        images: ``(B, C, H, W)``.
        predicted: ``(B,)``, their predicted classes.
        targets: ``(B,)``, their targets.
    """
    flat = images.flatten(1)
    distances = torch.cdist(flat, flat).masked_fill(predicted[None] != targets[:, None], torch.inf)
    distance, nearest = distances.min(1)
    starts = images.clone()
    there = torch.isfinite(distance)
    starts[there] = images[nearest[there]]
    return starts


def run_art_from_starts(
    class_name: str,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    noise: ImageNoise,
    tries: int,
    options: Mapping[str, Any],
) -> Tensor:
    """ART's attack of this class, from starts that depend on the seed only.

    Images without a start are returned unchanged, and so are misclassified images: ART leaves the predicted class and
    not the label, and would move some of them back to the label.

    Args:
        class_name: of `art.attacks.evasion`.
        network, images, labels, noise: as in `Attack.run`.
        tries: maximum number of random images per image.
        options: arguments of the attack's constructor.
    """
    decide, starts = decision_and_starts(network, images, labels, noise, None, tries)
    rows = torch.arange(len(images), device=images.device)
    able = ~decide(images, rows) & decide(starts, rows)
    found = images.clone()
    if able.any():
        found[able] = run_art_attack(class_name, network, images[able], labels[able], options, starts[able])
    return found
