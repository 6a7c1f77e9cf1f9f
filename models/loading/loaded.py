"""A loaded network with its specification, and the check of its logits."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from models.errors import NetworkError
from models.loading.build import frozen
from models.loading.first_pass import first_logits, runs_for
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
        notes: sentences for the user about the choices made.
    """

    network: Normalized
    spec: NetworkSpec
    reference: str
    classes: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    trained: bool = True
    notes: tuple[str, ...] = ()


def checked(network: Normalized, spec: NetworkSpec, reference: str, *, trained: bool = True) -> LoadedNetwork:
    """The frozen network in float32 with the number of its logits, from one forward pass.

    Args:
        network: takes images in [0, 1].
        spec: its specification; `num_classes` is replaced, and `grey` if the network takes one channel only.
        reference: the reference that it was loaded from.
        trained: whether it has trained weights.

    Raises:
        NetworkError: the forward pass fails, or returns other logits than requested.
    """
    notes = [f"{reference}: weights in {name} are converted to float32" for name in _other_precisions(network)]
    frozen(network)
    try:
        logits, structure = first_logits(network, spec.image_shape, reference)
    except NetworkError:
        grey = frozen(Normalized(network.network, spec.mean, spec.std, grey=True))
        if runs_for(network, spec.image_shape) or not runs_for(grey, spec.image_shape):
            raise
        network = grey
        logits, structure = first_logits(network, spec.image_shape, reference)
        notes.append(f"{reference}: the network takes one channel; it gets the luma 0.299 R + 0.587 G + 0.114 B")
    if structure is not None:
        notes.append(f"{reference}: the network returns {structure}; its logits are used")
    requested, got = spec.arguments.get("num_classes", logits.shape[1]), logits.shape[1]
    if requested != got:
        raise NetworkError(
            f"{reference}: expected {requested} logits, got {got}; use the parameter num_classes in the function, or "
            "remove it"
        )
    spec = replace(spec, num_classes=logits.shape[1], grey=network.grey)
    return LoadedNetwork(network, spec, reference, trained=trained, notes=tuple(notes))


def with_shape(loaded: LoadedNetwork, image_shape: tuple[int, int, int] | None) -> LoadedNetwork:
    """The same network for images of another shape; None keeps its own.

    Raises:
        NetworkError: the forward pass fails for that shape.
    """
    if image_shape is None or image_shape == loaded.spec.image_shape:
        return loaded
    first_logits(loaded.network, image_shape, loaded.reference)
    return replace(loaded, spec=replace(loaded.spec, image_shape=image_shape))


def _other_precisions(network: Normalized) -> list[str]:
    """The floating-point types of weights and buffers that are not float32."""
    tensors = (*network.parameters(), *network.buffers())
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} - {torch.float32}
    return sorted(str(dtype).removeprefix("torch.") for dtype in types)
