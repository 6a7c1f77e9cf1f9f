"""Weights of the classification head with and without least action: figures 35 and 36 of the thesis.

    python -m benchmarks training.head_weights --use cifar10=npz:cifar10-train.npz --threads 1

A vanilla ResNet-9 of one representation and one with least action have the same initial weights, images and order.
The result has the histogram of the weights of both fully connected layers; the picture is in docs/images.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.common import arguments, write_result
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.files import write_atomically
from models.normalization import Normalized
from models.objectives.base import build_objective
from models.registry import NETWORKS
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.inputs import hold_out
from service.report.figures.svg import as_png

__all__ = ["draw", "run"]

IMAGE = Path(__file__).resolve().parents[2] / "docs" / "images" / "head-weights.png"
OBJECTIVES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("cross_entropy", {}),
    "least action": ("least_action", {"initial_weight": 0.1, "increase": 0.1, "update_every": 50}),
}
_TESTED = 1000
_BINS = 60


def run(data: ImageDataset, test: ImageDataset, *, epochs: int, seed: int, filters: int) -> list[dict[str, Any]]:
    """An entry per objective: test accuracy, and the weights of both layers, as JSON values.

    Args:
        data, test: images to train and to test on.
        epochs: of each training.
        seed: of weights and order.
        filters: channels of the embeddings.
    """
    found = []
    for name, (objective, options) in OBJECTIVES.items():
        torch.manual_seed(seed)
        inner = NETWORKS.load("one_representation_resnet9")(num_classes=len(data.classes), filters=filters)
        network = Normalized(inner, (0.5,) * 3, (0.25,) * 3)
        # As table 2 in training.small_sets: the thesis's appendix F.1.
        recipe = Recipe(
            epochs=epochs, batch_size=min(100, len(data)), learning_rate=0.01, schedule="constant", nesterov=False,
            weight_decay=1e-4, initialization="orthogonal", gain=0.01, precision="float32", seed=seed,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            train(network, data, build_objective(objective, options), recipe, Path(folder))
        layers = [layer for layer in inner.head if isinstance(layer, nn.Linear)]
        entry = {"objective": name, "accuracy": accuracy(network, test), "layers": [_weights(each) for each in layers]}
        found.append(entry)
    return found


def _weights(layer: nn.Linear) -> dict[str, Any]:
    weights = layer.weight.detach().double().flatten().numpy()
    counts, edges = np.histogram(weights, bins=_BINS)
    return {
        "shape": list(layer.weight.shape),
        "mean_absolute": float(np.abs(weights).mean()),
        "standard_deviation": float(weights.std()),
        "counts": counts.tolist(),
        "edges": [round(float(edge), 6) for edge in edges],
    }


def draw(networks: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Histograms of the weights, a column per layer, the networks above each other."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots(len(networks), 2, sharex="col", squeeze=False)
    for row, network in zip(axes, networks, strict=True):
        for number, (axis, layer) in enumerate(zip(row, network["layers"], strict=True), start=1):
            axis.stairs(layer["counts"], layer["edges"], fill=True)
            axis.set_title(f"{network['objective']}, layer {number}", fontsize="medium")
            axis.set_ylabel("weights")
    for axis in axes[-1]:
        axis.set_xlabel("value")
        axis.locator_params(axis="x", nbins=5)
    write_atomically(path, as_png(figure))


def main(argv: list[str] | None = None) -> None:
    """Train both networks, write the result and draw the picture."""
    parser = arguments(__doc__)
    parser.add_argument("--use", action="append", default=[], metavar="NAME=REFERENCE")
    parser.add_argument("--images", type=int, default=5000, help="to train on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--filters", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--image", type=Path, default=IMAGE, help="default: in docs/images")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    reference = dict(pair.split("=", 1) for pair in options.use).get("cifar10", "cifar10")
    pool = load_dataset(reference, DatasetRequest(split="train", root=options.data_root))
    pool, test = hold_out(pool, _TESTED, options.seed)
    data = pool.limited(options.images, options.seed)
    networks = run(data, test, epochs=options.epochs, seed=options.seed, filters=options.filters)
    payload = {
        "n": len(test), "seed": options.seed, "images": len(data), "epochs": options.epochs,
        "filters": options.filters, "networks": networks,
    }  # fmt: skip
    print(write_result("head_weights", payload, options.out))
    draw(networks, options.image)


if __name__ == "__main__":
    main()
