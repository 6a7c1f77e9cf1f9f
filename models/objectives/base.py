"""The base class of training objectives: from a network and a labelled batch to a loss."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.errors import InputError
from models.loading import NetworkSpec
from models.normalization import Normalized
from models.options import check_number
from models.registry import OBJECTIVES

__all__ = ["Finished", "Objective", "ObjectiveValue", "backward", "build_objective", "check_label_smoothing"]

_NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class ObjectiveValue(NamedTuple):
    """The loss of one batch.

    Args:
        loss: scalar, differentiable.
        logits: ``(B, K)``, for the accuracy during training.
        measures: further scalars by name, without a graph; their means over an epoch are logged.
    """

    loss: Tensor
    logits: Tensor
    measures: Mapping[str, Tensor] = _NOTHING


class Finished(NamedTuple):
    """The result of a training run.

    Args:
        network, spec: the network to store, and its specification.
        provenance: further JSON values for the checkpoint.
        summary: lines for the terminal.
    """

    network: Normalized
    spec: NetworkSpec
    provenance: Mapping[str, Any] = _NOTHING
    summary: tuple[str, ...] = ()


class Objective(ABC):
    """A loss for `models.training.loop.train`; a subclass writes `evaluate` and, if it has state, the state methods.

    Public attributes are the objective's options, which identify a run. State goes into attributes that begin with an
    underscore. One object serves one run.

    Attributes:
        held_out: share of the training images that are reserved for a choice after training.
    """

    held_out: float = 0.0

    def options(self) -> dict[str, Any]:
        """The public attributes that are numbers, text or None."""
        kinds = bool | int | float | str | None
        return {k: value for k, value in vars(self).items() if not k.startswith("_") and isinstance(value, kinds)}

    def prepare(self, network: nn.Module, image_shape: tuple[int, int, int], epochs: int) -> None:  # noqa: B027
        """Called once at the start of a run.

        Args:
            network: on its device.
            image_shape: (3, H, W) of the images.
            epochs: of the whole run.
        """

    def parameters(self) -> Sequence[nn.Parameter]:
        """Parameters to train besides those of the network, such as auxiliary classifiers; after `prepare`."""
        return ()

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027  most objectives are the same in every epoch
        """Called before the epoch of that number, from 0; also when a run continues."""

    @abstractmethod
    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """The loss of images ``(B, 3, H, W)`` in [0, 1] with labels ``(B,)``; runs the forward pass itself."""

    def accumulate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """`evaluate`, followed by the backward pass; the graph is freed.

        An objective that needs no graph of the whole network overrides it.
        """
        value = self.evaluate(network, images, labels)
        backward(value.loss)
        return value

    def after_step(self, value: ObjectiveValue) -> None:  # noqa: B027  most objectives have no state
        """Called after each optimiser step, for objectives with multipliers."""

    def finish(
        self, network: Normalized, spec: NetworkSpec, held_out: ImageDataset | None, test: ImageDataset
    ) -> Finished:
        """The network to store after training.

        Args:
            network: the trained network.
            spec: its specification.
            held_out: the reserved training images; None without `held_out`.
            test: for reporting only, never for a choice.
        """
        return Finished(network, spec)

    def state(self) -> dict[str, Any]:
        """JSON values for `load_state` when a run continues."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027  most objectives have no state
        """Restore the values of `state`."""

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name for `load_tensors` when a run continues; after `prepare`."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027  most objectives have none
        """Restore the tensors of `tensors`."""


def backward(loss: Tensor) -> None:
    """Add the loss's gradients to those of the parameters, outside of mixed precision.

    The forward pass may be in mixed precision; the backward pass uses the same types.
    """
    kind = loss.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        loss.backward()  # type: ignore[no-untyped-call]


def build_objective(
    name: str, options: Mapping[str, Any] | None = None, *, where_accepted: Mapping[str, Any] | None = None
) -> Objective:
    """The objective of that name with these options.

    Args:
        name: of the objective, such as "least_action".
        options: constructor arguments.
        where_accepted: the same, but ignored if the objective has no such option.

    Raises:
        UnknownNameError: no such objective.
        InputError: an option that the objective does not have, or a value outside its domain.
    """
    kind: type[Objective] = OBJECTIVES.load(name)
    known = list(inspect.signature(kind).parameters)
    given = {option: value for option, value in (where_accepted or {}).items() if option in known} | dict(options or {})
    if unknown := sorted(set(given) - set(known)):
        raise InputError(
            f"expected options of the objective {name}, which are {', '.join(known) or 'none'}, "
            f"got {', '.join(unknown)}"
        )
    return kind(**given)


def check_label_smoothing(share: float) -> float:
    """The share of the target that is spread evenly over all classes, if it is in [0, 1).

    Raises:
        InputError: it is not.
    """
    if check_number("label_smoothing", share, least=0) >= 1:
        raise InputError(f"expected label_smoothing below 1, got {share}")
    return float(share)
