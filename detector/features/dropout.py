"""Variance of an image's softmax probabilities under dropout of the network's last features."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.features import ForwardPass, Head, Needs
from models.residuals import changing_input

__all__ = ["DropoutUncertainty"]


@dataclass(frozen=True)
class DropoutUncertainty:
    """Float32 ``(B, 1)``: Σ_k of the variance of softmax probability k over passes with dropout.

    It is (1/T Σ_t p_tᵀ p_t) − p̄ᵀ p̄ of "Detecting Adversarial Samples from Artifacts" (Feinman et al., 2017), for
    networks that were not trained with dropout too. Dropout is before the last layer with weights. The T masks depend
    on the seed only and are the same for all images, so that a value does not depend on the batch. If the last layer is
    linear and returns the logits, only this layer runs again. Otherwise it runs T times with the rest of the network,
    and the masks are over channels: the second of four axes, or else the last axis.

    Args:
        rate: share of features that are dropped.
        passes: T.
        seed: of the masks.
    """

    rate: float = 0.5
    passes: int = 50
    seed: int = 0

    @property
    def name(self) -> str:
        """Contains all options."""
        return f"dropout:rate={float(self.rate)!r}:passes={self.passes}:seed={self.seed}"

    needs = Needs(embeddings=True)  # needed for the head

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class.

        Raises:
            NetworkError: the network's last layer is not a module of its own.
        """
        if context.head is None:
            raise NetworkError(
                "expected a network whose last layer is a module, such as nn.Linear, got one that computes its logits "
                "differently; choose a detector without dropout"
            )
        # Welford's algorithm: memory does not grow with the number of passes.
        mean = squares = torch.zeros_like(context.logits, dtype=torch.float64)
        for count, logits in enumerate(self._logits(context, context.head), start=1):
            probabilities = logits.double().softmax(dim=1)
            difference = probabilities - mean
            mean = mean + difference / count
            squares = squares + difference * (probabilities - mean)
        return (squares / self.passes).sum(dim=1, keepdim=True).float()

    def _logits(self, context: ForwardPass, head: Head) -> Iterator[Tensor]:
        """The logits ``(B, K)`` of every pass."""
        channels = 1 if head.inputs.dim() == 4 else head.inputs.dim() - 1
        shape = [1] * head.inputs.dim()
        shape[channels] = head.inputs.shape[channels]
        generator = torch.Generator().manual_seed(self.seed)
        linear = (
            isinstance(head.module, nn.Linear)
            and head.inputs.dim() == 2
            and head.output.shape == context.logits.shape
            and torch.equal(head.output.float(), context.logits)
        )
        for _ in range(self.passes):
            kept = torch.rand(shape, generator=generator) >= self.rate
            mask = (kept / (1 - self.rate)).to(head.inputs)
            if linear:
                yield nn.functional.linear(head.inputs * mask, head.module.weight, head.module.bias)  # type: ignore[arg-type]
            else:
                with changing_input(head.module, partial(torch.mul, mask), head.call_index):
                    yield context.network(context.images)
