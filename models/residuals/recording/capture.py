"""Delivery of a network's tensors at capture points, during the forward passes of one thread.

Inputs and outputs of modules come from hooks. Arguments and results of torch functions come from a function mode, which
is active while the calling module runs. A module may run several times in a pass: its calls are numbered as they begin,
and each capture point belongs to one of them. A pass that differs from the one at discovery raises an error.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.errors import NetworkError
from models.residuals.discovery.branches import Branch
from models.residuals.statistics import BlockTensor
from models.residuals.tracing.structures import FunctionTally, at_path
from models.residuals.tracing.trace import CapturePoint

__all__ = ["Capturer", "Consumer", "Place"]

_REMEDY = (
    "its control flow depends on the images or on its mode, or it was changed; use a network that computes every image "
    "in the same way, or run discover() again after a change"
)


@dataclass(frozen=True)
class Place:
    """The indices of a branch and of one of its terms, and where to capture that term."""

    branch: int
    term: int
    capture_point: CapturePoint


class Consumer(Protocol):
    """Receives the captured tensors of forward passes."""

    def begin(self) -> None:
        """A forward pass begins."""

    def take(self, place: Place, tensor: Tensor) -> None:
        """A tensor was captured; torch functions in here are invisible to function modes."""

    def fail(self, why: str) -> None:
        """The pass cannot be used."""

    def complete(self) -> None:
        """The pass ended and every term of every branch was captured."""


class Capturer:
    """Hooks that deliver the terms of branches to a consumer.

    Args:
        network: the network in which the branches were discovered.
        branches: the branches to capture.
        quantity: which of their tensors.
        consumer: receives the tensors of passes in the thread that made this object.

    Raises:
        NetworkError: a term of a branch cannot be captured.
    """

    def __init__(
        self, network: nn.Module, branches: Sequence[Branch], quantity: BlockTensor, consumer: Consumer
    ) -> None:
        self._network, self._branches, self._consumer = network, tuple(branches), consumer
        self._thread = threading.get_ident()
        self._running = False
        self._places: dict[str, list[Place]] = defaultdict(list)
        for index, branch in enumerate(self._branches):
            for number, term in enumerate(branch.terms(quantity)):
                self._places[term.capture_point.module].append(Place(index, number, term.capture_point))
        self._missing: set[Place] = set()
        self._module_calls: dict[str, int] = defaultdict(int)
        self._open: list[_OpenCall] = []  # the outermost first

    def hooks(self) -> Iterator[tuple[nn.Module, Any, Any]]:
        """Arguments for `models.residuals.hooks.module_hooks`; the hooks of the network itself enclose the others.

        Raises:
            NetworkError: the network has no module of such a name.
        """
        modules = dict(self._network.named_modules())
        unknown = [name for name in self._places if name not in modules]
        if unknown:
            raise NetworkError(
                f"the branches were found in another network: this one has no module {unknown[0]!r}; "
                "run discover() on this network"
            )
        yield self._network, self._begin, None
        for name, places in self._places.items():
            yield modules[name], self._entered(name, places), self._left(name)
        yield self._network, None, self._end

    def close(self) -> None:
        """Remove function modes that an interrupted pass left active."""
        while self._open:
            self._open.pop().stop()

    def _begin(self, _args: Any, _kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self.close()
        self._running = True
        self._module_calls.clear()
        self._missing = {place for places in self._places.values() for place in places}
        self._consumer.begin()

    def _end(self, output: Any) -> None:
        if not self._is_active():
            return
        self._running = False
        if output is None:  # the forward pass raised, and its exception is propagating
            return
        missing = sorted({place.branch for place in self._missing})
        if missing:
            first = self._branches[missing[0]].name
            raise self._fail(
                f"{len(missing)} of {len(self._branches)} blocks were not reached, the first {first!r}: {_REMEDY}"
            )
        for name, places in self._places.items():
            calls, expected = self._module_calls[name], places[0].capture_point.calls
            if calls != expected:
                block = self._branches[places[0].branch].name
                raise self._fail(
                    f"module {name!r} of block {block!r} ran {calls} times instead of {expected}: {_REMEDY}"
                )
        self._consumer.complete()

    def _is_active(self) -> bool:
        return self._running and threading.get_ident() == self._thread

    def _fail(self, why: str) -> NetworkError:
        self._running = False
        self._consumer.fail(why)
        return NetworkError(f"expected a pass like the one at discovery, but {why}")

    def _entered(self, name: str, places: Sequence[Place]) -> Callable[[Any, Any], None]:
        def entered(args: Any, kwargs: Any) -> None:
            if not self._is_active():
                return
            index = self._module_calls[name]
            self._module_calls[name] = index + 1
            now = [place for place in places if place.capture_point.call_index == index]
            call = _OpenCall(name, now, self._take)
            self._open.append(call)
            for place in now:
                if place.capture_point.kind == "input":
                    self._take(place, at_path((args, kwargs), place.capture_point.path))
            call.start()

        return entered

    def _left(self, name: str) -> Callable[[Any], None]:
        def left(output: Any) -> None:
            # A call without an entry began before the pass failed, or a hook of the user's raised before ours.
            if threading.get_ident() != self._thread or not self._open or self._open[-1].module != name:
                return
            call = self._open.pop()
            call.stop()
            if output is not None:
                for place in call.outputs:
                    self._take(place, at_path(output, place.capture_point.path))

        return left

    def _take(self, place: Place, tensor: Any) -> None:
        if not self._is_active():
            return
        if not isinstance(tensor, Tensor):
            name = self._branches[place.branch].name
            raise self._fail(f"block {name!r} gave {type(tensor).__name__} instead of a tensor: {_REMEDY}")
        # Without this, function modes would count the consumer's functions as calls of the network.
        with torch._C.DisableTorchFunction():
            self._consumer.take(place, tensor)
        self._missing.discard(place)


class _OpenCall:
    """A call of a module that has begun and not yet ended, with what is captured in it.

    Args:
        module: its name.
        places: those of this call.
        take: receives the captured tensors.
    """

    def __init__(self, module: str, places: Sequence[Place], take: Callable[[Place, Any], None]) -> None:
        self.module = module
        self.outputs = [place for place in places if place.capture_point.kind == "output"]
        calls = [place for place in places if place.capture_point.kind == "call"]
        self._mode = _FunctionCapture(calls, take) if calls else None
        self._started = False

    def start(self) -> None:
        """Capture functions from now on."""
        if self._mode is not None:
            self._mode.__enter__()  # type: ignore[no-untyped-call]
            self._started = True

    def stop(self) -> None:
        """Capture no more functions."""
        if self._mode is not None and self._started:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._started = False


class _FunctionCapture(TorchFunctionMode):
    """Captures arguments and results of torch functions, numbered inside one pass through one module."""

    def __init__(self, places: Sequence[Place], take: Callable[[Place, Any], None]) -> None:
        super().__init__()
        self._wanted: dict[tuple[str, int | None], list[Place]] = defaultdict(list)
        for place in places:
            self._wanted[place.capture_point.function, place.capture_point.ordinal].append(place)
        self._names = {place.capture_point.function for place in places}
        self._tally = FunctionTally()
        self._take = take

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in self._names:
            return func(*args, **keywords)
        with torch._C.DisableTorchFunction():
            places = self._wanted.get((name, self._tally.count(name, args, keywords)), [])
        for place in places:
            if not place.capture_point.result:
                self._take(place, at_path((args, keywords), place.capture_point.path))
        result = func(*args, **keywords)
        for place in places:
            if place.capture_point.result:
                self._take(place, at_path(result, place.capture_point.path))
        return result
