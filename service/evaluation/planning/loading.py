"""Load the network or artifact and the images that a request names."""

from collections.abc import Sequence
from dataclasses import replace

from detector.artifact import load_artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import ImageError, InputError
from models.loading import load_network
from service.evaluation.planning.images import without_seen
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.settings import EvaluationSettings
from service.inputs import dataset_request, distinct_images, label, load_companion, load_for_artifact
from service.requests.evaluate import EvaluationRequest

__all__ = ["load_inputs"]


def load_inputs(request: EvaluationRequest, settings: EvaluationSettings) -> EvaluationInputs:
    """Load everything that the request names.

    Args:
        request: names and paths.
        settings: of the same request.

    Raises:
        InputError: a name or path that cannot be loaded, images of another size, or options that have no effect.
        ArtifactError, NetworkError: see detector and models.
    """
    inputs = _with_network(request) if request.artifact is None else _with_artifact(request, settings)
    shape = inputs.data.image_shape
    wanted = dataset_request(request)
    outliers = {
        name: _images_of_size(reference, shape, wanted)
        for name, reference in _by_label([*request.ood, *request.fit_ood]).items()
    }
    if request.reference is None:
        return replace(inputs, outliers=outliers)
    reference = _images_of_size(request.reference, shape, replace(wanted, split="train"))
    return replace(inputs, outliers=outliers, reference=reference)


def _with_network(request: EvaluationRequest) -> EvaluationInputs:
    if request.network is None:
        raise InputError("give --network or --artifact; neither names what to evaluate")
    data = load_dataset(request.dataset, dataset_request(request, request.network))
    loaded = load_network(
        request.network, mean=request.mean, std=request.std, num_classes=len(data.classes), image_shape=data.image_shape
    )
    return EvaluationInputs(
        data=distinct_images(data).limited(request.limit, request.seed), network=loaded,
        companion=None if request.companion is None else load_companion(request.companion, loaded),
        trained_on=_trained_on(loaded.provenance, data),
    )  # fmt: skip


def _with_artifact(request: EvaluationRequest, settings: EvaluationSettings) -> EvaluationInputs:
    assert request.artifact is not None
    if request.mean is not None or request.std is not None:
        raise InputError("an artifact has its own normalisation; leave --mean and --std out")
    if request.companion is not None:
        raise InputError("an artifact contains its companion, if it has one; leave --companion out")
    artifact = load_artifact(
        request.artifact, network_file=request.network, device=request.device, verify_key=request.verify_key
    )
    data = load_for_artifact(request.dataset, request, artifact)
    trained_on = _trained_on(artifact.manifest["provenance"].get("trained"), data)
    data = distinct_images(data)
    if settings.fits_nothing:
        data = without_seen(artifact, data)
    return EvaluationInputs(data=data.limited(request.limit, request.seed), artifact=artifact, trained_on=trained_on)


def _trained_on(trained: object, data: ImageDataset) -> bool:
    """Whether the provenance of a training names these very images."""
    return isinstance(trained, dict) and trained.get("dataset_sha256") == data.fingerprint()


def _by_label(references: Sequence[str]) -> dict[str, str]:
    """Label → reference of each outlier set.

    Raises:
        InputError: two different references have one label.
    """
    by_label: dict[str, str] = {}
    for reference in references:
        if (other := by_label.setdefault(label(reference), reference)) != reference:
            raise InputError(
                f"the outlier sets {other} and {reference} would both be called {label(reference)}; rename one of the "
                "files or folders"
            )
    return by_label


def _images_of_size(reference: str, shape: tuple[int, int, int], request: DatasetRequest) -> ImageDataset:
    """The data set with images of this shape: as the request states, or else scaled and cropped to it."""
    try:
        data = load_dataset(reference, request)
        if data.image_shape == shape:
            return data
    except ImageError:
        pass  # images of different sizes form a data set only after scaling
    height, width = shape[1:]
    if height != width:
        raise InputError(
            f"expected images of {width}×{height} pixels from {reference}, got others, and only square images can be "
            "made from them"
        )
    return load_dataset(reference, replace(request, resize=height, crop=height))
