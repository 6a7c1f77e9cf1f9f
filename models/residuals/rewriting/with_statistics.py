"""Networks as modules that give their path out beside their output: what serving, torch.compile and export want."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.residuals.discovery.branches import Discovery
from models.residuals.discovery.discovery import discover
from models.residuals.recording.recorder import record_path
from models.residuals.rewriting.rewriting import NotRewritableError, rewrite
from models.residuals.statistics import StatisticsSpec

__all__ = ["PooledPass", "WithPooled", "WithStatistics"]


class PooledPass(NamedTuple):
    """What `WithPooled` gives of a batch.

    Args:
        logits: ``(B, K)``, or whatever the network gives.
        statistics: ``(B, M·(2 + k))`` float32.
        embeddings, residues: of each of the M blocks the mean over the places in the image, ``(B, D_m)`` float32.
    """

    logits: Tensor
    statistics: Tensor
    embeddings: tuple[Tensor, ...]
    residues: tuple[Tensor, ...]


class _Rewritten(nn.Module):
    """The network with its graph rewritten where that can be taken; see `WithStatistics`."""

    pool: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        discovery: Discovery | None = None,
        *,
        statistics_spec: StatisticsSpec | None = None,
        image_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        self.discovery = discovery or discover(network, image_shape)
        self.statistics_spec = statistics_spec or StatisticsSpec()
        self.why_not_rewritten: str | None = None
        try:
            self.network: nn.Module = rewrite(
                network,
                self.discovery,
                quantity=self.statistics_spec.quantity,
                directions=self.statistics_spec.directions,
                pool=self.pool,
                image_shape=image_shape,
                reference=lambda images: self._recorded(network, images),
            )
        except NotRewritableError as exc:
            self.why_not_rewritten = str(exc)
            self.network = network
        self.training = network.training

    def _outputs(self, images: Tensor) -> tuple[Any, ...]:
        if self.why_not_rewritten is None:
            rewritten: tuple[Any, ...] = self.network(images)
            return rewritten
        recorded: tuple[Any, ...] = self._recorded_eagerly(images)
        return recorded

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _recorded_eagerly(self, images: Tensor) -> tuple[Any, ...]:
        return self._recorded(self.network, images)

    def _recorded(self, network: nn.Module, images: Tensor) -> tuple[Any, ...]:
        """The same outputs by hooks."""
        with record_path(network, self.discovery, self.statistics_spec, pool=self.pool) as recordings:
            output = network(images)
        averaged = [recordings["embeddings"].pooled, recordings["residues"].pooled] if self.pool else []
        return output, recordings[self.statistics_spec.quantity].statistics, *averaged


class WithStatistics(_Rewritten):
    """Logits and statistics ``(B, M·(2 + k))`` of images, as one module for evaluation.

    The network's graph is taken by torch.fx and rewritten so that it reduces each residue where it arises: no hooks, no
    state, so it may be compiled, captured, exported and called from several threads. It shares its parameters and
    modules with the network, which stays as it is. Functions whose behaviour depends on the mode are fixed to
    evaluation mode; put the network into evaluation mode. The graph is that of the network as it is now: weights may
    change, but modules and attributes that are replaced later are not seen, nor hooks that are set later on more than a
    single layer.

    Where the graph cannot be taken (control flow that depends on data), `why_not_rewritten` says why, and the passes
    are recorded by hooks instead, outside compiled code, with the same results.

    Args:
        network, discovery, measure: as for `models.residuals.recording.record_residues`.
        image_shape: of the images the graph is checked with, against the recorder.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``images (B, 3, H, W) → (logits, statistics)``."""
        logits, statistics = self._outputs(images)
        return logits, statistics


class WithPooled(_Rewritten):
    """As `WithStatistics`, with the embeddings and residues of all blocks averaged over the places in the image.

    Args:
        network, discovery, measure, image_shape: see `WithStatistics`.
    """

    pool: ClassVar[bool] = True

    def forward(self, images: Tensor) -> PooledPass:
        """``images (B, 3, H, W)`` → what they are in the network."""
        return PooledPass(*self._outputs(images))
