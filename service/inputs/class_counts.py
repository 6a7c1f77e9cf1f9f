"""Notes for the user on few natural images: of classes, and for the threshold."""

import math

import numpy as np
from numpy.typing import NDArray

from detector.base.detector import Detector
from detector.density.gaussians import MIN_CLASS_IMAGES

__all__ = ["note_on_few_images", "note_on_few_scores"]

_FEW_SCORES = 5  # at or above the threshold

Labels = NDArray[np.int64]


def note_on_few_images(detector: Detector, fit: Labels, reference: Labels | None, num_classes: int) -> str | None:
    """A line about classes with too few images for means or classifiers of their own; None if all have enough.

    Args:
        detector: unfitted.
        fit: ``(N,)``, the classes of the natural images to fit on.
        reference: ``(R,)``, those of the reference images; None for a detector that needs none.
        num_classes: of the network.
    """
    parts = []
    if reference is not None and (few := _below(reference, MIN_CLASS_IMAGES, num_classes)):
        parts.append(
            f"{few:,} of {num_classes:,} classes have fewer than {MIN_CLASS_IMAGES} reference images: they share the "
            "mean of all images"
        )
    fewest = detector.parameters().get("minimum_per_class")
    if fewest is not None and detector.needs_adversarial and (few := _below(fit, fewest, num_classes)):
        parts.append(
            f"{few:,} of {num_classes:,} classes have fewer than {fewest} images to fit on: they use the classifier of "
            "all classes"
        )
    return "; ".join(parts) or None


def note_on_few_scores(count: int, fpr: float) -> str | None:
    """A warning if few of the `count` calibration scores reach the threshold for `fpr`; None if enough do."""
    largest = math.floor(fpr * (count + 1))
    if largest >= _FEW_SCORES:
        return None
    return (
        f"warning: for a false-positive rate of {fpr:g}, only {largest} of {count} calibration scores reach the "
        "threshold, so single images move it; calibrate on more images"
    )


def _below(labels: Labels, least: int, num_classes: int) -> int:
    return int((np.bincount(labels, minlength=num_classes) < least).sum())
