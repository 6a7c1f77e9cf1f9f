"""`plumbline evaluate`: a network or an artifact, images, attacks and outliers → an evaluation → a report."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.artifact import Artifact, load_artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.loading.references import LoadedNetwork, load_network, preset_size
from models.residuals import StatisticsSpec, discover
from service.cli.evaluation_options import images_of_size, published, request_of, settings_of
from service.evaluation.artifact import threats_fitted_on
from service.evaluation.protocols import default_split
from service.evaluation.records import Evaluation
from service.evaluation.running import run_evaluation
from service.evaluation.sets import Subject
from service.evaluation.settings import EvaluationSettings
from service.inputs import label, network_name, say, view_of, view_of_artifact, with_labels_of
from service.provenance import provenance
from service.report import as_table, write_evaluation_report
from service.report.beside_paper import chosen_rows, read_published
from service.report.outliers import plain_name
from service.seen_images import digests, unpack

__all__ = ["evaluate", "run", "without_seen"]


def run(options: Namespace) -> None:
    """Evaluate as the command line says, write `options.out`, and print the table."""
    settings = settings_of(options)
    if options.published is not None and options.beside_paper is None:
        raise InputError(f"expected --beside-paper with --published {options.published}, got none; add it")
    beside_paper = published(options.beside_paper)
    if beside_paper is not None:  # what would only be found when the report is written is looked at before
        chosen_rows(read_published(beside_paper), label(options.dataset), options.published)
    artifact, loaded, data, trained_on = _subject(options, settings)
    shape = data.image_shape
    request = request_of(options, options.resize, options.crop)
    outliers = _outliers(options, shape, request)
    reference = None
    if options.reference is not None:
        reference = images_of_size(options.reference, shape, replace(request, split="train"))
    evaluation = evaluate(
        data, settings, loaded=loaded, artifact=artifact, outliers=outliers, reference=reference, trained_on=trained_on
    )
    figures = write_evaluation_report(
        options.out, evaluation, seed=options.seed, resamples=options.resamples, per_image_csv=options.csv,
        beside_paper=beside_paper, published=options.published, progress=True,
    )  # fmt: skip
    print(as_table(figures))
    print(f"report in {options.out / 'report.html'}")


def evaluate(
    data: ImageDataset,
    settings: EvaluationSettings,
    *,
    loaded: LoadedNetwork | None = None,
    artifact: Artifact | None = None,
    outliers: Mapping[str, ImageDataset] | None = None,
    reference: ImageDataset | None = None,
    trained_on: bool = False,
    progress: bool = True,
    on_step: Callable[[str], None] | None = None,
) -> Evaluation:
    """The evaluation of a network or of an artifact's network on these images.

    An artifact without `detectors` and `fit_on` in the settings is judged alone, on all images that it has not seen;
    with them its result stands beside those of the detectors that the evaluation fits.

    Args:
        data: natural images; those that the artifact has seen are left out of its own result.
        outliers: label → data set, those of `settings.fit_ood` among them, in the size of `data`.
        reference: natural images, none of them in `data`, for detectors that compare with others.
        trained_on: whether the network is known to have learnt from these images, which the report then warns of.
        on_step: told the name of each step once it is done.

    Raises:
        InputError: images, options or names that cannot be used, before any attack runs.
        AttackError, NetworkError, ArtifactError: see attacks, models and detector.
    """
    alone = artifact is not None and settings.artifact_only()
    if alone and settings.protocol == "paper":
        raise InputError(
            "expected --protocol sound for an artifact, which has its threshold, got paper; give --fit-on too"
        )
    if alone and settings.split is not None:
        raise InputError(
            f"expected no --split for an artifact that is judged alone, got {settings.split}; leave it out"
        )
    judged, unseen = artifact, None
    if artifact is not None:
        if settings.fpr is None:
            settings = replace(settings, fpr=artifact.pipeline.calibration.fpr)
        threats_fitted_on(artifact.manifest["provenance"])
        subject = _of_artifact(artifact, settings.device)
        data = _distinct(with_labels_of(data, subject.classes, len(subject.classes), "the artifact"))
        data = without_seen(artifact, data) if alone else data
        unseen = np.flatnonzero(_fresh(artifact, data))
        if not len(unseen):
            say("the artifact has seen all of these images; no result of its own is made")
            judged = None
    elif loaded is not None:
        data = _distinct(with_labels_of(data, loaded.classes, loaded.spec.num_classes, label(loaded.reference)))
        subject = _of_network(loaded, data, settings.device)
    else:
        raise InputError("expected a network or an artifact to evaluate, got neither; give --network or --artifact")
    if reference is not None:
        reference = _apart(with_labels_of(reference, data.classes, len(data.classes), "the reference"), data)
    outliers = _apart_from_each_other(outliers or {}, data, settings.fit_ood)
    facts = {**_facts(data, settings, loaded, artifact, outliers, reference, alone), "trained_on": trained_on}
    return run_evaluation(
        subject, data, settings, outliers=outliers, reference=reference, artifact=judged, unseen=unseen, alone=alone,
        provenance=facts, progress=progress, on_step=on_step,
    )  # fmt: skip


def without_seen(artifact: Artifact, data: ImageDataset) -> ImageDataset:
    """The images that the artifact was neither fitted nor calibrated on, told by their pixels.

    Raises:
        InputError: there is none.
    """
    fresh = _fresh(artifact, data)
    if not fresh.all():
        say(f"{len(data) - fresh.sum()} of {len(data)} images were fitted or calibrated on and are left out")
    if not fresh.any():
        raise InputError(f"expected images that the artifact has not seen, got none in {data.name}; give others")
    return data.take(np.flatnonzero(fresh))


def _fresh(artifact: Artifact, data: ImageDataset) -> NDArray[np.bool_]:
    return ~np.isin(digests(data), unpack(artifact.manifest["provenance"].get("originals", "")))


def _subject(
    options: Namespace, settings: EvaluationSettings
) -> tuple[Artifact | None, LoadedNetwork | None, ImageDataset, bool]:
    """What the command line names: an artifact or a network, the images to judge, and whether it learnt from them."""
    if options.artifact is None:
        if options.network is None:
            raise InputError("expected --network or --artifact, got neither; name what to evaluate")
        resize, crop = options.resize, options.crop
        if resize is None and crop is None:
            resize, crop = preset_size(options.network)
        data = load_dataset(options.dataset, request_of(options, resize, crop))
        loaded = load_network(
            options.network, mean=options.mean, std=options.std, num_classes=len(data.classes),
            image_shape=data.image_shape,
        )  # fmt: skip
        return None, loaded, data.limited(options.limit, options.seed), _learnt_from(loaded.provenance, data)
    artifact = load_artifact(
        options.artifact, network_file=options.network, device=options.device, verify_key=options.verify_key
    )
    recorded = artifact.preprocessing
    for name in ("resize", "crop"):
        if getattr(options, name) not in (None, getattr(recorded, name)):
            raise InputError(
                f"expected the artifact's --{name} {getattr(recorded, name)}, got {getattr(options, name)}"
            )
    data = load_dataset(options.dataset, request_of(options, recorded.resize, recorded.crop))
    if data.image_shape != artifact.spec.image_shape:
        raise InputError(f"expected images {artifact.spec.image_shape} for this artifact, got {data.image_shape}")
    trained_on = _learnt_from(artifact.manifest["provenance"].get("trained"), data)
    if settings.artifact_only():
        data = without_seen(artifact, data)
    return artifact, None, data.limited(options.limit, options.seed), trained_on


def _learnt_from(trained: object, data: ImageDataset) -> bool:
    """Whether what is recorded of a network's training names these very images."""
    return isinstance(trained, dict) and trained.get("dataset_sha256") == data.fingerprint()


