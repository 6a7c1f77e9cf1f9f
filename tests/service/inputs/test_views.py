"""The view of a network: the augmentation of its training, to which it is invariant."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from models.loading import LoadedNetwork, build_network, load_network, save_checkpoint
from models.training.recipe import Recipe
from service.inputs import view_of, view_of_artifact, view_of_training
from tests.tiny_artifact import SPEC


def test_mirroring_comes_before_a_shift_and_a_shift_before_nothing() -> None:
    for recipe, view in (
        (Recipe(flip=True, crop_padding=4), "flip"),
        (Recipe(flip=True, crop_padding=0), "flip"),
        (Recipe(flip=False, crop_padding=2), "shift1"),
        (Recipe(flip=False, crop_padding=0), None),
    ):
        assert view_of_training({"recipe": asdict(recipe)}) == view


@pytest.mark.parametrize(
    "trained",
    [None, {}, [], "recipe", {"recipe": None}, {"recipe": []}, {"recipe": "flip"}, {"recipe": {}},
     {"recipe": {"flip": "no"}}, {"recipe": {"flip": 1}}, {"recipe": {"flip": ["yes"], "crop_padding": None}},
     {"recipe": {"crop_padding": "4"}}, {"recipe": {"crop_padding": -1}}, {"recipe": {"crop_padding": True}},
     {"recipe": {"crop_padding": [4]}}, {"recipe": {"crop_padding": 2.5}}],
)  # fmt: skip
def test_a_malformed_recipe_gives_no_view(trained: Any) -> None:
    assert view_of_training(trained) is None


@pytest.mark.parametrize(
    ("provenance", "view"),
    [({"view": "flip", "trained": None}, "flip"), ({"view": "flip+shift2"}, "flip+shift2"),
     ({"view": "shift1", "trained": {"recipe": {"flip": True}}}, "shift1"),
     ({"view": None, "trained": {"recipe": {"flip": True}}}, "flip"), ({"trained": {"recipe": {"flip": True}}}, "flip"),
     ({}, None), ({"view": "upside down"}, None), ({"view": ["flip"]}, None), ({"view": True}, None)],
)  # fmt: skip
def test_an_artifact_has_the_view_of_its_fit(provenance: dict[str, Any], view: str | None) -> None:
    assert view_of_artifact(provenance) == view


def loaded_after(recipe: Recipe, folder: Path) -> LoadedNetwork:
    """A network loaded from a checkpoint with a provenance of its training."""
    classes = tuple(map(str, range(SPEC.num_classes)))
    save_checkpoint(folder, build_network(SPEC), SPEC, classes, {"recipe": asdict(recipe)})
    return load_network(str(folder))


@pytest.mark.parametrize(("flip", "view"), [(True, "flip"), (False, "shift1")])
def test_the_view_follows_from_the_checkpoint(tmp_path: Path, flip: bool, view: str) -> None:
    assert view_of(loaded_after(Recipe(flip=flip, crop_padding=4), tmp_path)) == view


@pytest.mark.parametrize(
    ("reference", "view"),
    [("torchvision:resnet18:IMAGENET1K_V1", "flip"), ("torchvision:resnet18", None),
     ("torchvision:resnet18:weights.safetensors", None), ("plumbline:resnet8", None)],
)  # fmt: skip
def test_of_other_weights_only_torchvisions_own_are_known(reference: str, view: str | None) -> None:
    network: nn.Module = build_network(SPEC)
    loaded = LoadedNetwork(network=network, spec=SPEC, reference=reference)  # type: ignore[arg-type]
    assert view_of(loaded) == view
    assert view_of(replace(loaded, provenance={"recipe": "lost"})) == view
