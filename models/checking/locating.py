"""The module in which two passes begin to differ, and its functions that draw random numbers."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.checking.passes import forward, precise_copy, relative_difference
from models.normalization import Normalized
from models.residuals import module_hooks
from models.residuals.tracing.structures import tensors_in

__all__ = ["Location", "first_difference", "random_functions"]

_SAMPLE = 2**14  # values that are compared of a tensor
_TOLERANCE, _PRECISE_TOLERANCE = 1e-3, 1e-6  # of intermediate results


@dataclass(frozen=True)
class Location:
    """A call of a module.

    Args:
        module: dotted name inside the user's network; "" for the network itself.
        kind: name of its class.
        functions: functions in its own `forward` that drew random numbers.
        training: whether the module was in training mode after the pass.
        layer: the module.
    """

    module: str
    kind: str
    functions: tuple[str, ...]
    training: bool
    layer: nn.Module = field(repr=False)

    def __str__(self) -> str:
        where = f"{self.module} ({self.kind})" if self.module else f"the network's own forward ({self.kind})"
        own = self.functions and not type(self.layer).__module__.startswith("torch.nn")
        return f"{' and '.join(self.functions)} in {where}" if own else where


@dataclass
class _Call:
    """A finished call of a module: some of its values."""

    name: str
    inputs: list[Tensor | None]
    outputs: list[Tensor | None] = field(default_factory=list)
    functions: dict[str, None] = field(default_factory=dict)
    training: bool = False


def first_difference(network: nn.Module, one: Tensor, other: Tensor | None = None) -> Location | None:
    """The innermost module with equal inputs and different outputs in two passes; None if no such module is seen.

    The passes run in double precision if possible, so that rounding errors do not matter.

    Args:
        network: any network.
        one: a batch ``(B, 3, H, W)``.
        other: another batch, of any size, with the same first image, of which the passes are compared; None to compare
            two passes of the whole batch `one`.
    """
    for candidate, tolerance in ((precise_copy(network), _PRECISE_TOLERANCE), (network, _TOLERANCE)):
        if candidate is None:
            continue
        with suppress(Exception):  # a copy may fail in any way, and so may a network for one of the batches
            if other is None:
                return _located(candidate, _calls(candidate, one, 1), _calls(candidate, one, 1), tolerance)
            calls = _calls(candidate, one, len(one)), _calls(candidate, other, len(other))
            return _located(candidate, *calls, tolerance)
    return None


def random_functions(network: nn.Module, images: Tensor) -> list[Location]:
    """The calls of modules that draw random numbers in evaluation mode."""
    with suppress(Exception):  # a user's network may refuse tensors with hooks on their functions
        return [_location(network, call) for call in _calls(network, images, 1) if call.functions]
    return []


def _located(network: nn.Module, ones: list[_Call], others: list[_Call], tolerance: float) -> Location | None:
    for one, other in zip(ones, others, strict=False):
        if one.name != other.name:
            return None
        if _same(one.inputs, other.inputs, tolerance) and _same(one.outputs, other.outputs, tolerance) is False:
            return _location(network, one)
    return None


def _location(network: nn.Module, call: _Call) -> Location:
    layer, name = network.get_submodule(call.name), call.name
    if isinstance(network, Normalized):  # names as in the user's own network
        layer = network.network if layer is network else layer
        name = name.removeprefix("network").removeprefix(".")
    return Location(name, type(layer).__name__, tuple(call.functions), call.training, layer)


def _same(ones: list[Tensor | None], others: list[Tensor | None], tolerance: float) -> bool | None:
    """Whether all tensors are the same; None if one cannot be compared."""
    if len(ones) != len(others):
        return None
    same: bool | None = True
    for one, other in zip(ones, others, strict=True):
        if one is None or other is None or one.shape != other.shape:
            same = None
        elif relative_difference(one, other) > tolerance:
            return False
    return same


def _calls(network: nn.Module, images: Tensor, batch: int) -> list[_Call]:
    """The calls of all modules in one pass, in the order in which they end, with values of one in `batch` images."""
    recorder = _CallRecorder(network, batch)
    with module_hooks(recorder.hooks()), recorder:
        forward(network, images)
    return recorder.calls


class _CallRecorder(TorchFunctionMode):
    """Records the calls of a network's modules, and their functions that draw random numbers."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._open: list[_Call] = []
        self._network = network
        self._batch = batch

    def hooks(self) -> Iterator[Any]:
        for name, module in self._network.named_modules():
            yield module, self._entered(name), self._left(module)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = _random_states()
        result = func(*args, **(kwargs or {}))
        if self._open and not all(map(torch.equal, before, _random_states())):
            self._open[-1].functions[getattr(func, "__name__", str(func))] = None
        return result

    def _entered(self, name: str) -> Any:
        def note(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            with torch._C.DisableTorchFunction():
                self._open.append(_Call(name, self._of_first_image((args, dict(kwargs)))))

        return note

    def _left(self, module: nn.Module) -> Any:
        def note(output: Any) -> None:
            with torch._C.DisableTorchFunction():
                call = self._open.pop()
                call.outputs, call.training = self._of_first_image(output), module.training
                self.calls.append(call)

        return note

    def _of_first_image(self, structure: Any) -> list[Tensor | None]:
        return [_of_first_image(tensor, self._batch) for _, tensor in tensors_in(structure)]


def _of_first_image(tensor: Tensor, batch: int) -> Tensor | None:
    """Some values of the first image, at the same places whatever the batch; None without a batch axis.

    The batch axis is first, as in ``(B, C, H, W)`` or, for windows or patches, ``(B·n, …)``; or it is the second one.
    """
    shape = tensor.shape
    if tensor.ndim and shape[0] == batch:
        own = tensor[0]
    elif tensor.ndim > 1 and shape[1] == batch:
        own = tensor[:, 0]
    elif tensor.ndim and shape[0] % batch == 0:
        own = tensor[: shape[0] // batch]
    else:
        return None
    values = own.detach().reshape(-1)
    return values[:: -(-len(values) // _SAMPLE) or 1].cpu().clone()


def _random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]
