"""Delivery of a network's tensors at capture points, during the forward passes of one thread.

Inputs and outputs of modules come from hooks. Arguments and results of torch functions come from a function mode, which
is active while the calling module runs. Each capture point occurs once per pass; a pass that differs from the one at
discovery raises an error.
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

_REMEDY = "the network took another path: run discover() on it in its present state and mode"


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
        self._module_calls: dict[tuple[str, str], int] = defaultdict(int)
        self._modes: list[_FunctionCapture] = []

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
            kinds = {place.capture_point.kind for place in places}
            yield (
                modules[name],
                self._entered(name, places) if kinds & {"input", "call"} else None,
                self._left(name, places) if kinds & {"output", "call"} else None,
            )
        yield self._network, None, self._end

    def close(self) -> None:
        """Remove function modes that an interrupted pass left active."""
        while self._modes:
            self._modes.pop().stop()

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
                f"{len(missing)} of {len(self._branches)} blocks were not reached, the first {first!r}; {_REMEDY}"
            )
        self._consumer.complete()

    def _is_active(self) -> bool:
        return self._running and threading.get_ident() == self._thread

    def _fail(self, why: str) -> NetworkError:
        self._running = False
        self._consumer.fail(why)
        return NetworkError(f"expected a pass like the one at discovery, but {why}")

    def _call_index(self, name: str, boundary: str, places: Sequence[Place]) -> int:
        """Which of the module's calls in this pass has reached the boundary."""
        index = self._module_calls[name, boundary]
        self._module_calls[name, boundary] = index + 1
        if index > max(place.capture_point.call_index for place in places):
            branch = self._branches[places[-1].branch]
            raise self._fail(f"module {name!r} of block {branch.name!r} ran more often; {_REMEDY}")
        return index

    def _entered(self, name: str, places: Sequence[Place]) -> Callable[[Any, Any], None]:
        has_calls = any(place.capture_point.kind == "call" for place in places)

        def entered(args: Any, kwargs: Any) -> None:
            if not self._is_active():
                return
            index = self._call_index(name, "input", places)
            now = [place for place in places if place.capture_point.call_index == index]
            for place in now:
                if place.capture_point.kind == "input":
                    self._take(place, at_path((args, kwargs), place.capture_point.path))
            if has_calls:
                calls = [place for place in now if place.capture_point.kind == "call"]
                mode = _FunctionCapture(calls, self._take)
                self._modes.append(mode)
                mode.start()

        return entered

    def _left(self, name: str, places: Sequence[Place]) -> Callable[[Any], None]:
        outputs = [place for place in places if place.capture_point.kind == "output"]
        has_calls = any(place.capture_point.kind == "call" for place in places)

        def left(output: Any) -> None:
            if threading.get_ident() != self._thread:
                return
            if has_calls and self._modes:
                self._modes.pop().stop()
            if not self._running or not outputs:
                return
            index = self._call_index(name, "output", places)
            for place in outputs:
                if place.capture_point.call_index == index and output is not None:
                    self._take(place, at_path(output, place.capture_point.path))

        return left

    def _take(self, place: Place, tensor: Any) -> None:
        if not self._is_active():
            return
        if not isinstance(tensor, Tensor):
            name = self._branches[place.branch].name
            raise self._fail(
                f"block {name!r} gave {type(tensor).__name__} instead of a tensor; run discover() on it again"
            )
        # Without this, function modes would count the consumer's functions as calls of the network.
        with torch._C.DisableTorchFunction():
            self._consumer.take(place, tensor)
        self._missing.discard(place)


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

    def start(self) -> None:
        """Become the innermost function mode of this thread."""
        self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Remove the innermost function mode."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

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
