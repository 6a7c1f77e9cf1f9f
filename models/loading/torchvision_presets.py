"""Constructors and presets of torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from models.errors import UnknownNameError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "preset", "torchvision_constructor", "torchvision_size"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_constructor(name: str) -> Callable[..., nn.Module]:
    """The constructor of a torchvision classifier.

    Raises:
        UnknownNameError: no such classifier.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UnknownNameError(f"expected a torchvision classifier, got {name!r}; known: {', '.join(known)}")
    constructor: Callable[..., nn.Module] = models.get_model_builder(name)
    return constructor


def torchvision_size(reference: str) -> tuple[int | None, int | None]:
    """Resize and crop in pixels of torchvision's own weights; (None, None) for other references."""
    entry = preset(reference)
    if entry is None:
        return None, None
    transform = entry.transforms()
    return transform.resize_size[0], transform.crop_size[0]


def preset(reference: str) -> Any:
    """The weights of ``torchvision:NAME:WEIGHTS``; None if WEIGHTS is a file or absent, or for other references.

    Raises:
        UnknownNameError: torchvision has no such classifier or weights.
    """
    head, _, rest = reference.partition(":")
    name, _, weights = rest.partition(":")
    if head != "torchvision" or not weights.isidentifier():  # paths of weight files are none, except bare names
        return None
    from torchvision.models import get_model_weights

    torchvision_constructor(name)
    known = get_model_weights(name).__members__
    if weights not in known:
        if Path(weights).is_file():
            return None
        raise UnknownNameError(f"expected weights of {name}, got {weights!r}; known: {', '.join(known)}, or a file")
    return known[weights]
