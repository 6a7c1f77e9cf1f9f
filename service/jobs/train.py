"""`plumbline train`: a network, a data set, an objective and a recipe → a checkpoint folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch

from models.checking import check_network
from models.datasets.base import ImageDataset, load_dataset
from models.datasets.contents import image_digests
from models.errors import InputError, NetworkError
from models.files import write_atomically
from models.loading import (
    LoadedNetwork,
    NetworkSpec,
    build_network,
    load_network,
    rounded_to_half,
    save_checkpoint,
)
from models.normalization import Normalized
from models.objectives.base import Objective
from models.training.depth import AdaptiveDepth, DepthRule
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.inputs import dataset_request, depth_rule_of, hold_out, label, objective_of, say, with_labels_of
from service.provenance import provenance
from service.requests.train import TrainRequest

__all__ = ["TrainResult", "recipe_of", "train_network"]

# A mirrored digit is another digit, or not a digit.
_NOT_TO_BE_FLIPPED = frozenset({"digits", "mnist", "svhn"})


@dataclass(frozen=True)
class TrainResult:
    """Results of a training run.

    Args:
        summary: lines of the objective's own results, for people.
        test_accuracy: of the written network, in [0, 1].
        test_images: their number.
    """

    summary: Sequence[str]
    test_accuracy: float
    test_images: int


def train_network(request: TrainRequest) -> TrainResult:
    """Train and write ``request.out``: network.safetensors, network.json and log.jsonl.

    Raises:
        InputError: images or options that cannot be used.
        NetworkError: a network that cannot be built again from its description.
    """
    objective = _objective(request)
    rule = None if request.adapt_depth is None else depth_rule_of(request.adapt_depth)
    data, test = _load(request)
    data, held_out = _held_out(data, max(objective.held_out, rule.held_out if rule else 0), request.seed)
    loaded = _network(request, data)
    depth = _adaptive_depth(rule, loaded, held_out) if rule else None
    _warn_of_unusable(loaded, data)
    recipe = recipe_of(request)
    rows = train(
        loaded.network, data, objective, recipe, request.out, test=test, test_every=request.test_every,
        device=request.device, described=loaded.spec.to_json(), depth=depth,
    )  # fmt: skip
    spec = depth.specification(loaded.spec) if depth else loaded.spec
    finished = objective.finish(loaded.network, spec, held_out, test)
    # Test and write the network that a later load builds.
    network = _rebuilt(finished.network.cpu(), finished.spec, request.network)
    if request.half:
        rounded_to_half(network)
    test_accuracy = accuracy(network, test)
    written = {
        "network": label(request.network), "dataset": label(request.dataset), "dataset_sha256": data.fingerprint(),
        "training_images": len(data), "skipped": dict(data.skipped),
        **({"continues": loaded.provenance} if loaded.provenance else {}),
        **({"held_out_images": len(held_out)} if held_out else {}), **finished.provenance,
        "objective": {"name": request.objective.partition(":")[0], **objective.options()}, "recipe": asdict(recipe),
        **({"depth": {**depth.options(), "history": depth.history}} if depth else {}),
        "test_images": len(test), "test_accuracy": test_accuracy, "seconds": sum(row["seconds"] for row in rows),
        **provenance(),
    }  # fmt: skip
    save_checkpoint(request.out, network, finished.spec, data.classes, written, half=request.half)
    write_atomically(request.out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return TrainResult(finished.summary, test_accuracy, len(test))


def _warn_of_unusable(loaded: LoadedNetwork, data: ImageDataset) -> None:
    """Warn of faults that `fit` and `evaluate` refuse; such a network can still be trained."""
    for result in check_network(loaded.network, data.tensor(slice(0, 6))):
        if result.status != "pass":
            refused = ". `fit` and `evaluate` refuse such a network" if result.status == "fail" else ""
            say(f"warning: {result.message}{refused}")


def recipe_of(request: TrainRequest) -> Recipe:
    """The recipe of a request.

    Raises:
        InputError: a value outside its range, or one that has no effect beside another.
    """
    flip = request.flip if request.flip is not None else request.dataset.partition(":")[0] not in _NOT_TO_BE_FLIPPED
    given = {field.name: getattr(request, field.name) for field in fields(Recipe) if field.name != "flip"}
    return Recipe(**given, flip=flip)


def _objective(request: TrainRequest) -> Objective:
    objective = objective_of(request.objective, {"label_smoothing": request.label_smoothing})
    if request.label_smoothing and objective.options().get("label_smoothing") != request.label_smoothing:
        raise InputError(
            f"--label-smoothing {request.label_smoothing:g} has no effect beside --objective {request.objective}; "
            "leave one out, or give --label-smoothing 0"
        )
    return objective


def _load(request: TrainRequest) -> tuple[ImageDataset, ImageDataset]:
    """Training and test images, which do not overlap."""
    wanted = replace(dataset_request(request), split="train")
    data = load_dataset(request.dataset, wanted).limited(request.limit, request.seed)
    test = load_dataset(request.test_dataset or request.dataset, replace(wanted, split="test"))
    if not set(test.classes) <= set(data.classes) or test.image_shape != data.image_shape:
        raise InputError(
            f"expected test images like the training images, {data.image_shape} in {len(data.classes)} classes; got "
            f"{test.image_shape} in {len(test.classes)}"
        )
    test = with_labels_of(test, data.classes, len(data.classes), "the training images")
    fresh = np.flatnonzero(~np.isin(image_digests(test), image_digests(data)))
    overlap = len(test) - len(fresh)
    if overlap > len(test) / 2:
        raise InputError(
            f"{overlap} of {len(test)} test images are training images; give --test-dataset or an images:FOLDER with "
            "train/ and test/ in it"
        )
    if overlap:
        say(f"{overlap} of {len(test)} test images are training images and are left out of the test")
    return data, test.take(fresh)


def _network(request: TrainRequest, data: ImageDataset) -> LoadedNetwork:
    torch.manual_seed(request.seed)
    loaded = load_network(
        request.network,
        mean=request.mean,
        std=request.std,
        defaults=(_channel_mean(data), _channel_std(data)),
        num_classes=len(data.classes),
        exact_classes=True,
        image_shape=data.image_shape,
    )
    if loaded.spec.num_classes != len(data.classes):
        raise InputError(
            f"expected a network of {len(data.classes)} logits for {data.name}, got {loaded.spec.num_classes}; give "
            "its function a parameter num_classes, or choose another network"
        )
    return loaded


def _adaptive_depth(rule: DepthRule, loaded: LoadedNetwork, held_out: ImageDataset | None) -> AdaptiveDepth:
    """The changes of the run; a network from a file has no option that records its step sizes."""
    assert held_out is not None, "a rule reserves images"
    if loaded.spec.source != "plumbline":
        raise InputError(
            f"the depth of {loaded.reference} cannot adapt; use --network runge_kutta, or omit --adapt-depth"
        )
    return AdaptiveDepth(rule, loaded.network, held_out)


def _rebuilt(network: Normalized, spec: NetworkSpec, reference: str) -> Normalized:
    """The network as its specification builds it, with these weights.

    Raises:
        InputError: it comes from a file that was changed since.
        NetworkError: the specification builds another network, so that no checkpoint of this one could be loaded.
    """
    rebuilt = build_network(spec, network_file=reference if spec.source == "file" else None)
    try:
        rebuilt.load_state_dict(network.state_dict(), strict=True)
    except RuntimeError as exc:
        raise NetworkError(
            f"{reference} cannot be built again: the trained weights do not fit: {exc}; the function must return the "
            "same network in every call"
        ) from exc
    return rebuilt


def _held_out(data: ImageDataset, share: float, seed: int) -> tuple[ImageDataset, ImageDataset | None]:
    """The images to train on, and a random share of at least one that is kept for the objective to choose by."""
    if not share:
        return data, None
    return hold_out(data, max(1, round(share * len(data))), seed)


def _channel_mean(data: ImageDataset) -> list[float]:
    return [round(float(data.images[:, c].mean()) / 255, 4) for c in range(3)]


def _channel_std(data: ImageDataset) -> list[float]:
    return [round(max(float(data.images[:, c].std()) / 255, 1e-3), 4) for c in range(3)]
