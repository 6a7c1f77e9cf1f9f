"""A network's forward pass on one small batch, written down as values, calls and modules.

The pass is run for real: every torch function is seen by a function mode, every module by hooks. So control flow,
functional layers, lambdas and in-place operations are all traced as they happen, and nothing needs to be symbolic.
A *value* is what a tensor holds between two changes: an in-place operation gives the same tensor a new value.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.residuals.hooks import watching

__all__ = ["Call", "Frame", "FunctionTally", "Path", "CapturePoint", "Trace", "at_path", "trace"]

Path = tuple[int | str, ...]

# Results that take their shape from an image-dependent tensor, but none of its contents.
_CONTENT_FREE = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like")


@dataclass(frozen=True)
class CapturePoint:
    """Where a value can be picked up in another forward pass.

    Args:
        kind: "output" or "input" of a module, or "call": at a torch function called inside a module.
        module: dotted name; the network itself is "".
        turn: which of the module's calls in one forward pass, from 0.
        path: where the tensor is in the module's output, in its ``(args, kwargs)``, or in the function's.
        function, ordinal: for "call", the function's name and which of its calls inside the module, from 0.
        result: for "call", take the function's result, not an argument.
        overwritten: the tensor is changed in place later in the pass, so whoever keeps it has to copy it.
    """

    kind: Literal["output", "input", "call"]
    module: str
    turn: int
    path: Path
    function: str = ""
    ordinal: int = 0
    result: bool = False
    overwritten: bool = False


@dataclass(frozen=True)
class Frame:
    """One pass through one module."""

    module: str
    turn: int
    inputs: tuple[tuple[Path, int], ...]
    parent: "Frame | None"
    counts: "FunctionTally"


@dataclass
class Call:
    """One call of a torch function (or of something that torch functions cannot see into)."""

    index: int
    time: int
    function: str
    frame: Frame
    ordinal: int
    arguments: tuple[tuple[Path, int], ...]
    constants: dict[str, Any]
    results: tuple[tuple[Path, int], ...] = ()
    mixes: bool = False
    parametric: bool = False
    parameters: int = 0


@dataclass
class Value:
    """What a tensor held at one time. `calls` is the set of calls it came from, as bits."""

    shape: tuple[int, ...]
    floating: bool
    image: bool
    learnt: bool
    calls: int
    maker: Call | None
    storage: int
    users: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class ModuleEvent:
    """A value seen at a module's door."""

    time: int
    kind: Literal["output", "input"]
    frame: Frame
    path: Path
    value: int


class FunctionTally:
    """Counts calls by function name: how a call is found again in another pass."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)

    def count(self, function: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> int | None:
        """This call's number among those of its name; None where it is not counted.

        Only calls whose first argument is a floating tensor of two axes or more are: bookkeeping (batch normalisation
        counts its batches in training mode) would shift the numbers between modes.
        """
        first = args[0] if args else keywords.get("input")
        if not isinstance(first, Tensor) or first.dim() < 2 or not first.is_floating_point():
            return None
        ordinal = self._counts[function]
        self._counts[function] = ordinal + 1
        return ordinal


def tensors_in(structure: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in nested tuples, lists and dictionaries, with its path."""
    if isinstance(structure, Tensor):
        yield path, structure
    elif isinstance(structure, (tuple, list)):
        for index, item in enumerate(structure):
            yield from tensors_in(item, (*path, index))
    elif isinstance(structure, Mapping):
        for key, item in structure.items():
            yield from tensors_in(item, (*path, key))


def at_path(structure: Any, path: Path) -> Any:
    """What `tensors_in` found at that path, or None where the structure is now another."""
    for step in path:
        try:
            structure = structure[step]
        except (LookupError, TypeError):
            return None
    return structure


