"""Recorders of a network's residues and embeddings, reduced while the forward pass runs.

`record_residues` works with any network in eager mode, also during training. For a network as a module that returns its
statistics, see `models.residuals.rewriting.with_statistics`.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from models.errors import InputError
from models.residuals.discovery.branches import Discovery
from models.residuals.discovery.discovery import discover
from models.residuals.hooks import module_hooks, require_uncompiled
from models.residuals.pooling import pooled
from models.residuals.recording.capture import Capturer, Place
from models.residuals.recording.recording import KeptTensor, RecordedPass, Recording, version_of
from models.residuals.statistics import BlockTensor, StatisticsSpec, fixed_directions, reduce_residue

__all__ = ["record_path", "record_residues"]


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

    Several recorders may be active on one network, nested or in several threads; each records the passes of its own
    thread only. The network is unchanged afterwards, also after an exception.

    Args:
        network: the network that was passed to `discover`.
        discovery: its branches; by default found with images of 3×32×32.
        statistics_spec: which tensors of the branches, and their statistics; by default the residues and their cosine
            to **1**.
        keep: keep the whole tensors of the latest pass.
        statistics: compute the statistics during the pass.
        pool: compute the means over the positions in the image during the pass.

    Raises:
        InputError: `keep`, `statistics` and `pool` are all False.
        NetworkError: the branches belong to another network; during the forward pass, a block was not reached, or a
            module ran more or less often than at discovery.
    """
    if not (keep or statistics or pool):
        raise InputError("nothing to record; pass keep, statistics or pool")
    require_uncompiled(network)
    branches = (discovery or discover(network)).branches
    recording = Recording(branches, statistics_spec or StatisticsSpec(), keep=keep, reduce=statistics, pool=pool)
    capturer = Capturer(network, branches, recording.statistics_spec.quantity, _Recorder(recording))
    try:
        with module_hooks(capturer.hooks()):
            yield recording
    finally:
        capturer.close()


@contextmanager
def record_path(
    network: nn.Module,
    discovery: Discovery,
    statistics_spec: StatisticsSpec,
    *,
    pool: bool,
    keep_embeddings: bool = False,
) -> Iterator[dict[BlockTensor, Recording]]:
    """Recordings by quantity: the one of `statistics_spec` with statistics, and the other one if it is needed.

    Args:
        network: the network that was passed to `discover`.
        discovery: its branches.
        statistics_spec: the statistics, of residues or of embeddings.
        pool: record embeddings and residues, and pool both.
        keep_embeddings: record embeddings and keep them whole.
    """
    with ExitStack() as stack:
        recordings: dict[BlockTensor, Recording] = {}
        for quantity in get_args(BlockTensor):
            reduce, keep = quantity == statistics_spec.quantity, keep_embeddings and quantity == "embeddings"
            if reduce or keep or pool:
                recordings[quantity] = stack.enter_context(
                    record_residues(
                        network, discovery, keep=keep, statistics=reduce, pool=pool,
                        statistics_spec=statistics_spec if reduce else StatisticsSpec(quantity),
                    )
                )  # fmt: skip
        yield recordings


class _Recorder:
    """Makes residues or embeddings of captured terms, and reduces them into a recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._pass = RecordedPass()
        self._terms = [branch.terms(recording.statistics_spec.quantity) for branch in recording.branches]
        self._captured: dict[int, dict[int, Tensor]] = defaultdict(dict)  # of branches with several terms
        self._directions: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def begin(self) -> None:
        self._captured.clear()
        self._pass = self._recording.begin()

    def fail(self, why: str) -> None:
        self._recording.fail(why)

    def complete(self) -> None:
        self._captured.clear()
        self._recording.complete()

    def take(self, place: Place, tensor: Tensor) -> None:
        terms = self._terms[place.branch]
        # A reduction at once needs no copy of a tensor that is overwritten later, unless autograd keeps the tensor.
        stays = self._recording.keep or len(terms) > 1 or (torch.is_grad_enabled() and tensor.requires_grad)
        if place.capture_point.overwritten and stays:
            tensor = tensor.clone()
        if len(terms) == 1:
            factor = terms[0].factor
            self._store(place.branch, tensor * factor if factor != 1.0 else tensor, tensor, factor)
            return
        captured = self._captured[place.branch]
        captured[place.term] = tensor
        if len(captured) == len(terms):
            del self._captured[place.branch]
            total = sum(
                captured[i] * term.factor if term.factor != 1.0 else captured[i] for i, term in enumerate(terms)
            )
            assert isinstance(total, Tensor)
            self._store(place.branch, total, None, 1.0)

    def _store(self, branch: int, tensor: Tensor, source: Tensor | None, factor: float) -> None:
        recording, recorded = self._recording, self._pass
        axis = recording.branches[branch].batch_axis
        moved = tensor.movedim(axis, 0) if axis else tensor
        # If the numbers of an image lie between those of others, the order of a sum depends on the batch.
        own = moved.contiguous() if axis else tensor
        if recording.reduce:
            recorded.reduced[branch] = reduce_residue(own, self._vectors(tuple(own.shape[1:]), own.device))
        if recording.pool:
            recorded.pooled[branch] = pooled(own)
        if recording.keep:
            if source is not None and not source.requires_grad:
                source = None  # without a gradient there is no reason to keep it
            recorded.kept[branch] = KeptTensor(moved, version_of(moved), source, axis, factor)

    def _vectors(self, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        count = self._recording.statistics_spec.directions
        if count == 0:
            return None
        if (shape, device) not in self._directions:
            self._directions[shape, device] = fixed_directions(shape, count).to(device)
        return self._directions[shape, device]
