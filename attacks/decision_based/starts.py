"""What decision-based attacks on a network ask and where they begin: points that it already gets wrong."""

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
    """What a decision-based attack asks of the network, and a start for each image: itself where there is none.

    Without a target, any other class will do, and the starts are random. With one, only that class does, and an image
    starts at the nearest of the batch that the network gives that class, or, where the batch has none, at random.
    """
    if target is None:
        decide = network_decision(network, labels)
        return decide, random_starts(decide, images, noise, tries)
    predicted = logits_of(network, images).argmax(1)
    targets = target_classes(target, network, images, labels, noise)
    decide = network_decision(network, labels, targets)
    return decide, random_starts(decide, images, noise, tries, nearest_of_class(images, predicted, targets))


def network_decision(network: nn.Module, labels: Tensor, targets: Tensor | None = None) -> Decide:
    """Whether the network misses the images' labels, or, with targets, whether it says these.

    By a lead that no other batch size can undo: a point that is adversarial here is so wherever it is seen.
    """
    classes, targeted = (labels, False) if targets is None else (targets, True)

    def decide(points: Tensor, rows: Tensor) -> Tensor:
        logits = logits_of(network, points)
        return margins(logits, classes[rows], targeted=targeted) <= -least_lead(logits)

    return decide


def random_starts(decide: Decide, images: Tensor, noise: ImageNoise, tries: int, first: Tensor | None = None) -> Tensor:
    """For each image the first of its random images ``(B, ...)`` that is adversarial; itself where none is.

    With `first` ``(B, ...)``, that where it is adversarial, and where no random image is either.

    Every other try is an image of uniform pixels, as in the papers and ART. A network often gives all of those one
    class, and images of that class would then never start. So the tries between are coarse: one colour, or squares of
    2 x 2 up to 8 x 8 colours, all drawn from the image's own stream.
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
    """For each image the nearest one (L2) of those given that is predicted as its target; itself where none is.

    Args:
        predicted: ``(B,)``, the network's classes of the images.
        targets: ``(B,)``, the classes wanted.
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
    """ART's attack of that class from our starts, which follow the seed; images without one come back as they are.

    So do images that are misclassified already: ART leaves the predicted class and not the label, and would carry some
    of them back to it.
    """
    decide, starts = decision_and_starts(network, images, labels, noise, None, tries)
    rows = torch.arange(len(images), device=images.device)
    able = ~decide(images, rows) & decide(starts, rows)
    found = images.clone()
    if able.any():
        found[able] = run_art_attack(class_name, network, images[able], labels[able], options, starts[able])
    return found
