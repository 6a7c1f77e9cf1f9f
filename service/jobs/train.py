"""`plumbline train`: a network, a data set, an objective and a recipe → a checkpoint folder."""

import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError, NetworkError
from models.files import write_atomically
from models.loading import NetworkSpec, build_network, load_network, rounded_to_half, save_checkpoint
from models.normalization import Normalized
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.inputs import label, objective_of
from service.inputs.seen_images import image_digests
from service.provenance import provenance

__all__ = ["recipe_of", "run"]

# Mirrored digits are other digits, or none.
_NOT_TO_BE_FLIPPED = frozenset({"digits", "mnist", "svhn"})


def run(options: Namespace) -> None:
    """Train and write `options.out`: network.safetensors, network.json and log.jsonl."""
    objective = objective_of(options.objective, {"label_smoothing": options.label_smoothing})
    if options.label_smoothing and objective.options().get("label_smoothing") != options.label_smoothing:
        raise InputError(
            f"expected --label-smoothing with an objective that has it and does not say otherwise itself, got "
            f"{options.label_smoothing:g} beside {options.objective}; leave one out, or give --label-smoothing 0"
        )
    request = DatasetRequest(
        root=options.data_root, download=options.download, resize=options.resize, crop=options.crop, split="train"
    )
    data = load_dataset(options.dataset, request).limited(options.limit, options.seed)
    test = load_dataset(options.test_dataset or options.dataset, replace(request, split="test"))
    if test.classes != data.classes or test.image_shape != data.image_shape:
        raise InputError(
            f"expected test images like the training ones, {data.image_shape} in {len(data.classes)} classes; got "
            f"{test.image_shape} in {len(test.classes)}"
        )
    overlap = np.intersect1d(image_digests(test), image_digests(data)).size
    if overlap > len(test) / 2:
        raise InputError(
            f"expected test images that are not trained on, got {overlap} of {len(test)} that are; give --test-dataset "
            "or an images:FOLDER with train/ and test/ in it"
        )
    data, held_out = _held_out(data, objective.held_out, options.seed)
    mean, std = options.mean or _channel_mean(data), options.std or _channel_std(data)
    torch.manual_seed(options.seed)
    loaded = load_network(
        options.network, mean=mean, std=std, num_classes=len(data.classes), image_shape=data.image_shape
    )
    if loaded.spec.num_classes != len(data.classes):
        raise InputError(
            f"expected a network of {len(data.classes)} logits for {data.name}, got {loaded.spec.num_classes}; give "
            "its function a parameter num_classes, or choose another network"
        )
    recipe = recipe_of(options)
    out = Path(options.out)
    rows = train(
        loaded.network, data, objective, recipe, out, test=test, device=options.device, described=loaded.spec.to_json()
    )
    finished = objective.finish(loaded.network, loaded.spec, held_out, test)
    # What is judged and written is what whoever loads the checkpoint will have.
    network = _rebuilt(finished.network.cpu(), finished.spec, options.network)
    if options.half:
        rounded_to_half(network)
    test_accuracy = accuracy(network, test)
    facts = {
        "network": label(options.network), "dataset": label(options.dataset), "dataset_sha256": data.fingerprint(),
        "training_images": len(data), **({"held_out_images": len(held_out)} if held_out else {}), **finished.provenance,
        "objective": {"name": options.objective.partition(":")[0], **objective.options()}, "recipe": asdict(recipe),
        "test_images": len(test), "test_accuracy": test_accuracy, "seconds": sum(row["seconds"] for row in rows),
        **provenance(),
    }  # fmt: skip
    save_checkpoint(out, network, finished.spec, data.classes, facts, half=options.half)
    write_atomically(out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    for line in finished.summary:
        tqdm.write(line)
    tqdm.write(f"test accuracy {test_accuracy:.2%} on {len(test)} images; checkpoint in {out}")


def recipe_of(options: Namespace) -> Recipe:
    """The recipe that the words of the command line ask for.

    Raises:
        InputError: a value out of its range, or one that does nothing beside another.
    """
    flip = options.flip if options.flip is not None else options.dataset.partition(":")[0] not in _NOT_TO_BE_FLIPPED
    return Recipe(
        epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate,
        schedule=options.schedule, milestones=options.milestones, decay=options.decay, optimizer=options.optimizer,
        momentum=options.momentum, nesterov=options.nesterov, weight_decay=options.weight_decay,
        gradient_clipping=options.gradient_clipping, initialization=options.initialization, gain=options.gain,
        crop_padding=options.crop_padding, flip=flip, precision=options.precision, seed=options.seed,
    )  # fmt: skip


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
            f"expected {reference} to be built again as it was trained, but its weights do not fit: {exc}; the "
            "function must give the same network each time it is called"
        ) from exc
    return rebuilt


def _held_out(data: ImageDataset, share: float, seed: int) -> tuple[ImageDataset, ImageDataset | None]:
    """The images to train on, and a random share of at least one that is kept for the objective to choose by."""
    if not share:
        return data, None
    order = np.random.default_rng(seed).permutation(len(data))
    count = max(1, round(share * len(data)))
    return data.take(np.sort(order[count:])), data.take(np.sort(order[:count]))


def _channel_mean(data: ImageDataset) -> list[float]:
    return [round(float(data.images[:, c].mean()) / 255, 4) for c in range(3)]


def _channel_std(data: ImageDataset) -> list[float]:
    return [round(max(float(data.images[:, c].std()) / 255, 1e-3), 4) for c in range(3)]