def _of_artifact(artifact: Artifact, device: str) -> Subject:
    pipeline = artifact.pipeline
    return Subject(
        pipeline.network, pipeline.discovery, pipeline.statistics_spec, pipeline.image_shape, pipeline.classes, device,
        view_of_artifact(artifact.manifest["provenance"]),
    )  # fmt: skip


def _of_network(loaded: LoadedNetwork, data: ImageDataset, device: str) -> Subject:
    network = loaded.network.to(device)
    discovery = discover(network, data.image_shape)
    return Subject(network, discovery, StatisticsSpec(), data.image_shape, data.classes, device, view_of(loaded))


def _outliers(options: Namespace, shape: tuple[int, int, int], request: DatasetRequest) -> dict[str, ImageDataset]:
    """Label → images of the network's size.

    Raises:
        InputError: two different references would carry one label.
    """
    references = dict.fromkeys([*options.ood, *options.fit_ood])
    by_label: dict[str, str] = {}
    for reference in references:
        if (other := by_label.setdefault(label(reference), reference)) != reference:
            raise InputError(
                f"expected outlier sets of different names, got {other} and {reference}, which would both be called "
                f"{label(reference)}; rename one of the files or folders"
            )
    return {name: images_of_size(reference, shape, request) for name, reference in by_label.items()}


