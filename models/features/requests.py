"""Feature requests: what a detector reads of a forward pass beyond logits and statistics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from models.engines import Engine
from models.images.views import View
from models.residuals import Discovery

__all__ = ["FeatureRequest", "ForwardPass", "Head", "Needs", "needs_of"]


class Needs(NamedTuple):
    """The optional parts of a `ForwardPass` that a feature request reads.

    Args:
        embeddings: `ForwardPass.embeddings` and `ForwardPass.head`, which hold whole tensors in memory.
        pooled: `ForwardPass.pooled_embeddings` and `ForwardPass.pooled_residues`, which cost little.
        views: the keys of `ForwardPass.views`; each view passes through the network in the same batch as the images.
        network: `ForwardPass.network`, for gradients or further passes.
        companion: the keys of `ForwardPass.companion`; `IMAGE` is the image itself.
    """

    embeddings: bool = False
    pooled: bool = False
    views: tuple[View, ...] = ()
    network: bool = False
    companion: tuple[View, ...] = ()

    @property
    def engine_suffices(self) -> bool:
        """Whether an engine computes everything; whole embeddings and gradients need the network in torch."""
        return not (self.embeddings or self.network)

    def served_by(self, engine: Engine) -> bool:
        """Whether this engine computes everything."""
        return self.engine_suffices and (engine.pooled or not self.pooled)


class Head(NamedTuple):
    """The last layer with weights in a forward pass and its input; ``module(inputs)`` equals `output`.

    `call_index` is the number of this call among those of the module in the pass, from 0.
    """

    module: nn.Module
    inputs: Tensor
    output: Tensor
    call_index: int = 0


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of a batch, read-only.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1], on the network's device.
        logits: ``(B, K)``.
        statistics: ``(B, F)``.
        network: in evaluation mode, for requests that need gradients or further passes.
        discovery: its branches.
        embeddings: x_{m+1} of every recorded block, ``(B, …)`` each; empty without ``Needs.embeddings``.
        head: the last layer with weights that was reached; None without ``Needs.embeddings``, or if the network has no
            such layer as a module.
        pooled_embeddings, pooled_residues: x_{m+1} and r_m of every recorded block, averaged over the positions,
            ``(B, Σ D_m)``, block after block; None without ``Needs.pooled``.
        views: the same of the views in ``Needs.views``.
        companion: logits ``(B, K)`` of a second network for the views in ``Needs.companion``.
    """

    images: Tensor
    logits: Tensor
    statistics: Tensor
    network: nn.Module
    discovery: Discovery
    embeddings: tuple[Tensor, ...] = ()
    head: Head | None = None
    pooled_embeddings: Tensor | None = None
    pooled_residues: Tensor | None = None
    views: Mapping[View, "ForwardPass"] = field(default_factory=dict)
    companion: Mapping[View, Tensor] = field(default_factory=dict)


class FeatureRequest(Protocol):
    """A function of a forward pass whose values arrive in `Features.requested` under its name.

    It is called in inference mode. A request that needs gradients leaves that mode itself
    (``torch.inference_mode(False)``) and works on copies. The value for an image must not depend on the rest of the
    batch, except for rounding.
    """

    @property
    def name(self) -> str:
        """Equal names mean equal values, so the name contains every option."""

    @property
    def needs(self) -> Needs:
        """The optional parts of the forward pass that the request reads; ``Needs()`` for none."""

    def __call__(self, forward_pass: ForwardPass, /) -> Tensor:
        """The values, float32 ``(B, …)``."""


def needs_of(feature_requests: Iterable[FeatureRequest]) -> Needs:
    """The union of the needs of several requests."""
    needs = [each.needs for each in feature_requests]
    return Needs(
        embeddings=any(each.embeddings for each in needs),
        pooled=any(each.pooled for each in needs),
        views=tuple(dict.fromkeys(view for each in needs for view in each.views)),
        network=any(each.network for each in needs),
        companion=tuple(dict.fromkeys(view for each in needs for view in each.companion)),
    )