class Trace:
    """Values, calls and module events of one forward pass, in execution order.

    Args:
        batch: how many images were in the pass.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.events: list[ModuleEvent] = []
        self.untouched: dict[int, list[int]] = defaultdict(list)  # value → times a function returned it unchanged
        self.changed: dict[int, list[int]] = defaultdict(list)  # storage → times it was changed in place
        self.shapes: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = {}  # by module: input, output
        self.kinds: dict[str, type] = {}  # by module: its class, to compare with others of the network

    def capture_points(self, value: int) -> list[ModuleEvent]:
        """Module doors at which the value was seen, in time order."""
        return [event for event in self.events if event.value == value]

    def overwritten_after(self, value: int, time: int) -> bool:
        """Whether the value's memory was changed in place later than `time`."""
        return any(moment > time for moment in self.changed[self.values[value].storage])

    def capture_before(self, value: int, call: Call, path: Path) -> CapturePoint:
        """Where to pick up an argument of a call: at a module's door when that is surely the same tensor, else there.

        The last module to give the value out is taken. A function that handed it on unchanged after that (a dropout in
        evaluation mode) might change it in training mode, so then it is taken at the call itself.
        """
        doors = [event for event in self.capture_points(value) if event.time < call.time]
        doors = [event for event in doors if event.kind == "output"] or doors
        if doors and not any(doors[-1].time < moment < call.time for moment in self.untouched[value]):
            return self._boundary(doors[-1])
        return CapturePoint(
            "call",
            call.frame.module,
            call.frame.turn,
            path,
            call.function,
            call.ordinal,
            overwritten=self.overwritten_after(value, call.time - 1),
        )

    def capture_after(self, value: int) -> CapturePoint | None:
        """Where to pick up a call's result: at the first module's door that it reaches, else at the call itself."""
        call = self.values[value].maker
        if call is None:
            return None
        doors = [event for event in self.capture_points(value) if event.time > call.time]
        if doors and not any(call.time < moment < doors[0].time for moment in self.untouched[value]):
            return self._boundary(doors[0])
        if call.ordinal < 0:
            return None
        path = next((path for path, result in call.results if result == value), ("written",))
        if path[:1] == ("written",):
            return None
        return CapturePoint(
            "call",
            call.frame.module,
            call.frame.turn,
            path,
            call.function,
            call.ordinal,
            result=True,
            overwritten=self.overwritten_after(value, call.time),
        )

    def _boundary(self, event: ModuleEvent) -> CapturePoint:
        overwritten = self.overwritten_after(event.value, event.time)
        return CapturePoint(event.kind, event.frame.module, event.frame.turn, event.path, overwritten=overwritten)


