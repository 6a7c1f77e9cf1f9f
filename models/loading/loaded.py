"""A loaded network with its specification, and the check of its logits."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from models.errors import NetworkError
from models.loading.build import frozen
from models.loading.specification import NetworkSpec
from models.normalization import Normalized

__all__ = ["LoadedNetwork", "checked", "with_shape"]


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in eval mode, without gradients on its parameters.

    Args:
        network: takes images in [0, 1].
        spec: how to build it again.
        reference: the reference that it was loaded from.
        classes: names of the classes, if the source states them.
        provenance: how it was trained, if known.
        trained: False if no weights were given.
    """

    network: Normalized
    spec: NetworkSpec
    reference: str
    classes: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    trained: bool = True


def checked(network: Normalized, spec: NetworkSpec, reference: str, *, trained: bool = True) -> LoadedNetwork:
    """The frozen network with the number of its logits, from one forward pass.

    Args:
        network: takes images in [0, 1].
        spec: its specification; `num_classes` is replaced.
        reference: the reference that it was loaded from.
        trained: whether it has trained weights.

    Raises:
        NetworkError: the forward pass fails, or returns other logits than requested.
    """
    frozen(network)
    logits = _logits_of_blank(network, spec.image_shape, reference)
    requested, got = spec.arguments.get("num_classes", logits.shape[1]), logits.shape[1]
    if requested != got:
        raise NetworkError(
            f"{reference}: expected {requested} logits, got {got}; use the parameter num_classes in the function, or "
            "remove it"
        )
    return LoadedNetwork(network, replace(spec, num_classes=logits.shape[1]), reference, trained=trained)


def with_shape(loaded: LoadedNetwork, image_shape: tuple[int, int, int] | None) -> LoadedNetwork:
    """The same network for images of another shape; None keeps its own.

    Raises:
        NetworkError: the forward pass fails for that shape.
    """
    if image_shape is None or image_shape == loaded.spec.image_shape:
        return loaded
    _logits_of_blank(loaded.network, image_shape, loaded.reference)
    return replace(loaded, spec=replace(loaded.spec, image_shape=image_shape))


def _logits_of_blank(network: Normalized, shape: tuple[int, int, int], reference: str) -> Tensor:
    try:
        with torch.inference_mode():
            logits = network(torch.full((2, *shape), 0.5))
    except Exception as exc:  # a user's network may raise anything
        raise NetworkError(
            f"{reference}: the forward pass failed for images of shape {shape} (channels, height, width): {exc}; "
            "pass the size that the network was made for"
        ) from exc
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NetworkError(f"{reference}: expected logits (B, K) with K ≥ 2 for B = 2 images, got {got}")
    return logits
