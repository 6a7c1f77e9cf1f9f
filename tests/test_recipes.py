"""Recipes of the papers: `plumbline train` accepts each, and each builds its network and its objective."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from models.loading import load_network
from models.loading.network_options import NETWORK_OPTIONS, parse_network_options
from models.registry import NETWORKS
from service.cli.main import main
from service.inputs import objective_of
from service.jobs.train import recipe_of
from tests.service.cli.command_line import request_of

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "recipes" / "papers"
RECIPES = sorted(FOLDER.glob("*.toml"))
COMMITTED = FOLDER.parents[2] / "models" / "pretrained"
SETS = {"mnist": (28, 10), "cifar10": (32, 10), "cifar100": (32, 100), "stl10": (96, 10), "tiny_imagenet": (64, 200)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds_its_network_and_its_objective(path: Path) -> None:
    options = request_of("train", "--recipe", path, "--out", "X")
    size, classes = SETS[options.dataset]
    recipe = recipe_of(options)
    assert recipe.momentum == 0.9
    assert recipe.initialization != "default"
    assert options.objective.startswith(objective_of(options.objective, {}).__class__.__module__.split(".")[-1])
    head, *words = options.network.split(":")
    # The meta device computes nothing, so that large networks are cheap.
    with torch.device("meta"):
        if head == "torchvision":
            network = get_model(*words, num_classes=classes)
        else:
            constructor = NETWORKS.load(head)
            network = constructor(num_classes=classes, **parse_network_options(head, constructor, words))
        assert network.eval()(torch.empty(2, 3, size, size)).shape == (2, classes)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_its_source_and_every_option(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "thesis" in text.partition("[train]")[0]
    words = tomllib.loads(text)["train"]
    needed = {"network", "dataset", "objective", "epochs", "batch-size", "learning-rate", "schedule", "weight-decay"}
    assert needed <= set(words)


def test_every_network_of_the_papers_has_a_recipe() -> None:
    networks = {tomllib.loads(path.read_text(encoding="utf-8"))["train"]["network"].split(":")[0] for path in RECIPES}
    assert networks == {
        "one_representation_resnet9", "one_representation_resnet20", "resnet110", "resnext50", "wide_resnet28_10",
        "shallow_resnet10", "shallow_resnet14", "torchvision",
    }  # fmt: skip


def test_the_recipe_on_the_page_is_the_one_of_its_command() -> None:
    page = (FOLDER.parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (file,) = re.findall(r"benchmarks/recipes/papers/([\w-]+\.toml)", page)
    assert tomllib.loads(block) == tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))


def test_network_options_on_the_page_are_complete() -> None:
    page = (FOLDER.parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    table = page.partition("## Networks")[2].partition("## Objectives")[0]
    assert set(re.findall(r"^\| `(\w+)=", table, flags=re.MULTILINE)) == set(NETWORK_OPTIONS)


@pytest.mark.parametrize("path", sorted(FOLDER.parent.glob("*resnet*/*.toml")), ids=lambda path: path.stem)
def test_recipes_of_committed_networks_are_accepted(path: Path) -> None:
    options = request_of("train", "--recipe", path, "--out", "X")
    assert recipe_of(options).precision == "bfloat16"
    assert options.half
    source, _, name = options.network.rpartition(":")
    assert (COMMITTED / name).is_dir() if source == "pretrained" else name in NETWORKS.names()
    objective_of(options.objective, {})


@pytest.mark.parametrize("name", ["mnist-resnet9", "mnist-20-1-parallel"])
def test_small_recipes_run_on_random_images(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    classes = np.array([str(digit) for digit in range(10)])
    for split in ("train", "test"):
        images = rng.integers(0, 256, (8, 28, 28), dtype=np.uint8)
        np.savez(tmp_path / f"{split}.npz", x=images, y=np.arange(8), classes=classes)
    words = ["train", "--recipe", str(FOLDER / f"{name}.toml"), "--epochs", "1", "--batch-size", "4"]
    words += ["--dataset", f"npz:{tmp_path / 'train.npz'}", "--test-dataset", f"npz:{tmp_path / 'test.npz'}"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert load_network(str(tmp_path / "run")).spec.image_shape == (3, 28, 28)
