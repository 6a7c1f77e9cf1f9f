"""Residues of a network's forward passes, and their statistics, taken as they pass.

`record_residues` watches any network in eager mode, also while it is trained; for a network as a module that gives
its statistics out, see `models.residuals.with_statistics`.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.errors import InputError, NetworkError
from models.residuals.discovery import Branch, Discovery, discover
from models.residuals.hooks import require_watchable, watching
from models.residuals.pooling import pooled
from models.residuals.statistics import BlockTensor, Reduced, StatisticsSpec, finish, fixed_directions, reduce_residue
from models.residuals.tracing import CapturePoint, FunctionTally, at_path

__all__ = ["Recording", "record_path", "record_residues"]


@dataclass(frozen=True)
class _Kept:
    """A whole tensor of a recording, and what it was made from.

    Args:
        value: batch axis first.
        version: of the value when it was taken.
        source: the tensor that the network goes on from, of which `value` may be a copy that no loss depends on; None
            where the value is a sum of several.
        axis, factor: value = factor · source, with this axis brought to the front.
    """

    value: Tensor
    version: int
    source: Tensor | None
    axis: int
    factor: float


class Recording:
    """The latest forward pass as its recorder saw it; stays readable after the recorder is gone."""

    def __init__(
        self,
        branches: Sequence[Branch],
        statistics_spec: StatisticsSpec,
        keep: bool,
        reduce: bool = True,
        pool: bool = False,
    ) -> None:
        self.branches = tuple(branches)
        self.statistics_spec = statistics_spec
        self.keep = keep
        self.reduce = reduce
        self.pool = pool
        self._why_not: str | None = "no forward pass was recorded; call the network inside the with block, same thread"
        self._reached = [False] * len(self.branches)
        self._reduced: list[Reduced | None] = []
        self._kept: list[_Kept | None] = []
        self._pooled: list[Tensor | None] = []
        self._statistics: Tensor | None = None

    def __repr__(self) -> str:
        return f"Recording({len(self.branches)} branches, {self.statistics_spec}, keep={self.keep})"

    @property
    def statistics(self) -> Tensor:
        """``(B, M·(2 + k))`` float32: per block ‖r‖²/d, cos(r, **1**) and the further cosines (equation 34).

        Differentiable where the forward pass was; under ``torch.no_grad`` nothing else of the pass is held.

        Raises:
            InputError: the recorder was told to make none.
            NetworkError: no forward pass was made yet in this recorder's thread, or the latest one failed.
        """
        if not self.reduce:
            raise InputError("expected a recorder that makes statistics, got one with statistics=False; leave that out")
        self._require_pass()
        if self._statistics is None:
            first = next(item for item in self._reduced if item is not None)
            device = first[0].device
            done = [(rms.to(device), lengths.to(device)) for rms, lengths in filter(None, self._reduced)]
            self._statistics = finish(done)
        return self._statistics

    @property
    def residues(self) -> tuple[Tensor, ...]:
        """The M residues, each ``(B, …)``, differentiable where the forward pass was.

        Raises:
            InputError: they were not kept, or embeddings were measured.
            NetworkError: no forward pass was made yet, the latest one failed, or the network changed a residue in place
                that it had not changed at discovery.
        """
        return self._whole("residues")

    @property
    def embeddings(self) -> tuple[Tensor, ...]:
        """The M embeddings x_{m+1}, each ``(B, …)``; as `residues`, with ``StatisticsSpec(quantity="embeddings")``."""
        return self._whole("embeddings")

    @property
    def pooled(self) -> tuple[Tensor, ...]:
        """Of the M residues or embeddings, whichever is measured, the means over the places, ``(B, ≤ D)`` float32 each.

        They are taken as the tensors pass, so that none of these is held.

        Raises:
            InputError: the recorder was not told to pool.
            NetworkError: no forward pass was made yet, or the latest one failed.
        """
        if not self.pool:
            raise InputError(f"expected a recording that pools, got {self!r}; pass pool=True to record_residues")
        self._require_pass()
        return tuple(vector for vector in self._pooled if vector is not None)

    def _whole(self, what: Literal["residues", "embeddings"]) -> tuple[Tensor, ...]:
        if not self.keep or self.statistics_spec.quantity != what:
            raise InputError(
                f"expected a recording that keeps {what}, got {self!r}; "
                f"pass keep=True and statistics_spec=StatisticsSpec(quantity={what!r}) to record_residues"
            )
        self._require_pass()
        for branch, kept in zip(self.branches, filter(None, self._kept), strict=True):
            if _version(kept.value) != kept.version:
                raise NetworkError(
                    f"expected the tensor of {branch.name!r} to stay as it was, but the network changed it in place; "
                    "run discover() again on the network as it is now"
                )
        return tuple(kept.value for kept in filter(None, self._kept))

    def gradients(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of a loss of this pass in each of the M tensors, ``(B, …)`` as these are; it frees the pass's graph.

        `residues` itself is not always what to differentiate in: with the batch axis brought to the front, or a factor,
        it is a tensor beside the network's own. None where the loss does not depend on the recorded tensor, as where
        the network overwrites it.

        Raises:
            InputError, NetworkError: as `residues`.
            RuntimeError: torch cannot go back through the network, for one because it changed in place what its
                derivatives need.
        """
        self._whole(self.statistics_spec.quantity)
        found: list[Tensor | None] = [None] * len(self.branches)
        sources = {
            number: (kept, kept.source)
            for number, kept in enumerate(filter(None, self._kept))
            if kept.source is not None and kept.source.requires_grad
        }
        if not (loss.requires_grad and sources):
            return tuple(found)
        gradients = torch.autograd.grad(loss, [source for _, source in sources.values()], allow_unused=True)
        for (number, (kept, _)), gradient in zip(sources.items(), gradients, strict=True):
            if gradient is not None:
                moved = gradient.movedim(kept.axis, 0)
                found[number] = moved / kept.factor if kept.factor != 1.0 else moved
        return tuple(found)

    def _require_pass(self) -> None:
        if self._why_not is not None:
            raise NetworkError(f"expected a completed forward pass, but {self._why_not}")

    def _begin(self) -> None:
        self._why_not = "the latest forward pass did not come to its end; call the network again"
        self._reached = [False] * len(self.branches)
        self._reduced = [None] * len(self.branches)
        self._kept = [None] * len(self.branches)
        self._pooled = [None] * len(self.branches)
        self._statistics = None

    def _fail(self, why: str) -> NetworkError:
        self._begin()
        self._why_not = why
        return NetworkError(f"expected a pass like the one at discovery, but {why}")

    def _complete(self) -> None:
        self._why_not = None


