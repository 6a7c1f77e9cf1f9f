"""Accuracy against chance, and under other normalisations."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from models.checking.passes import logits_of
from models.checking.result import CheckResult
from models.intervals import Interval, clopper_pearson
from models.normalization import Normalized

__all__ = [
    "AccuracyAgainstChance",
    "accuracy_against_chance",
    "check_accuracy",
    "check_normalization",
    "right_predictions",
]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MUCH_BETTER, _SIGNIFICANT = 0.05, 1e-3  # gain in accuracy, and p-value: several alternatives are compared
_BATCH = 32


@dataclass(frozen=True)
class AccuracyAgainstChance:
    """Accuracy with its 95 % interval, and that of always predicting the most frequent class.

    Args:
        accuracy: in [0, 1].
        interval: of the accuracy.
        chance: share of the most frequent class.
        classes: number of classes among the labels.
    """

    accuracy: float
    interval: Interval
    chance: float
    classes: int

    @property
    def is_chance(self) -> bool:
        """Whether the accuracy is not significantly better than chance; False for labels of one class."""
        return self.classes > 1 and self.interval.low <= self.chance


def accuracy_against_chance(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> AccuracyAgainstChance:
    """The accuracy of predictions, `right` or wrong ``(N,)``, on images of these labels ``(N,)``; N ≥ 1."""
    counts = np.unique(labels, return_counts=True)[1]
    interval = clopper_pearson(int(right.sum()), len(right))
    return AccuracyAgainstChance(float(right.mean()), interval, float(counts.max() / len(labels)), len(counts))


def check_accuracy(right: NDArray[np.bool_], labels: NDArray[np.int64], *, trained: bool = True) -> CheckResult:
    """Check that predictions are better than chance.

    Args:
        right: whether each prediction is right, ``(N,)``.
        labels: the classes, ``(N,)``.
        trained: whether the network has trained weights.
    """
    found = accuracy_against_chance(right, labels)
    values = {
        "images": len(right), "accuracy": found.accuracy, "interval": [found.interval.low, found.interval.high],
        "chance": found.chance,
    }  # fmt: skip
    text = (
        f"the accuracy on {len(right)} images is {found.accuracy:.1%} (95 % interval {found.interval.low:.1%} to "
        f"{found.interval.high:.1%})"
    )
    if found.classes == 1:
        return CheckResult("accuracy", "pass", f"{text}, all of one class", values)
    if not found.is_chance:
        return CheckResult("accuracy", "pass", f"{text}; chance: {found.chance:.1%}", values)
    cause = "check its weights, mean and std, and the order of the classes" if trained else "it has no trained weights"
    message = f"{text}, no better than always predicting the most frequent class ({found.chance:.1%}); {cause}"
    return CheckResult("accuracy", "warning", message, values)


def right_predictions(network: Normalized, images: Tensor, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the network classifies each image ``(N, 3, H, W)`` correctly; labels are ``(N,)``."""
    batches = torch.split(images, _BATCH)
    predicted = torch.cat([logits_of(network, batch).argmax(1) for batch in batches])
    right: NDArray[np.bool_] = predicted.numpy() == labels
    return right


def check_normalization(
    network: Normalized, images: Tensor, labels: NDArray[np.int64], right: NDArray[np.bool_]
) -> CheckResult:
    """Compare the accuracy with that under other normalisations and with the channels in the order BGR.

    A warning states a choice whose accuracy on the same images is higher by 5 percentage points or more, and
    significantly so (McNemar's exact test). The network is not changed.

    Args:
        network: with the normalisation in question.
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        labels: their classes ``(N,)``, as indices of the logits.
        right: whether the network classifies each correctly, ``(N,)``.
    """
    rights = {
        name: right_predictions(other, changed, labels) for name, other, changed in _alternatives(network, images)
    }
    accuracies = {"as given": float(right.mean()), **{name: float(each.mean()) for name, each in rights.items()}}
    best = max(rights, key=lambda name: accuracies[name])
    gained, lost = int((rights[best] & ~right).sum()), int((right & ~rights[best]).sum())
    gain = (gained - lost) / len(labels)
    values = {"images": len(labels), "accuracies": accuracies}
    if gain < _MUCH_BETTER or stats.binomtest(gained, gained + lost).pvalue > _SIGNIFICANT:
        message = f"no other choice has a much higher accuracy than the given one ({accuracies['as given']:.1%})"
        return CheckResult("normalisation", "pass", message, values)
    ours, theirs = (clopper_pearson(int(each.sum()), len(labels)) for each in (right, rights[best]))
    message = (
        f"the accuracy on {len(labels)} images is {accuracies['as given']:.1%} (95 % interval {ours.low:.1%} to "
        f"{ours.high:.1%}), but {accuracies[best]:.1%} with {best} ({theirs.low:.1%} to {theirs.high:.1%}); check "
        "--mean, --std and the order of the channels"
    )
    return CheckResult("normalisation", "warning", message, values)


def _alternatives(network: Normalized, images: Tensor) -> Iterator[tuple[str, Normalized, Tensor]]:
    present = (tuple(network.mean.flatten().tolist()), tuple(network.std.flatten().tolist()))
    swapped = [("mean and std swapped", *reversed(present))] if min(present[0]) > 0 else []
    for name, mean, std in (
        *swapped,
        ("mean 0 and std 1", (0.0,) * 3, (1.0,) * 3),
        ("mean 0.5 and std 0.5", (0.5,) * 3, (0.5,) * 3),
        ("ImageNet's mean and std", *_IMAGENET),
        ("pixels from 0 to 255 (mean 0 and std 1/255)", (0.0,) * 3, (1 / 255,) * 3),
    ):
        if not np.allclose(present, (mean, std), atol=1e-3):
            yield name, Normalized(network.network, mean, std, grey=network.grey).to(network.mean.device), images
    yield "the channels in the order BGR", network, images.flip(1)
