"""`plumbline evaluate`: an artifact, natural images it never saw, attacks → a report."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from attacks.generation import generate
from detector.artifact import Artifact, load_artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import ArtifactError, InputError
from models.features import Features, extract_features
from service.evaluation import Evaluation, JudgedSet
from service.jobs._inputs import attack_of, label, say, with_labels_of
from service.originals import digests, unpack
from service.provenance import provenance
from service.report import as_table, write_report

__all__ = ["evaluate", "run", "without_seen"]


def run(options: Namespace) -> None:
    """Evaluate as the command line says, write `options.out`, and print the table."""
    artifact = load_artifact(
        options.artifact, network_file=options.network, device=options.device, verify_key=options.verify_key
    )
    data = _unseen(artifact, options)
    names = [name.strip() for name in options.attacks.split(",")]
    evaluation = evaluate(
        artifact, data, names, epsilon=options.epsilon, seed=options.seed,
        workers=options.workers, cache=options.cache, device=options.device,
    )  # fmt: skip
    figures = write_report(options.out, evaluation)
    print(as_table(figures))
    print(f"report in {options.out / 'report.html'}")


def _unseen(artifact: Artifact, options: Namespace) -> ImageDataset:
    """The data set of the options, preprocessed as the artifact says, without the images that it has seen.

    Raises:
        InputError: images of another size or preprocessing, or none that is left.
    """
    recorded = artifact.preprocessing
    for name in ("resize", "crop"):
        if getattr(options, name) not in (None, getattr(recorded, name)):
            raise InputError(
                f"expected the artifact's --{name} {getattr(recorded, name)}, got {getattr(options, name)}"
            )
    request = DatasetRequest(
        root=options.data_root, download=options.download, resize=recorded.resize, crop=recorded.crop
    )
    data = load_dataset(options.dataset, request)
    if data.image_shape != artifact.spec.image_shape:
        raise InputError(f"expected images {artifact.spec.image_shape} for this artifact, got {data.image_shape}")
    return without_seen(artifact, data).limited(options.limit, options.seed)


def without_seen(artifact: Artifact, data: ImageDataset) -> ImageDataset:
    """The images that the artifact was neither fitted nor calibrated on, told by their pixels.

    Raises:
        InputError: there is none.
    """
    fresh = ~np.isin(digests(data), unpack(artifact.manifest["provenance"].get("originals", "")))
    if not fresh.all():
        say(f"{len(data) - fresh.sum()} of {len(data)} images were fitted or calibrated on and are left out")
    if not fresh.any():
        raise InputError(f"expected images that the artifact has not seen, got none in {data.name}; give others")
    return data.take(np.flatnonzero(fresh))


def evaluate(
    artifact: Artifact,
    data: ImageDataset,
    attacks: list[str],
    *,
    epsilon: str = "0.03",
    seed: int = 0,
    workers: int = 1,
    cache: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Natural and attacked images, judged.

    Args:
        data: images that the artifact was neither fitted nor calibrated on.
        attacks: their names; each is run on all the images.
        epsilon: budget in units of pixels in [0, 1], for the attacks that have one.

    Raises:
        InputError: images of another shape or classes; unknown attacks.
        AttackError: an attack failed or left its threat model.
    """
    pipeline, recorded = artifact.pipeline, artifact.manifest["provenance"]
    data = with_labels_of(data, pipeline.classes, len(pipeline.classes), "the artifact")
    fitted_on = _fitted_on(recorded)
    chosen = {name: attack_of(name, epsilon=epsilon, seed=seed) for name in attacks}

    def judged(name: str, images: Any, **more: Any) -> JudgedSet:
        features = extract_features(
            pipeline.network, images, discovery=pipeline.discovery, measure=pipeline.measure, device=device,
            progress=progress,
        )  # fmt: skip
        return _judged(name, artifact, data, features, **more)

    images = data.tensor()
    natural = judged("natural", images)
    attacked = []
    for name, attack in chosen.items():
        made = generate(
            pipeline.network, images, data.labels, attack,
            cache=cache, workers=workers, device=device, progress=progress,
        )  # fmt: skip
        attacked.append(
            judged(
                name,
                made.images,
                success=made.success,
                attack=made.summary(),
                seen=_budget(made.attack, made.parameters) in fitted_on,
            )
        )
    return Evaluation(
        natural=natural, attacked=tuple(attacked),
        threshold=pipeline.calibration.threshold, fpr=pipeline.calibration.fpr,
        branches=tuple(branch.name for branch in pipeline.discovery.branches),
        columns_per_block=pipeline.measure.columns_per_block, band=pipeline.band,
        calibrated_on=len(pipeline.calibration.scores), facts=_facts(artifact, data, seed),
    )  # fmt: skip


def _fitted_on(recorded: dict[str, Any]) -> set[tuple[object, ...]]:
    try:
        return {_budget(each["attack"], each["parameters"]) for each in recorded.get("attacks", [])}
    except (TypeError, KeyError, AttributeError) as exc:
        raise ArtifactError(
            "expected the attacks that the artifact was fitted on in its provenance; fit again"
        ) from exc


def _budget(name: str, parameters: dict[str, Any]) -> tuple[object, ...]:
    """What makes an attack a seen one: its name, norm and epsilon; more or fewer steps do not make it another."""
    return name, parameters.get("norm"), parameters.get("epsilon")


def _judged(name: str, artifact: Artifact, data: ImageDataset, features: Features, **more: Any) -> JudgedSet:
    detector, calibration = artifact.pipeline.detector, artifact.pipeline.calibration
    scores, votes = detector.judge(features)
    defaults: dict[str, Any] = {"success": None, "attack": None, "seen": None}
    return JudgedSet(
        name=name, originals=np.arange(len(data)), labels=data.labels, predicted=features.predicted, scores=scores,
        p_values=calibration.p_values(scores), flagged=calibration.flags(scores), votes=votes,
        statistics=features.statistics, **{**defaults, **more},
    )  # fmt: skip


def _facts(artifact: Artifact, data: ImageDataset, seed: int) -> dict[str, Any]:
    recorded = {key: value for key, value in artifact.manifest["provenance"].items() if key != "originals"}
    detector = artifact.pipeline.detector
    return {
        "artifact": artifact.digest,
        "network": recorded.get("network", artifact.spec.name),
        "detector": {"name": detector.name, "parameters": detector.parameters()},
        "dataset": {"name": label(data.name), "sha256": data.fingerprint(), "images": len(data), "seed": seed},
        "fitted": recorded,
        **provenance(),
    }
