"""`plumbline certify`: a network or an artifact, and images → certified radii of the smoothed system."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.common.digests import network_digest
from attacks.generation.store import ShardStore
from detector.artifact import load_artifact
from models.batching import fitting_batch
from models.datasets.base import ImageDataset, load_dataset
from models.files import json_bytes, write_files
from models.intervals import clopper_pearson
from models.loading import load_network
from models.progress import progress_bar
from models.smoothing import REJECTED, Smoothing, certificate, count_votes
from service.console import text_table
from service.evaluation.planning.images import without_seen
from service.formatting import between, percent
from service.inputs import (
    dataset_request,
    distinct_images,
    label,
    load_for_artifact,
    network_name,
    refuse_unusable,
    with_labels_of,
)
from service.provenance import provenance
from service.report.figures.radii import draw_radii
from service.report.figures.svg import as_png
from service.requests.certify import CertifyRequest

__all__ = ["RADII", "SCHEMA", "Certification", "certify"]

SCHEMA = 1  # incremented when a key of report.json changes its place or meaning
RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_CURVES = {
    "unchanged": "right answer, unchanged within the radius",
    "right_then_rejected": "right answer, unchanged or rejected within the radius",
    "right_or_rejected": "right answer or rejected, at the image and within the radius",
}
_BATCH = 128

Decide = Callable[[Tensor], NDArray[np.int64]]


@dataclass(frozen=True)
class _System:
    """A base system: images to a class or `REJECTED`, and the labelled images for it."""

    name: str
    identity: str
    decide: Decide
    data: ImageDataset


@dataclass(frozen=True)
class Certification:
    """The content of report.json, and the folder with all files."""

    report: dict[str, Any]
    folder: Path

    def summary(self) -> str:
        """The shares at each radius as text."""
        rows = [
            [f"{row['radius']:g}", *(f"{percent(row[key])} ({between(row[f'{key}_interval'])})" for key in _CURVES)]
            for row in self.report["certified"]
        ]
        headers = ["radius (L2)", "right and\nunchanged", "right, then unchanged\nor rejected", "right or\nrejected"]
        plain, rejected = self.report["plain"], self.report["without_answer"]
        return "\n".join(
            [
                text_table(headers, rows),
                f"without noise: {percent(plain['right'])} right, {percent(plain['rejected'])} rejected",
                f"with noise: no certain answer on {percent(rejected)}",
                f"report in {self.folder}",
            ]
        )


def certify(request: CertifyRequest, *, progress: bool = True) -> Certification:
    """Count votes, image by image, and write the report to `request.out`.

    Raises:
        InputError: a value out of its range, or images that do not fit.
        NetworkError, ArtifactError: see models and detector.
    """
    smoothing = Smoothing(request.sigma, request.samples, request.threshold, request.alpha)
    system = _network(request) if request.artifact is None else _artifact(request)
    votes = _votes(system, smoothing, request, progress=progress)
    decided = np.concatenate(
        [
            system.decide(system.data.tensor(slice(first, first + _BATCH)).to(request.device))
            for first in range(0, len(system.data), _BATCH)
        ]
    )
    images = [
        _certified(counts, smoothing, int(truth)) for counts, truth in zip(votes, system.data.labels, strict=True)
    ]
    report = {
        "schema": SCHEMA, "system": system.name, "smoothing": asdict(smoothing), "seed": request.seed,
        "dataset": {"name": label(system.data.name), "images": len(images), "sha256": system.data.fingerprint()},
        "plain": {
            "right": float((decided == system.data.labels).mean()), "rejected": float((decided == REJECTED).mean()),
        },
        "without_answer": sum(each["answer"] is None for each in images) / len(images),
        "certified": [_shares(images, radius) for radius in RADII],
        "images": images, "classes": list(system.data.classes), "provenance": provenance(),
    }  # fmt: skip
    picture = draw_radii({name: [_reached(each, key) for each in images] for key, name in _CURVES.items()})
    write_files(
        request.out,
        {"report.json": json_bytes(report), "images.csv": _csv(images), "certified.png": as_png(picture)},
    )
    return Certification(report, request.out)


def _network(request: CertifyRequest) -> _System:
    assert request.network is not None
    given, images = request.normalization, request.images
    data = load_dataset(images.dataset, dataset_request(images, request.network))
    loaded = load_network(
        request.network, mean=given.mean, std=given.std, num_classes=len(data.classes), image_shape=data.image_shape
    )
    data = with_labels_of(data, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    network = loaded.network.to(request.device)
    data = distinct_images(data).limited(images.limit, request.seed)
    refuse_unusable(network, data, request.device)

    @torch.no_grad()
    def decide(batch: Tensor) -> NDArray[np.int64]:
        classes: NDArray[np.int64] = network(batch).argmax(1).cpu().numpy()
        return classes

    return _System(network_name(loaded), network_digest(network), decide, data)


def _artifact(request: CertifyRequest) -> _System:
    assert request.artifact is not None
    artifact = load_artifact(
        request.artifact, network_file=request.network, device=request.device, verify_key=request.verify_key
    )
    pipeline = artifact.pipeline
    data = load_for_artifact(request.images.dataset, request.images, artifact)
    data = distinct_images(with_labels_of(data, pipeline.classes, len(pipeline.classes), "the artifact"))
    data = without_seen(artifact, data).limited(request.images.limit, request.seed)

    def decide(batch: Tensor) -> NDArray[np.int64]:
        features = pipeline.features(batch)
        flagged = pipeline.calibration.flags(pipeline.detector.score(features))
        return np.where(flagged, REJECTED, features.predicted)

    return _System(f"{artifact.spec.name} with {pipeline.detector!r}", artifact.digest, decide, data)


def _votes(
    system: _System, smoothing: Smoothing, request: CertifyRequest, *, progress: bool
) -> list[NDArray[np.int64]]:
    """The votes of each image; those of an interrupted run are read from its files."""
    data, classes = system.data, len(system.data.classes)
    key = {
        "system": system.identity, "images": data.fingerprint(), "sigma": smoothing.sigma,
        "samples": smoothing.samples, "seed": request.seed, "device": request.device,
    }  # fmt: skip
    store = ShardStore(request.out / "votes", "certify", key)
    size = fitting_batch(system.decide, data.tensor(np.arange(1)).to(request.device), smoothing.samples, _BATCH)
    found = []
    for row in progress_bar(range(len(data)), what="certify", unit="image", show=progress):
        counted = store.load_intact(row)
        if counted is None:
            seed = int(np.random.SeedSequence([request.seed, row]).generate_state(1)[0])
            image = data.tensor(np.array([row]))[0].to(request.device)
            votes = count_votes(system.decide, image, smoothing, classes=classes, seed=seed, batch_size=size)
            counted = {"votes": votes}
            store.save(row, counted)
        found.append(counted["votes"])
    return found


def _certified(votes: NDArray[np.int64], smoothing: Smoothing, truth: int) -> dict[str, Any]:
    """The figures of one image as JSON values."""
    found = certificate(votes, smoothing)
    return {
        "label": truth, "answer": found.answer, "radius": found.radius,
        "radius_or_rejected": None if found.answer is None else float(found.exclusive[found.answer]),
        "right_or_rejected": float(found.exclusive[truth]), "rejected_votes": int(votes[-1]),
        "votes": {str(name): int(votes[name]) for name in np.flatnonzero(votes[:-1])},
    }  # fmt: skip


def _reached(image: Mapping[str, Any], key: str) -> float | None:
    """The radius of an image on one of the `_CURVES`; None if it is not on it even at distance 0."""
    right = image["answer"] == image["label"]
    if key == "right_or_rejected":
        # 0 is also the radius of an image whose certain answer is another class.
        return image["right_or_rejected"] or None
    return image["radius" if key == "unchanged" else "radius_or_rejected"] if right else None


def _shares(images: Sequence[Mapping[str, Any]], radius: float) -> dict[str, Any]:
    """The share of images on each curve at a radius, with its 95 % interval over images."""
    row: dict[str, Any] = {"radius": radius}
    for key in _CURVES:
        hits = sum((reached := _reached(each, key)) is not None and reached >= radius for each in images)
        interval = clopper_pearson(hits, len(images))
        row |= {key: hits / len(images), f"{key}_interval": [interval.low, interval.high]}
    return row


def _csv(images: Sequence[Mapping[str, Any]]) -> str:
    columns = ("label", "answer", "radius", "radius_or_rejected", "right_or_rejected", "rejected_votes")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", *columns))
    for row, each in enumerate(images):
        writer.writerow([row, *(each[name] for name in columns)])
    return text.getvalue()
