"""Arithmetic of the trainings of benchmarks/recipes/papers: operations of all epochs, counted without running them.

    python -m benchmarks training.recipe_cost

A training step costs three forward passes. Auxiliary classifiers and the passes of attacks are not counted, and a
module-wise training in sequence counts as if every epoch trained the whole network, so its figure is an upper bound.
"""

import tomllib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from benchmarks.common import arguments, write_result
from models.loading.network_options import parse_network_options
from models.registry import NETWORKS

__all__ = ["RECIPES", "cost"]

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "papers"
# Side in pixels, classes, and images to train on.
_SETS = {
    "mnist": (28, 10, 60_000), "cifar10": (32, 10, 50_000), "cifar100": (32, 100, 50_000), "stl10": (96, 10, 5_000),
    "tiny_imagenet": (64, 200, 100_000),
}  # fmt: skip
_PASSES = 3  # forward, and the gradients of inputs and weights


def cost(recipe: dict[str, Any]) -> dict[str, Any]:
    """Images, epochs, floating-point operations of one forward pass of one image, and of the whole training."""
    side, classes, images = _SETS[recipe["dataset"]]
    with torch.device("meta"):  # computes nothing
        network = _network(recipe["network"], classes).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, side, side))
    forward = counter.get_total_flops()
    total = _PASSES * forward * images * recipe["epochs"]
    return {"images": images, "epochs": recipe["epochs"], "forward": forward, "total": total}


def _network(reference: str, classes: int) -> nn.Module:
    name, *words = reference.split(":")
    if name == "torchvision":
        network: nn.Module = get_model(words[0], num_classes=classes)
        return network
    constructor = NETWORKS.load(name)
    built: nn.Module = constructor(num_classes=classes, **parse_network_options(name, constructor, words))
    return built


def main(argv: list[str] | None = None) -> None:
    """Count, and write the result."""
    options = arguments(__doc__).parse_args(argv)
    recipes = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(RECIPES.glob("*.toml"))}
    found = {name: cost(recipe["train"]) for name, recipe in recipes.items()}
    payload = {"n": len(found), "seed": options.seed, "unit": "floating-point operations", "recipes": found}
    print(write_result("recipe_cost", payload, options.out))


if __name__ == "__main__":
    main()
