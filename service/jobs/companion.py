"""The companion that `fit` trains: a ResNet-20 on the reference images, with a short recipe."""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from models.batching import network_cost
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.loading import LoadedNetwork, NetworkSpec, build_network
from models.objectives.base import build_objective
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.formatting import counted
from service.inputs import hold_out, label, say, view_of, with_labels_of
from service.requests.fit import FitOptions

__all__ = ["EPOCHS", "MIN_IMAGES", "train_companion"]

EPOCHS = 15
MIN_IMAGES = 2000  # with fewer, the companion is much less accurate than the network and detects few attacks

_MAX_SIDE = 64  # pixels; a ResNet-20 of larger images is slow and inaccurate
_HELD_OUT = 0.05


def train_companion(loaded: LoadedNetwork, reference: ImageDataset, options: FitOptions) -> LoadedNetwork:
    """A ResNet-20 of the network's classes, trained on the reference images; an interrupted training resumes.

    Args:
        loaded: the network.
        reference: labelled images, disjoint from those that the detector is fitted, calibrated and tested on.
        options: cache of the training's state, seed and device.

    Raises:
        InputError: too few images, or images that are too large.
    """
    spec, shape = loaded.spec, reference.image_shape
    if len(reference) < MIN_IMAGES:
        raise InputError(
            f"expected at least {MIN_IMAGES} images of --reference to train a companion on, got {len(reference)}; give "
            "more images, or a trained network with --companion NETWORK"
        )
    if max(shape[1:]) > _MAX_SIDE:
        raise InputError(
            f"expected images of at most {_MAX_SIDE} pixels to train a companion on, got {shape[2]}×{shape[1]}; give a "
            "trained network with --companion NETWORK"
        )
    data = with_labels_of(reference, loaded.classes, spec.num_classes, label(loaded.reference))
    data, held_out = hold_out(data, round(_HELD_OUT * len(data)), options.seed)
    side = min(shape[1:])
    recipe = Recipe(
        epochs=EPOCHS, learning_rate=0.2, sizes=(3 * side // 4, 3 * side // 4, side), seed=options.seed + 1,
        flip="flip" in (view_of(loaded) or ""),
    )  # fmt: skip
    own = NetworkSpec(
        "plumbline", "resnet20", {"num_classes": spec.num_classes}, spec.num_classes, shape, spec.mean, spec.std
    )
    torch.manual_seed(recipe.seed)
    network = build_network(own)
    seconds = network_cost(network.to(options.device), shape, device=options.device).gradient_seconds or 0.0
    minutes = EPOCHS * len(data) * seconds / 60
    took = counted(max(1, round(minutes)), "minute")
    say(f"training a companion: {counted(EPOCHS, 'epoch')} of {counted(len(data), 'image')}, about {took}")
    folder = options.cache or Path(tempfile.gettempdir())
    key = json.dumps([data.fingerprint(), asdict(recipe), own.to_json()], sort_keys=True)
    folder = folder / f"companion-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    train(network, data, build_objective("cross_entropy"), recipe, folder, device=options.device)
    trained = build_network(own)
    trained.load_state_dict(network.cpu().state_dict())
    right = accuracy(trained, held_out)
    say(
        f"the companion is right on {right:.1%} of {len(held_out)} held-out reference images, the network on "
        f"{accuracy(loaded.network, held_out, device=options.device):.1%}; a less accurate companion detects fewer "
        "attacks (docs/components.md)"
    )
    provenance = {
        "dataset": label(reference.name), "dataset_sha256": data.fingerprint(), "recipe": asdict(recipe),
        "test_images": len(held_out), "test_accuracy": right,
    }  # fmt: skip
    return LoadedNetwork(trained, own, "train", tuple(data.classes), provenance, trained=True)
