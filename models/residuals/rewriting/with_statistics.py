"""Networks as modules that return statistics of their path, for serving, torch.compile and export."""

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
    """The output of `WithPooled` for a batch.

    Args:
        logits: ``(B, K)``; the network's output.
        statistics: ``(B, M·(2 + k))`` float32.
        embeddings, residues: means over the positions in the image, float32 ``(B, Σ D_m)``, block after block; None
            from an engine without pooled vectors. `Discovery.pooled_widths` has the D_m.
    """

    logits: Tensor
    statistics: Tensor
    embeddings: Tensor | None = None
    residues: Tensor | None = None


class _Rewritten(nn.Module):
    """The network with a rewritten graph, if possible; see `WithStatistics`."""

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
        recorded = self._recorded
        if torch.compiler.is_compiling():  # otherwise `disable` would import the compiler, which takes seconds
            recorded = torch.compiler.disable(recorded)  # type: ignore[no-untyped-call]
        return recorded(self.network, images)

    def _recorded(self, network: nn.Module, images: Tensor) -> tuple[Any, ...]:
        """The same outputs, recorded with hooks."""
        with record_path(network, self.discovery, self.statistics_spec, pool=self.pool) as recordings:
            output = network(images)
        averaged = [recordings["embeddings"].pooled, recordings["residues"].pooled] if self.pool else []
        return output, recordings[self.statistics_spec.quantity].statistics, *averaged


class WithStatistics(_Rewritten):
    """Logits and statistics ``(B, M·(2 + k))`` of images, as one module for evaluation.

    The network's graph is rewritten so that it reduces each residue where it arises. It has no hooks and no state, so
    it can be compiled, captured, exported and called from several threads. It shares parameters and modules with the
    network, which does not change. Functions that depend on the mode are fixed to evaluation mode; the network must be
    in evaluation mode. The graph is that of the present network: later changes of weights apply, but not later
    replacements of modules and attributes, nor later hooks on more than a single layer.

    If torch.fx cannot trace the network (control flow that depends on data), `why_not_rewritten` states the reason, and
    passes are recorded with hooks, outside compiled code, with the same results.

    Args:
        network, discovery, statistics_spec: as for `models.residuals.record_residues`.
        image_shape: of the images for the comparison of graph and recorder.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``images (B, 3, H, W) → (logits, statistics)``."""
        logits, statistics = self._outputs(images)
        return logits, statistics


class WithPooled(_Rewritten):
    """`WithStatistics` with the means of all embeddings and residues over the positions in the image.

    Args:
        network, discovery, statistics_spec, image_shape: see `WithStatistics`.
    """

    pool: ClassVar[bool] = True

    def forward(self, images: Tensor) -> PooledPass:
        """``images (B, 3, H, W)`` → logits, statistics and pooled vectors."""
        logits, statistics, *averaged = self._outputs(images)
        return PooledPass(logits, statistics, *(torch.cat(vectors, dim=1) for vectors in averaged))
