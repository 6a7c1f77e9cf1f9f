"""Fit a pipeline in memory to the images of another library."""

import copy
import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.checking import require_usable
from models.devices import device_of
from models.errors import InputError
from models.features import extract_features
from models.images.stored import ImageSequence, StoredImages, as_float, take_images
from models.normalization import Normalized, per_channel
from models.residuals import StatisticsSpec, discover
from service.evaluation.planning.subject import Subject
from service.inputs import detector_of, needs_companion, say, split_in_two

__all__ = ["fitted_pipeline", "normalized_network", "taken"]

_CALIBRATION_SHARE, _REFERENCE_SHARE = 0.2, 0.25
_CHECKED = 6  # images
_BATCH = 256  # images


def normalized_network(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Normalized:
    """A copy of the network that takes pixels in [0, 1], in eval mode, without gradients of its weights.

    Args:
        network: from normalised images to logits; it is not changed.
        mean, std: of its normalisation, one number or three, for pixels in [0, 1].
    """
    means, stds = per_channel(mean, std)
    assert means is not None
    assert stds is not None
    device = device_of(network) or torch.device("cpu")
    return Normalized(copy.deepcopy(network), means, stds).to(device).float().requires_grad_(False).eval()


def fitted_pipeline(
    network: Normalized,
    images: ImageSequence,
    labels: NDArray[np.int64] | None = None,
    *,
    detector: str,
    abnormal: ImageSequence | None = None,
    calibrate_on: ImageSequence | None = None,
    fpr: float = 0.05,
    seed: int = 0,
) -> Pipeline:
    """Network, fitted detector and calibrated threshold, as `plumbline fit` makes them, without a file.

    Copies of natural images are left out. A fifth of the natural images calibrates the threshold, and a quarter of the
    others are reference images, if the detector needs some. An abnormal image is fitted on only if the natural image
    that is nearest to it, presumably its original, is not a calibration image.

    Args:
        network: takes images in [0, 1]; on the device where it is to run.
        images: natural images float32 ``(N, 3, H, W)`` in [0, 1].
        labels: true classes ``(N,)``; None: the predicted ones.
        detector: a name from `plumbline list detectors`, with options after colons.
        abnormal: attacked images or outliers, for detectors that learn from them.
        calibrate_on: natural images for the threshold, none of `images`; None: a fifth of `images`.
        fpr: false-positive rate of the threshold.
        seed: of the split and the detector.

    Raises:
        InputError: too few images, or a detector or options that cannot be used.
        NetworkError: a network that is random, depends on the batch, or returns no logits.
    """
    # 1. Validate the images, the detector and the network.
    if not len(images):
        raise InputError("expected natural images to fit on, got none; label some images as natural")
    if labels is not None and len(labels) != len(images):
        raise InputError(f"expected one class per image, got {len(labels)} for {len(images)} images")
    device = network.mean.device
    _, *shape = images.shape
    first = as_float(images[:_CHECKED])
    for warning in require_usable(network, first.to(device)):
        say(f"warning: {warning}")
    discovery, spec = discover(network, (shape[0], shape[1], shape[2])), StatisticsSpec()
    with torch.inference_mode():
        num_classes = network(first.to(device)).shape[1]
    classes = tuple(map(str, range(num_classes)))
    subject = Subject(network, discovery, spec, (shape[0], shape[1], shape[2]), classes, str(device))
    unfitted = detector_of(detector, {"seed": seed, **subject.detector_options()})
    if needs_companion(unfitted):
        raise InputError(f"{detector} compares with a companion; fit it with `plumbline fit`, and use from_artifact")
    extract = partial(extract_features, network, discovery=discovery, statistics_spec=spec, device=device)

    # 2. Split distinct natural images.
    rows = _distinct(images)
    known = None if labels is None else labels[rows]
    calibration_rows = rows[:0]
    if calibrate_on is None:
        fit, held_out = split_in_two(len(rows), 1 - _CALIBRATION_SHARE, labels=known, seed=seed)
        rows, calibration_rows = rows[fit], rows[held_out]
        calibrate_on = taken(images, calibration_rows)
    if unfitted.needs_reference:
        known = None if labels is None else labels[rows]
        fit, compare = split_in_two(len(rows), 1 - _REFERENCE_SHARE, labels=known, seed=seed)
        reference, rows = rows[compare], rows[fit]
        features = extract(taken(images, reference), feature_requests=unfitted.feature_requests())
        unfitted.prepare(features, None if labels is None else labels[reference])

    # 3. Fit and calibrate.
    extract = partial(extract, feature_requests=unfitted.feature_requests())
    natural = extract(taken(images, rows))
    attacked = None
    if unfitted.needs_adversarial and abnormal is not None and len(abnormal):
        attacked = extract(_away_from(abnormal, images, calibration_rows))
    fitted = unfitted.fit(natural, attacked, None if labels is None else labels[rows])
    calibrated = extract(calibrate_on)
    result = fitted.score_components(calibrated)
    return Pipeline(
        network=network, discovery=discovery, statistics_spec=spec, detector=fitted,
        calibration=Calibration(result.score, fpr, calibrated.predicted, result.parts),
        classes=classes, band=natural_band(natural.statistics), image_shape=subject.image_shape, device=device,
    )  # fmt: skip


def _distinct(images: ImageSequence) -> NDArray[np.int64]:
    """The first row of every distinct image."""
    digests = [hashlib.sha256(as_float(images[row : row + 1]).numpy().tobytes()).digest() for row in range(len(images))]
    return np.sort(np.unique(np.array(digests, dtype="S32"), return_index=True)[1]).astype(np.int64)


def taken(images: ImageSequence, rows: NDArray[np.int64]) -> ImageSequence:
    """The images at these rows, in that order."""
    if isinstance(images, np.ndarray | StoredImages):
        return take_images(images, rows)
    assert isinstance(images, Tensor)
    return images[torch.from_numpy(rows)]


def _away_from(abnormal: ImageSequence, images: ImageSequence, held_out: NDArray[np.int64]) -> ImageSequence:
    """The abnormal images whose nearest natural image is not in the rows `held_out`."""
    if not len(held_out):
        return abnormal
    own, others = _small(images), _small(abnormal)
    nearest = torch.cat([torch.cdist(part, own).argmin(dim=1) for part in torch.split(others, _BATCH)])
    return taken(abnormal, np.flatnonzero(~np.isin(nearest.numpy(), held_out)))


def _small(images: ImageSequence) -> Tensor:
    """Averages over 8 × 8 parts of each image, ``(N, 192)``."""
    parts = [as_float(images[start : start + _BATCH]).cpu() for start in range(0, len(images), _BATCH)]
    return torch.cat([F.adaptive_avg_pool2d(part, 8).flatten(1) for part in parts])
