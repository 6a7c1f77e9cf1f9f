"""Tracing of a forward pass on one small batch.

The network runs for real. A function mode sees every torch function and hooks see every module, so control flow,
functional layers, lambdas and in-place operations are traced as they happen, and nothing has to be symbolic.

How it works: every tensor of the pass stays alive until the end, so ``id(tensor)`` identifies it. Each id is mapped to
the tensor's present value. A torch function makes one call; each tensor that it returns or changes gets a new value,
which depends on that call and on everything that its arguments depend on. If a function changes memory, every other
view of that memory gets a new value too.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.residuals.hooks import module_hooks
from models.residuals.tracing.structures import FunctionTally, Path, tensors_in
from models.residuals.tracing.trace import Call, Frame, ModuleEvent, Trace, Value

__all__ = ["Tracer", "trace"]

# Functions whose result has the shape of an image-dependent tensor but none of its content; and "new_zeros" and so on.
_CONTENT_FREE = (
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "randint_like",
    "new_",
)


class Tracer(TorchFunctionMode):
    """Fills a `Trace` while it is the active function mode."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.trace = Trace(batch)
        self._time = 0
        self._value_of: dict[int, int] = {}
        self._alive: dict[int, Tensor] = {}  # keeps every tensor, since the id of a freed one is used again
        self._by_storage: dict[int, list[int]] = defaultdict(list)
        self._frame: Frame | None = None
        self.trace.kinds = {name: type(module) for name, module in network.named_modules()}
        for parameter in (*network.parameters(), *network.buffers()):
            self._new_value(parameter, image=False, weights=True, calls=0, maker=None)

    # --- modules

    def entered(self, name: str) -> Callable[[tuple[Any, ...], Mapping[str, Any]], None]:
        """The hook for the start of a module's calls."""

        def note(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            with torch._C.DisableTorchFunction():
                if self._frame is None:  # the images enter at the first module
                    for _, tensor in tensors_in((args, dict(kwargs))):
                        self._new_value(tensor, image=True, weights=False, calls=0, maker=None)
                inputs = tuple((path, self._value(tensor)) for path, tensor in tensors_in((args, dict(kwargs))))
                self._frame = Frame(name, self.trace.module_calls[name], inputs, self._frame, FunctionTally())
                self.trace.module_calls[name] += 1
                self._add_events("input", inputs)

        return note

    def left(self, name: str, module: nn.Module) -> Callable[[Any], None]:
        """The hook for the end of a module's calls."""
        parameters = list(module.parameters())
        nature = (any(map(_mixing, parameters)), bool(parameters), sum(p.numel() for p in parameters))

        def note(output: Any) -> None:
            frame = self._frame
            assert frame is not None, "a module ends that did not begin"
            assert frame.module == name, "modules end in the reverse order"
            if output is not None:
                with torch._C.DisableTorchFunction():
                    tensors = list(tensors_in(output))
                    if any(self._is_unseen(tensor) for _, tensor in tensors):
                        self._opaque(frame, tensors, nature)
                    outputs = tuple((path, self._value(tensor)) for path, tensor in tensors)
                    self._add_events("output", outputs)
                    shapes = (self._main_shape(frame.inputs), self._main_shape(outputs))
                    self.trace.shapes.setdefault(name, shapes)
            self._frame = frame.parent

        return note

    def _main_shape(self, places: Sequence[tuple[Path, int]]) -> tuple[int, ...] | None:
        return next((self.trace.values[value].shape[1:] for _, value in places if self.trace.values[value].image), None)

    def _add_events(self, kind: Literal["output", "input"], places: Sequence[tuple[Path, int]]) -> None:
        assert self._frame is not None
        self._time += 1
        for path, value in places:
            if self.trace.values[value].image:
                self.trace.events.append(ModuleEvent(self._time, kind, self._frame, path, value))

    # --- functions

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        keywords: dict[str, Any] = kwargs or {}
        if self._frame is None:
            return func(*args, **keywords)
        given = list(tensors_in((tuple(args), keywords)))
        versions = [_version(tensor) for _, tensor in given]
        ordinal = self._count(func, args, keywords)
        result = func(*args, **keywords)
        with torch._C.DisableTorchFunction():
            written = [tensor for (_, tensor), old in zip(given, versions, strict=True) if _version(tensor) != old]
            self._add_call(func, given, written, result, -1 if ordinal is None else ordinal, keywords)
        return result

    def _count(self, func: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> int | None:
        """The call's number in the innermost running module; the call is counted in every running module."""
        assert self._frame is not None
        with torch._C.DisableTorchFunction():
            ordinal = self._frame.counts.count(_name(func), args, keywords)
            outer = self._frame.parent
            while outer is not None:
                outer.counts.count(_name(func), args, keywords)
                outer = outer.parent
        return ordinal

    def _add_call(
        self,
        func: Callable[..., Any],
        given: list[tuple[Path, Tensor]],
        written: list[Tensor],
        result: Any,
        ordinal: int,
        keywords: dict[str, Any],
    ) -> None:
        assert self._frame is not None
        self._time += 1
        arguments = tuple((path, self._value(tensor)) for path, tensor in given)
        fresh: list[tuple[Path, Tensor]] = []
        for path, tensor in tensors_in(result):
            if any(tensor is other for other in written) or id(tensor) not in self._value_of:
                fresh.append((path, tensor))
            elif any(tensor is other for _, other in given):
                self.trace.untouched[self._value_of[id(tensor)]].append(self._time)
        shown = {id(tensor) for _, tensor in fresh}
        fresh += [(("written", index), tensor) for index, tensor in enumerate(written) if id(tensor) not in shown]
        if not fresh:
            return
        constants = {key: value for key, value in keywords.items() if not isinstance(value, Tensor)}
        call = Call(
            len(self.trace.calls), self._time, _name(func), self._frame, ordinal, arguments, constants=constants
        )
        self.trace.calls.append(call)
        sources = [self.trace.values[value] for _, value in arguments]
        weights = [source for source in sources if source.weights]
        call.mixes = any(sum(size > 1 for size in source.shape) > 1 and source.floating for source in weights)
        call.parametric = bool(weights)
        call.parameters = sum(math.prod(source.shape) for source in weights)
        self._add_results(call, [value for _, value in arguments], fresh, written)

    def _add_results(
        self, call: Call, parents: Sequence[int], fresh: Sequence[tuple[Path, Tensor]], written: Sequence[Tensor]
    ) -> None:
        """Add values for the tensors that a call made or changed, and for every other view of changed memory."""
        sources = [self.trace.values[value] for value in parents]
        image = any(source.image for source in sources) and not call.function.startswith(_CONTENT_FREE)
        calls = 1 << call.index
        for source in sources:
            calls |= source.calls if source.image else 0
            if source.image and (not source.users or source.users[-1] is not call):
                source.users.append(call)
        weights = not image and any(source.weights for source in sources)
        views = {
            view: self._alive[view]
            for tensor in written
            for view in self._by_storage.get(_storage(tensor), [])
            if all(view != id(other) for _, other in fresh)
        }
        for tensor in written:
            self.trace.changed[_storage(tensor)].append(self._time)
        call.results = tuple(
            (path, self._new_value(tensor, image=image, weights=weights, calls=calls if image else 0, maker=call))
            for path, tensor in fresh
        )
        for view, tensor in views.items():
            old = self.trace.values[self._value_of[view]]
            self._new_value(
                tensor,
                image=image or old.image,
                weights=(weights or old.weights) and not (image or old.image),
                calls=calls | old.calls if image or old.image else 0,
                maker=call,
            )

    def _opaque(self, frame: Frame, tensors: Sequence[tuple[Path, Tensor]], nature: tuple[bool, bool, int]) -> None:
        """Add one call for code in which torch functions are not visible (scripted modules, autograd functions)."""
        self._time += 1
        parents = [value for _, value in frame.inputs]
        call = Call(len(self.trace.calls), self._time, "opaque", frame, -1, frame.inputs, {})
        call.mixes, call.parametric, call.parameters = nature
        self.trace.calls.append(call)
        self._add_results(call, parents, [(path, tensor) for path, tensor in tensors if self._is_unseen(tensor)], ())

    # --- values

    def _is_unseen(self, tensor: Tensor) -> bool:
        return id(tensor) not in self._value_of and tensor.dim() > 0 and tensor.shape[0] == self.trace.batch

    def _value(self, tensor: Tensor) -> int:
        if id(tensor) not in self._value_of:
            if self._frame is not None and self._is_unseen(tensor):
                self._opaque(self._frame, [((), tensor)], (False, False, 0))
            else:
                self._new_value(tensor, image=False, weights=False, calls=0, maker=None)
        return self._value_of[id(tensor)]

    def _new_value(self, tensor: Tensor, *, image: bool, weights: bool, calls: int, maker: Call | None) -> int:
        storage = _storage(tensor)
        self.trace.values.append(
            Value(tuple(tensor.shape), tensor.is_floating_point(), image, weights, calls, maker, storage)
        )
        self._value_of[id(tensor)] = len(self.trace.values) - 1
        if id(tensor) not in self._alive:
            self._alive[id(tensor)] = tensor
            if storage:
                self._by_storage[storage].append(id(tensor))
        return len(self.trace.values) - 1

    def value_of(self, tensor: Tensor) -> int | None:
        """The tensor's present value; None for an unknown tensor."""
        return self._value_of.get(id(tensor))


def trace(network: nn.Module, images: Tensor) -> Trace:
    """The trace of ``network(images)``; exceptions of the forward pass propagate."""
    tracer = Tracer(network, len(images))
    modules = dict(network.named_modules())
    inner = [name for name, module in modules.items() if not isinstance(module, torch.jit.ScriptModule)]
    # A scripted module gets hooks as a whole: its own modules run outside Python.
    scripted = [name for name in modules if name not in inner and name.rpartition(".")[0] in inner]
    hooks = [(modules[name], tracer.entered(name), tracer.left(name, modules[name])) for name in (*inner, *scripted)]
    with module_hooks(hooks), torch.inference_mode(False), torch.no_grad(), tracer:
        network(images)
    return tracer.trace


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", func))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int:
    """An address that all views of one memory share; 0 for tensors without such memory."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return 0
    return tensor.untyped_storage().data_ptr()


def _mixing(parameter: Tensor) -> bool:
    """Whether a parameter has two axes or more, as those of convolutions and matrix products have."""
    return sum(size > 1 for size in parameter.shape) > 1
