"""A differentiable surrogate of a detector whose score has no gradient, such as a forest."""

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import InputError
from models.options import check_count

__all__ = ["Surrogate", "fit_surrogate"]


class Surrogate(nn.Module):
    """Perceptron with two hidden layers: inputs ``(B, F)`` → margins ``(B,)``, above 0 if the detector is to flag.

    Inputs are standardised and compressed by asinh. An attack leaves the range of natural images by orders of
    magnitude, where the layers would have no useful slope on a linear scale.

    Args:
        centre, spread: ``(F,)``, mean and standard deviation of the inputs of the fit.
        width: of the hidden layers.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, centre: Tensor, spread: Tensor, *, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        # SiLU and not ReLU, whose slope is zero on one side: the surrogate exists for its gradient.
        self.layers = nn.Sequential(
            nn.Linear(len(centre), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Margins ``(B,)`` of inputs ``(B, F)``, divided by the root mean square of the margins of the fit."""
        margins: Tensor = self.layers(torch.asinh((inputs - self.centre) / self.spread)).squeeze(1)
        return margins

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Self:
        """The surrogate with this `state_dict`, in evaluation mode and without gradients of its weights."""
        surrogate = cls(arrays["centre"], arrays["spread"], width=len(arrays["layers.0.bias"]))
        surrogate.load_state_dict(arrays)
        return surrogate.to(arrays["centre"].device).eval().requires_grad_(False)


def fit_surrogate(
    inputs: Tensor, margins: Tensor, *, width: int = 128, epochs: int = 60, batch_size: int = 128, seed: int = 0
) -> Surrogate:
    """Fit a surrogate to the detector's margins; in evaluation mode, without gradients of its weights.

    Margins are divided by their root mean square and not centred, so that zero stays the threshold. The same arguments
    give the same surrogate on the same machine. The global random state is restored.

    Args:
        inputs: ``(N, F)`` float32, features of N images.
        margins: ``(N,)``, the detector's score minus its threshold.
        width: of the hidden layers.
        epochs: passes over the images.
        batch_size: images per step.
        seed: of the initial weights and the order of the images.

    Raises:
        InputError: no images, unequal numbers of inputs and margins, or values that are not finite.
    """
    if inputs.ndim != 2 or margins.shape != inputs.shape[:1] or not len(inputs):
        raise InputError(
            f"expected inputs (N, F) and margins (N,) with N above 0, got {tuple(inputs.shape)} and "
            f"{tuple(margins.shape)}; pass one margin per image"
        )
    if not (torch.isfinite(inputs).all() and torch.isfinite(margins).all()):
        raise InputError("expected finite inputs and margins, got NaN or infinity; remove these images")
    check_count("epochs", epochs)
    inputs = inputs.float()
    targets = margins.float() / margins.float().square().mean().sqrt().clamp_min(1e-6)  # avoid division by zero
    spread = inputs.std(0, unbiased=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        surrogate = Surrogate(inputs.mean(0).cpu(), torch.where(spread > 0, spread, 1.0).cpu(), width=width)
    surrogate.to(inputs.device).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(surrogate.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
            for rows in torch.split(order, batch_size):
                optimizer.zero_grad()
                F.smooth_l1_loss(surrogate(inputs[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
    return surrogate.eval().requires_grad_(False)