@contextmanager
def record_residues(
    network: nn.Module,
    discovery: Discovery | None = None,
    *,
    statistics_spec: StatisticsSpec | None = None,
    keep: bool = False,
    statistics: bool = True,
    pool: bool = False,
) -> Iterator[Recording]:
    """A recording of each forward pass that this thread makes through the network inside the block.

    Several recorders may watch one network at once, nested or from several threads; none sees another's passes from
    another thread. The network is left as found, also after an exception.

    Args:
        network: as it was given to `discover`.
        discovery: its branches; found with images of 3×32×32 where not given.
        measure: what is measured; by default the residues and their cosine to **1**.
        keep: hold the whole residues of the latest pass.
        statistics: reduce them as they pass; training, which takes its own measure of whole residues, saves that.
        pool: take their means over the places in the image as they pass.

    Raises:
        InputError: nothing is asked for.
        NetworkError: the branches are not this network's; and, out of the forward pass itself, a block that was not
            reached or was reached more often than at discovery.
    """
    if not (keep or statistics or pool):
        raise InputError("expected a recorder with keep, statistics or pool, got none; ask for one of them")
    require_watchable(network)
    branches = (discovery or discover(network)).branches
    recorder = _Recorder(network, Recording(branches, statistics_spec or StatisticsSpec(), keep, statistics, pool))
    try:
        with watching(recorder.watched()):
            yield recorder.recording
    finally:
        recorder.close()