def _apart_from_each_other(
    outliers: Mapping[str, ImageDataset], data: ImageDataset, fit_ood: Sequence[str]
) -> dict[str, ImageDataset]:
    """The outliers without images that are among the natural ones or in a set that is fitted on, told by their pixels.

    Raises:
        InputError: nothing is left of a set.
    """
    taken, found = digests(data), {name: _distinct(images) for name, images in outliers.items()}
    own = plain_name(data.name)
    for name in found:
        if name == label(data.name) or (own and plain_name(name) == own):
            raise InputError(f"expected outliers from another data set than {label(data.name)}, got {name}")
    for name in [*(each for each in found if each in fit_ood), *(each for each in found if each not in fit_ood)]:
        mine = digests(found[name])
        fresh = ~np.isin(mine, taken)
        if not fresh.any():
            raise InputError(
                f"expected outliers in {name} that are neither natural images nor in a set to fit on, got none"
            )
        if not fresh.all():
            say(f"{len(fresh) - fresh.sum()} of {len(fresh)} images of {name} are in another set and are left out")
            found[name] = found[name].take(np.flatnonzero(fresh))
        if name in fit_ood:
            taken = np.union1d(taken, mine)
    return found


def _distinct(data: ImageDataset) -> ImageDataset:
    """The images without copies of others, which would be in two parts of a split at once."""
    _, first = np.unique(digests(data), return_index=True)
    if len(first) == len(data):
        return data
    say(f"{len(data) - len(first)} of {len(data)} images of {data.name} are copies of others and are left out")
    return data.take(np.sort(first))


def _apart(reference: ImageDataset, data: ImageDataset) -> ImageDataset:
    overlap = np.intersect1d(digests(reference), digests(data)).size
    if overlap:
        raise InputError(
            f"expected other images in the reference {label(reference.name)} than those to judge, got {overlap} in "
            "both; an image that is compared with itself always looks natural"
        )
    return reference


def _facts(
    data: ImageDataset,
    settings: EvaluationSettings,
    loaded: LoadedNetwork | None,
    artifact: Artifact | None,
    outliers: Mapping[str, ImageDataset],
    reference: ImageDataset | None,
    alone: bool,
) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(settings).items() if name not in ("cache", "device", "workers")}
    if alone:  # all unseen images are judged, once
        kept |= {"runs": 1, "split": None}
    facts: dict[str, Any] = {
        "dataset": {**_told(data), "seed": settings.seed},
        "outliers": {name: {**_told(images), "most_used": len(data)} for name, images in outliers.items()},
        "reference": None if reference is None else {**_told(reference), "most_used": settings.reference_limit},
        "split": None if alone else settings.split or default_split(settings.protocol),
        "settings": kept,
        **provenance(),
    }
    if artifact is not None:
        recorded = {key: value for key, value in artifact.manifest["provenance"].items() if key != "originals"}
        detector = artifact.pipeline.detector
        return {
            "artifact": artifact.digest,
            "network": recorded.get("network", artifact.spec.name),
            "detector": {"name": detector.name, "parameters": detector.parameters()},
            "fitted": recorded,
            **facts,
        }
    assert loaded is not None
    return {"network": network_name(loaded), "trained": loaded.provenance, **facts}


def _told(data: ImageDataset) -> dict[str, Any]:
    return {"name": label(data.name), "sha256": data.fingerprint(), "images": len(data)}
