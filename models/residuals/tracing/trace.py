"""Records of one traced forward pass, and the points at which another pass can capture its tensors.

A *value* is the content of a tensor between two changes: an in-place operation gives the same tensor a new value.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from models.residuals.tracing.structures import FunctionTally, Path

__all__ = ["Call", "CapturePoint", "Frame", "ModuleEvent", "Trace", "Value"]


@dataclass(frozen=True)
class CapturePoint:
    """Where to capture a value in another forward pass.

    Args:
        kind: "output" or "input" of a module, or "call": at a torch function called inside a module.
        module: dotted name; the network itself is "".
        call_index: which of the module's calls in one forward pass, from 0.
        calls: the number of the module's calls in one forward pass.
        path: position of the tensor in the module's output, in its ``(args, kwargs)``, or in those of the function.
        function, ordinal: for "call", the function's name and which of its calls inside the module, from 0.
        result: for "call", capture the function's result instead of an argument.
        overwritten: the tensor is changed in place later in the pass, so it must be copied to be kept.
    """

    kind: Literal["output", "input", "call"]
    module: str
    call_index: int
    calls: int
    path: Path
    function: str = ""
    ordinal: int = 0
    result: bool = False
    overwritten: bool = False


@dataclass(frozen=True)
class Frame:
    """One pass through one module.

    Args:
        module: dotted name.
        call_index: which of the module's calls in the forward pass, from 0.
        inputs: the values in its ``(args, kwargs)``, by path.
        parent: the frame that called the module; None for the network itself.
        counts: numbers of the function calls inside it.
    """

    module: str
    call_index: int
    inputs: tuple[tuple[Path, int], ...]
    parent: "Frame | None"
    counts: FunctionTally


@dataclass
class Call:
    """One call of a torch function, or of code in which torch functions are not visible.

    Args:
        index: position in `Trace.calls`; also the call's bit in `Value.calls`.
        time: position among all calls and module events.
        ordinal: number of the call among those of its function in its frame; -1 if it is not counted.
        arguments, results: values by path.
        constants: keyword arguments that are not tensors.
        mixes: whether it reads weights with at least two axes, as a convolution or a matrix product does.
        parametric, parameters: whether it reads any weights, and how many numbers.
    """

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
    """The content of a tensor between two changes.

    Args:
        image: whether it depends on the images.
        weights: whether it depends on parameters or buffers, but not on the images.
        calls: the calls that it depends on, as a set of bits: call i is a member if ``calls >> i & 1``. A union is
            ``a | b`` and a difference ``a & ~b``. One integer per value keeps the ancestors of thousands of values
            small, and makes each set operation one pass over machine words.
        maker: the call that made it; None for images, weights and constants.
        storage: the memory that it shares with its views.
        users: the calls that read it.
    """

    shape: tuple[int, ...]
    floating: bool
    image: bool
    weights: bool
    calls: int
    maker: Call | None
    storage: int
    users: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class ModuleEvent:
    """A value at a module boundary: it enters as an input or leaves as an output."""

    time: int
    kind: Literal["output", "input"]
    frame: Frame
    path: Path
    value: int


class Trace:
    """Values, calls and module events of one forward pass, in execution order.

    Args:
        batch: number of images in the pass.

    Attributes:
        untouched: value → times at which a function returned it unchanged.
        changed: storage → times at which it was changed in place.
        module_calls: module → number of its calls.
        shapes: module → shapes of its input and output without the batch axis.
        kinds: module → its class.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.events: list[ModuleEvent] = []
        self.untouched: dict[int, list[int]] = defaultdict(list)
        self.changed: dict[int, list[int]] = defaultdict(list)
        self.module_calls: dict[str, int] = defaultdict(int)
        self.shapes: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = {}
        self.kinds: dict[str, type] = {}

    def module_events(self, value: int) -> list[ModuleEvent]:
        """The module boundaries that the value crosses, in time order."""
        return [event for event in self.events if event.value == value]

    def overwritten_after(self, value: int, time: int) -> bool:
        """Whether the value's memory was changed in place later than `time`."""
        return any(moment > time for moment in self.changed[self.values[value].storage])

    def capture_before(self, value: int, call: Call, path: Path) -> CapturePoint:
        """Where to capture an argument of a call: at a module boundary if it is the same there, else at the call.

        The last module that returned the value is preferred. If a function passed the value on unchanged after that (a
        dropout in evaluation mode), it might change it in training mode, so the value is captured at the call.
        """
        events = [event for event in self.module_events(value) if event.time < call.time]
        events = [event for event in events if event.kind == "output"] or events
        if events and not any(events[-1].time < moment < call.time for moment in self.untouched[value]):
            return self.capture_at(events[-1])
        overwritten = self.overwritten_after(value, call.time - 1)
        return self._at_call(call, path, result=False, overwritten=overwritten)

    def capture_after(self, value: int) -> CapturePoint | None:
        """Where to capture a call's result: at the first module boundary that it crosses, else at the call itself.

        None if no capture point exists.
        """
        call = self.values[value].maker
        if call is None:
            return None
        events = [event for event in self.module_events(value) if event.time > call.time]
        if events and not any(call.time < moment < events[0].time for moment in self.untouched[value]):
            return self.capture_at(events[0])
        path = next((path for path, result in call.results if result == value), ("written",))
        if call.ordinal < 0 or path[:1] == ("written",):
            return None
        return self._at_call(call, path, result=True, overwritten=self.overwritten_after(value, call.time))

    def capture_at(self, event: ModuleEvent) -> CapturePoint:
        """Where to capture the value of an event: at its module's boundary."""
        overwritten = self.overwritten_after(event.value, event.time)
        return self._capture_point(event.kind, event.frame, event.path, overwritten=overwritten)

    def _at_call(self, call: Call, path: Path, *, result: bool, overwritten: bool) -> CapturePoint:
        return self._capture_point(
            "call",
            call.frame,
            path,
            function=call.function,
            ordinal=call.ordinal,
            result=result,
            overwritten=overwritten,
        )

    def _capture_point(
        self, kind: Literal["output", "input", "call"], frame: Frame, path: Path, **options: Any
    ) -> CapturePoint:
        return CapturePoint(kind, frame.module, frame.call_index, self.module_calls[frame.module], path, **options)