@contextmanager
def record_path(
    network: nn.Module,
    discovery: Discovery,
    statistics_spec: StatisticsSpec,
    *,
    pool: bool,
    keep_embeddings: bool = False,
) -> Iterator[dict[BlockTensor, Recording]]:
    """Recordings by what they are of: one that makes the measure's statistics, and what else is needed beside it.

    Args:
        pool: record embeddings and residues, and pool both.
        keep_embeddings: record embeddings, and hold them whole.
    """
    with ExitStack() as stack:
        recordings: dict[BlockTensor, Recording] = {}
        for of in get_args(BlockTensor):
            own, keep = of == statistics_spec.quantity, keep_embeddings and of == "embeddings"
            if own or keep or pool:
                recordings[of] = stack.enter_context(
                    record_residues(
                        network, discovery, statistics_spec=statistics_spec if own else StatisticsSpec(quantity=of),
                        keep=keep, statistics=own,
                        pool=pool,
                    )
                )  # fmt: skip
        yield recordings


@dataclass(frozen=True)
class _Place:
    """A tensor to pick up: which term of which branch it is."""

    branch: int
    term: int
    capture_point: CapturePoint


class _Recorder:
    """Carries tensors from the network's modules and functions to a `Recording`."""

    def __init__(self, network: nn.Module, recording: Recording) -> None:
        self.recording = recording
        self._network = network
        self._thread = threading.get_ident()
        self._running = False
        self._terms = [branch.terms(recording.statistics_spec.quantity) for branch in recording.branches]
        self._places: dict[str, list[_Place]] = defaultdict(list)
        for index, terms in enumerate(self._terms):
            for number, term in enumerate(terms):
                self._places[term.capture_point.module].append(_Place(index, number, term.capture_point))
        self._held: dict[int, dict[int, Tensor]] = defaultdict(dict)
        self._turns: dict[tuple[str, str], int] = defaultdict(int)
        self._modes: list[_CallWatcher] = []
        self._directions: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def watched(self) -> Iterator[tuple[nn.Module, Any, Any]]:
        """Modules with their callbacks: the network itself around all others."""
        modules = dict(self._network.named_modules())
        unknown = [name for name in self._places if name not in modules]
        if unknown:
            raise NetworkError(
                f"expected the network that the branches were found in, but it has no module {unknown[0]!r}; "
                "run discover() on this network"
            )
        yield self._network, self._begin, None
        for name, places in self._places.items():
            kinds = {place.capture_point.kind for place in places}
            yield (
                modules[name],
                self._entering(name, places) if kinds & {"input", "call"} else None,
                self._leaving(name, places) if kinds & {"output", "call"} else None,
            )
        yield self._network, None, self._end

    def close(self) -> None:
        """Takes function modes off that an interrupt left on."""
        while self._modes:
            self._modes.pop().stop()

    # --- the pass

    def _begin(self, _args: Any, _kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self.close()
        self._running = True
        self._turns.clear()
        self._held.clear()
        self.recording._begin()

    def _end(self, output: Any) -> None:
        if not self._is_mine():
            return
        self._running = False
        self._held.clear()
        if output is None:  # the forward pass raised; that exception is on its way already
            return
        missing = [
            branch.name
            for branch, reached in zip(self.recording.branches, self.recording._reached, strict=True)
            if not reached
        ]
        if missing:
            raise self.recording._fail(
                f"{len(missing)} of {len(self.recording.branches)} blocks were not reached, the first {missing[0]!r}; "
                "the network took another way: run discover() on it in its present state and mode"
            )
        self.recording._complete()

    def _is_mine(self) -> bool:
        return self._running and threading.get_ident() == self._thread

    def _turn(self, name: str, door: str, places: Sequence[_Place]) -> int:
        turn = self._turns[name, door]
        self._turns[name, door] = turn + 1
        if turn > max(place.capture_point.turn for place in places):
            branch = self.recording.branches[places[-1].branch]
            self._running = False
            raise self.recording._fail(
                f"module {name!r} of block {branch.name!r} ran more often; "
                "the network took another way: run discover() on it in its present state and mode"
            )
        return turn

    def _entering(self, name: str, places: Sequence[_Place]) -> Callable[[Any, Any], None]:
        def entered(args: Any, kwargs: Any) -> None:
            if not self._is_mine():
                return
            turn = self._turn(name, "in", places)
            now = [place for place in places if place.capture_point.turn == turn]
            for place in now:
                if place.capture_point.kind == "input":
                    self._take(place, at_path((args, kwargs), place.capture_point.path))
            calls = [place for place in now if place.capture_point.kind == "call"]
            if any(place.capture_point.kind == "call" for place in places):
                mode = _CallWatcher(calls, self._take)
                self._modes.append(mode)
                mode.start()

        return entered

    def _leaving(self, name: str, places: Sequence[_Place]) -> Callable[[Any], None]:
        outputs = [place for place in places if place.capture_point.kind == "output"]
        calls = any(place.capture_point.kind == "call" for place in places)

        def left(output: Any) -> None:
            if threading.get_ident() != self._thread:
                return
            if calls and self._modes:
                self._modes.pop().stop()
            if not self._running or not outputs:
                return
            turn = self._turn(name, "out", places)
            for place in outputs:
                if place.capture_point.turn == turn and output is not None:
                    self._take(place, at_path(output, place.capture_point.path))

        return left

    # --- the tensors

    def _take(self, place: _Place, tensor: Any) -> None:
        if not self._is_mine():
            return
        branch = self.recording.branches[place.branch]
        if not isinstance(tensor, Tensor):
            raise self.recording._fail(
                f"block {branch.name!r} gave {type(tensor).__name__} where a tensor was; run discover() on it again"
            )
        # Functions called here are ours, not the network's: no watcher shall count them.
        with torch._C.DisableTorchFunction():
            terms = self._terms[place.branch]
            source, factor = None, 1.0
            kept = self.recording.keep or len(terms) > 1 or (torch.is_grad_enabled() and tensor.requires_grad)
            if place.capture_point.overwritten and kept:
                tensor = tensor.clone()
            if len(terms) > 1:
                held = self._held[place.branch]
                held[place.term] = tensor
                if len(held) < len(terms):
                    return
                del self._held[place.branch]
                tensor = sum(held[i] * term.factor if term.factor != 1.0 else held[i] for i, term in enumerate(terms))
            else:
                source, factor = tensor, terms[0].factor
                tensor = tensor * factor if factor != 1.0 else tensor
            self._store(place.branch, branch, tensor, source, factor)

    def _store(self, index: int, branch: Branch, tensor: Tensor, source: Tensor | None, factor: float) -> None:
        axis = branch.batch_axis
        self.recording._reached[index] = True
        moved = tensor.movedim(axis, 0) if axis else tensor
        # Sums over an image whose numbers lie between those of others would add up in another order in another batch.
        own = moved.contiguous() if axis else tensor
        if self.recording.reduce:
            vectors = self._vectors(tuple(own.shape[1:]), self.recording.statistics_spec.directions, own.device)
            self.recording._reduced[index] = reduce_residue(own, vectors)
        if self.recording.pool:
            self.recording._pooled[index] = pooled(own)
        if self.recording.keep:
            if source is not None and not source.requires_grad:
                source = None  # nothing to differentiate in, and no reason to hold it
            self.recording._kept[index] = _Kept(moved, _version(moved), source, axis, factor)

    def _vectors(self, shape: tuple[int, ...], count: int, device: torch.device) -> Tensor | None:
        if count == 0:
            return None
        if (shape, device) not in self._directions:
            self._directions[shape, device] = fixed_directions(shape, count).to(device)
        return self._directions[shape, device]


class _CallWatcher(TorchFunctionMode):
    """Picks tensors up at torch functions, counted inside one pass through one module."""

    def __init__(self, places: Sequence[_Place], take: Callable[[_Place, Any], None]) -> None:
        super().__init__()
        self._wanted: dict[tuple[str, int | None], list[_Place]] = defaultdict(list)
        for place in places:
            self._wanted[place.capture_point.function, place.capture_point.ordinal].append(place)
        self._names = {place.capture_point.function for place in places}
        self._tally = FunctionTally()
        self._take = take

    def start(self) -> None:
        """Becomes the innermost function mode of this thread."""
        self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Takes the innermost function mode off."""
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


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