class Tracer(TorchFunctionMode):
    """Fills a `Trace` while it is the active function mode.

    Holds every tensor of the pass until it is dropped, so that no identity is used twice.
    """

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.trace = Trace(batch)
        self._time = 0
        self._value_of: dict[int, int] = {}
        self._alive: dict[int, Tensor] = {}
        self._by_storage: dict[int, list[int]] = defaultdict(list)
        self._turns: dict[str, int] = defaultdict(int)
        self._frame: Frame | None = None
        self.trace.kinds = {name: type(module) for name, module in network.named_modules()}
        for parameter in (*network.parameters(), *network.buffers()):
            self._new_value(parameter, image=False, learnt=True, calls=0, maker=None)

    # --- modules

    def entered(self, name: str) -> Callable[[tuple[Any, ...], Mapping[str, Any]], None]:
        def note(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            with torch._C.DisableTorchFunction():
                if self._frame is None:  # the images come in at the first module
                    for _, tensor in tensors_in((args, dict(kwargs))):
                        self._new_value(tensor, image=True, learnt=False, calls=0, maker=None)
                inputs = tuple((path, self._value(tensor)) for path, tensor in tensors_in((args, dict(kwargs))))
                self._frame = Frame(name, self._turns[name], inputs, self._frame, FunctionTally())
                self._turns[name] += 1
                self._see("input", inputs)

        return note

    def left(self, name: str, module: nn.Module) -> Callable[[Any], None]:
        parameters = list(module.parameters())
        nature = (any(map(_mixing, parameters)), bool(parameters), sum(p.numel() for p in parameters))

        def note(output: Any) -> None:
            frame = self._frame
            assert frame is not None, "a module was left that was not entered"
            assert frame.module == name, "modules are left in the reverse order"
            if output is not None:
                with torch._C.DisableTorchFunction():
                    found = list(tensors_in(output))
                    if any(self._is_unseen(tensor) for _, tensor in found):
                        self._opaque(frame, found, nature)
                    outputs = tuple((path, self._value(tensor)) for path, tensor in found)
                    self._see("output", outputs)
                    shapes = (self._main_shape(frame.inputs), self._main_shape(outputs))
                    self.trace.shapes.setdefault(name, shapes)
            self._frame = frame.parent

        return note

    def _main_shape(self, places: Sequence[tuple[Path, int]]) -> tuple[int, ...] | None:
        return next((self.trace.values[value].shape[1:] for _, value in places if self.trace.values[value].image), None)

    def _see(self, kind: Literal["output", "input"], places: Sequence[tuple[Path, int]]) -> None:
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
            self._note(func, given, written, result, -1 if ordinal is None else ordinal, keywords)
        return result

    def _count(self, func: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> int | None:
        """Counts the call in every module that is running; its number in the innermost one."""
        assert self._frame is not None
        with torch._C.DisableTorchFunction():
            ordinal = self._frame.counts.count(_name(func), args, keywords)
            outer = self._frame.parent
            while outer is not None:
                outer.counts.count(_name(func), args, keywords)
                outer = outer.parent
        return ordinal

    def _note(
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
        learnt = [source for source in sources if source.learnt]
        call.mixes = any(sum(size > 1 for size in source.shape) > 1 and source.floating for source in learnt)
        call.parametric = bool(learnt)
        call.parameters = sum(_numel(source.shape) for source in learnt)
        self._give(call, [value for _, value in arguments], fresh, written)

    def _give(
        self, call: Call, parents: Sequence[int], fresh: Sequence[tuple[Path, Tensor]], written: Sequence[Tensor]
    ) -> None:
        """New values for the tensors that a call made or changed, and for every other view of changed memory."""
        sources = [self.trace.values[value] for value in parents]
        image = any(source.image for source in sources) and not call.function.startswith((*_CONTENT_FREE, "new_"))
        calls = 1 << call.index
        for source in sources:
            calls |= source.calls if source.image else 0
            if source.image and (not source.users or source.users[-1] is not call):
                source.users.append(call)
        learnt = not image and any(source.learnt for source in sources)
        views = {
            view: self._alive[view]
            for tensor in written
            for view in self._by_storage.get(_storage(tensor), [])
            if all(view != id(other) for _, other in fresh)
        }
        for tensor in written:
            self.trace.changed[_storage(tensor)].append(self._time)
        call.results = tuple(
            (path, self._new_value(tensor, image=image, learnt=learnt, calls=calls if image else 0, maker=call))
            for path, tensor in fresh
        )
        for view, tensor in views.items():
            old = self.trace.values[self._value_of[view]]
            self._new_value(
                tensor,
                image=image or old.image,
                learnt=(learnt or old.learnt) and not (image or old.image),
                calls=calls | old.calls if image or old.image else 0,
                maker=call,
            )

    def _opaque(self, frame: Frame, found: Sequence[tuple[Path, Tensor]], nature: tuple[bool, bool, int]) -> None:
        """Notes tensors that came from where torch functions are not seen (scripted modules, autograd functions)."""
        self._time += 1
        parents = [value for _, value in frame.inputs]
        call = Call(len(self.trace.calls), self._time, "opaque", frame, -1, frame.inputs, {})
        call.mixes, call.parametric, call.parameters = nature
        self.trace.calls.append(call)
        self._give(call, parents, [(path, tensor) for path, tensor in found if self._is_unseen(tensor)], ())

    # --- values

    def _is_unseen(self, tensor: Tensor) -> bool:
        return id(tensor) not in self._value_of and tensor.dim() > 0 and tensor.shape[0] == self.trace.batch

    def _value(self, tensor: Tensor) -> int:
        if id(tensor) not in self._value_of:
            if self._frame is not None and self._is_unseen(tensor):
                self._opaque(self._frame, [((), tensor)], (False, False, 0))
            else:
                self._new_value(tensor, image=False, learnt=False, calls=0, maker=None)
        return self._value_of[id(tensor)]

    def _new_value(self, tensor: Tensor, *, image: bool, learnt: bool, calls: int, maker: Call | None) -> int:
        storage = _storage(tensor)
        self.trace.values.append(
            Value(tuple(tensor.shape), tensor.is_floating_point(), image, learnt, calls, maker, storage)
        )
        self._value_of[id(tensor)] = len(self.trace.values) - 1
        if id(tensor) not in self._alive:
            self._alive[id(tensor)] = tensor
            if storage:
                self._by_storage[storage].append(id(tensor))
        return len(self.trace.values) - 1

    def value_of(self, tensor: Tensor) -> int | None:
        """The value that the tensor holds now."""
        return self._value_of.get(id(tensor))


def trace(network: nn.Module, images: Tensor) -> Trace:
    """The trace of ``network(images)``; whatever the forward pass raises comes through."""
    tracer = Tracer(network, len(images))
    modules = dict(network.named_modules())
    inner = [name for name, module in modules.items() if not isinstance(module, torch.jit.ScriptModule)]
    # A scripted module is watched as a whole: its own modules run outside Python.
    scripted = [name for name in modules if name not in inner and name.rpartition(".")[0] in inner]
    doors = [(modules[name], tracer.entered(name), tracer.left(name, modules[name])) for name in (*inner, *scripted)]
    with watching(doors), torch.inference_mode(False), torch.no_grad(), tracer:
        network(images)
    return tracer.trace


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", func))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int:
    """An address that all views of one memory share; 0 where there is none to share."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return 0
    return tensor.untyped_storage().data_ptr()


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _mixing(parameter: Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) > 1
