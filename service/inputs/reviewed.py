"""Natural images of the random sample in a store, by the decisions of reviewers."""

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from detector.artifact import Artifact
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.files import readable
from models.progress import say
from service.monitoring.reviews.images import KeptImages
from service.monitoring.reviews.store import Store

__all__ = ["reviewed_images"]

_NATURAL = ("false_alarm", "correct_pass")


def reviewed_images(
    artifact: Artifact,
    store: Path,
    folder: Path,
    *,
    model: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> ImageDataset:
    """The sampled images that reviewers decided are natural, with the predicted classes as labels.

    Flagged images that are not in the random sample are not used: images that were selected by their scores are not
    exchangeable with later natural images.

    Args:
        artifact: its network takes images of the stored size.
        store: of the server.
        folder: of its kept images.
        model: name of the model; None: the only one in the store.
        since, until: bounds of the time; without a time zone, UTC.

    Raises:
        InputError: the store has no sample, an image of it has no decision of a reviewer, or no natural image is left.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the one that the server got as --keep-flagged")
    with Store(store, read_only=True) as opened:
        images = KeptImages(folder, opened.identity)
        rows = opened.sample(model=_model(opened, model), since=_time(since, -math.inf), until=_time(until, math.inf))
    if open_rows := sum(row["decision"] is None for row in rows):
        raise InputError(
            f"{open_rows} of {len(rows)} images of the random sample have no decision of a reviewer; a threshold from "
            "the others would depend on the reviewer's choice; review them, or give a period with --since and --until"
        )
    natural = [row for row in rows if row["decision"] in _NATURAL]
    pixels = [None if row["image"] is None else images.pixels(row["image"]) for row in natural]
    kept = [(row, each) for row, each in zip(natural, pixels, strict=True) if each is not None]
    if len(kept) < len(natural):
        say(f"{len(natural) - len(kept)} of {len(natural)} natural images were deleted and are left out")
    if not kept:
        raise InputError(
            f"expected natural images in the random sample of {store}, got none among {len(rows)}; start the server "
            "with --keep-flagged and --sample-for-review, and review the sample"
        )
    if any(each.shape != artifact.spec.image_shape for _, each in kept):
        raise InputError(f"expected images of shape {artifact.spec.image_shape} in the store; give another --model")
    return ImageDataset(
        name=f"reviews:{readable(store.name)}",
        images=np.stack([each for _, each in kept]),
        labels=np.array([row["label"] for row, _ in kept], np.int64),
        classes=artifact.pipeline.classes,
        preprocessing=artifact.preprocessing,
    )


def _model(store: Store, model: str | None) -> str:
    models = store.models()
    if model is None and len(models) == 1:
        return models[0]
    if model is None or model not in models:
        known = ", ".join(models) or "there are none; start the server with --sample-for-review"
        raise InputError(f"expected --model with the name of a model in the random sample ({known}), got {model}")
    return model


def _time(time: datetime | None, default: float) -> float:
    if time is None:
        return default
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
