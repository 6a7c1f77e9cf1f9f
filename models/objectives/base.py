"""What a training objective is: from a network and a labelled batch to the number that is minimised."""

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
    """What one batch costs.

    Args:
        loss: scalar, differentiable.
        logits: ``(B, K)``, for the accuracy shown while training.
        measures: further scalars to be averaged over the epoch and logged, by name, without a graph.
    """

    loss: Tensor
    logits: Tensor
    measures: Mapping[str, Tensor] = _NOTHING


class Finished(NamedTuple):
    """What a run leaves behind.

    Args:
        network, spec: what is to be kept, and how to build it again.
        facts: further JSON values for the checkpoint's provenance.
        summary: lines for a person.
    """

    network: Normalized
    spec: NetworkSpec
    facts: Mapping[str, Any] = _NOTHING
    summary: tuple[str, ...] = ()


class Objective(ABC):
    """What `models.training.loop.train` minimises; a new one writes `evaluate` and, if it learns on the way, its state.

    Public attributes are the objective's options, by which a run is known again; what it learns goes into attributes
    that begin with an underscore. One object serves one run.

    An objective that chooses something after training asks for images to choose by: `held_out` is the share of the
    training images that are kept out of training for that.
    """

    held_out: float = 0.0

    def options(self) -> dict[str, Any]:
        """The public attributes that are numbers, text or None: what the objective was made with."""
        kinds = bool | int | float | str | None
        return {k: value for k, value in vars(self).items() if not k.startswith("_") and isinstance(value, kinds)}

    def prepare(self, network: nn.Module, image_shape: tuple[int, int, int], epochs: int) -> None:  # noqa: B027
        """Called once, before anything of the run: the network on its device, the images' (3, H, W), all epochs."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained besides the network's own parameters, such as auxiliary classifiers; after `prepare`."""
        return ()

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027  most objectives are the same in every epoch
        """Called before the epoch of that number, from 0; also the first time after a resumption."""

    @abstractmethod
    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """The loss of images ``(B, 3, H, W)`` in [0, 1] with labels ``(B,)``; runs the forward pass itself."""

    def accumulate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """`evaluate`, with the loss's gradients added to the parameters' own; the graph is freed.

        An objective that never holds the whole network's graph writes its own.
        """
        value = self.evaluate(network, images, labels)
        backward(value.loss)
        return value

    def after_step(self, value: ObjectiveValue) -> None:  # noqa: B027  most objectives learn nothing
        """Called after each optimiser step, for objectives with multipliers of their own."""

    def finish(
        self, network: Normalized, spec: NetworkSpec, held_out: ImageDataset | None, test: ImageDataset
    ) -> Finished:
        """What is kept of the trained network; the test images are for telling, never for choosing."""
        return Finished(network, spec)

    def state(self) -> dict[str, Any]:
        """JSON values that a resumed run needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027  most objectives learn nothing
        """Take back what `state` gave."""

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs, by name; after `prepare`."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027  most objectives hold none
        """Take back what `tensors` gave."""


def backward(loss: Tensor) -> None:
    """Adds the loss's gradients to the parameters' own, outside of mixed precision.

    The forward pass may be in mixed precision; the backward pass takes its types from there.
    """
    kind = loss.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        loss.backward()  # type: ignore[no-untyped-call]


def build_objective(
    name: str, options: Mapping[str, Any] | None = None, *, where_accepted: Mapping[str, Any] | None = None
) -> Objective:
    """The objective of that name with these options: the edge where names and numbers from outside become an object.

    Args:
        name: of the plug-in, such as "least_action".
        options: constructor arguments.
        where_accepted: the same, but left out where the objective has no such option.

    Raises:
        UnknownNameError: no such objective.
        InputError: an option that the objective does not have, or a value that it refuses.
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
    """The share of the target that is spread evenly over all classes, in [0, 1).

    Raises:
        InputError: it is not.
    """
    if check_number("label_smoothing", share, least=0) >= 1:
        raise InputError(f"expected label_smoothing below 1, got {share}")
    return float(share)
