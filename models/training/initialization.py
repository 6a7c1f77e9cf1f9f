"""Initial weights by published schemes, equal on every device."""

import math

import torch
from torch import Tensor, nn

from models.options import check_choice, check_number
from models.training.recipe import INITIALIZATIONS, Initialization

__all__ = ["initialize"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def initialize(network: nn.Module, scheme: Initialization, gain: float = 1.0, *, seed: int = 0) -> None:
    """Draw new weights for all convolutions and linear layers, in place; other parameters are unchanged.

    Args:
        network: on any device; the weights depend only on (seed, scheme, gain) and the order of the layers.
        scheme: "default" changes nothing. "kaiming": N(0, 2·gain²/fan_in) (He et al. 2015). "orthogonal": gain times a
            matrix (outputs, everything else) with orthonormal rows or columns (Saxe et al. 2014). Both make biases
            zero. "normal": N(0, gain²) for weights and biases, gain being the standard deviation, as in the thesis's
            circles (section 3.2).
        gain: above 0.
        seed: of the random numbers.

    Raises:
        InputError: an unknown scheme, or a gain that is not above 0.
    """
    check_choice("initialization", scheme, INITIALIZATIONS)
    gain = check_number("gain", gain, above=0)
    if scheme == "default":
        return
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, (*_CONVOLUTIONS, nn.Linear)):
            # On the CPU and in plain memory order: a GPU or channels-last weights would give other numbers.
            layer.weight.copy_(_drawn(torch.empty(layer.weight.shape), scheme, gain, generator))
            if layer.bias is not None:
                layer.bias.zero_()
                if scheme == "normal":
                    layer.bias.copy_(torch.empty(layer.bias.shape).normal_(0, gain, generator=generator))


def _drawn(weight: Tensor, scheme: Initialization, gain: float, generator: torch.Generator) -> Tensor:
    if scheme == "orthogonal":
        return nn.init.orthogonal_(weight, gain, generator=generator)
    if scheme == "kaiming":
        fan_in = weight[0].numel()
        return weight.normal_(0, gain * math.sqrt(2 / fan_in), generator=generator)
    return weight.normal_(0, gain, generator=generator)
