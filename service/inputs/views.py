"""The view that a network was trained to be invariant to, for detectors that compare two views of an image."""

from collections.abc import Mapping
from typing import Any

from models.errors import InputError
from models.images.views import View
from models.loading import LoadedNetwork, preset_size

__all__ = ["view_of", "view_of_artifact", "view_of_training"]


def view_of(loaded: LoadedNetwork) -> str | None:
    """The view that the network was trained to be invariant to; None if unknown.

    Torchvision's own weights are all trained with mirrored images.
    """
    if loaded.reference.startswith("torchvision:") and preset_size(loaded.reference) != (None, None):
        return "flip"
    return view_of_training(loaded.provenance)


def view_of_training(trained: object) -> str | None:
    """The view that a training's provenance implies: "flip", or else "shift1" after random crops.

    The provenance comes from a file; the view is None where it states neither, or has another structure.
    """
    recipe = trained.get("recipe") if isinstance(trained, Mapping) else None
    if not isinstance(recipe, Mapping):
        return None
    if recipe.get("flip") is True:
        return "flip"
    padding = recipe.get("crop_padding")
    return "shift1" if isinstance(padding, int) and not isinstance(padding, bool) and padding > 0 else None


def view_of_artifact(provenance: Mapping[str, Any]) -> str | None:
    """As `view_of`, of the network of an artifact: what `plumbline fit` recorded, or else the training implies."""
    recorded = provenance.get("view")
    try:
        return View.parse(recorded).name if isinstance(recorded, str) else view_of_training(provenance.get("trained"))
    except InputError:
        return None
