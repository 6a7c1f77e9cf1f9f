"""Fresh weights by the papers' schemes, the same on every device."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.options import check_choice, check_number

__all__ = ["INITIALIZATIONS", "Initialization", "initialize"]

Initialization = Literal["default", "kaiming", "orthogonal", "normal"]
INITIALIZATIONS: tuple[Initialization, ...] = get_args(Initialization)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def initialize(network: nn.Module, scheme: Initialization, gain: float = 1.0, *, seed: int = 0) -> None:
    """Draw the weights of all convolutions and linear layers anew, in place; every other parameter is left as it is.

    Args:
        network: on any device; the weights depend on (seed, scheme, gain) and on the layers' order alone.
        scheme: "default" changes nothing. "kaiming": N(0, 2·gain²/fan_in) (He et al. 2015). "orthogonal": gain times a
            matrix (outputs, everything else) with orthonormal rows or columns (Saxe et al. 2014). Both make biases
            zero. "normal": N(0, gain²) for weights and biases, gain being the standard deviation, as in the thesis's
            circles (section 3.2).
        gain: above 0.

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
            # Drawn in plain memory order on the CPU: views of channels-last weights, and a GPU's numbers, are others.
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
