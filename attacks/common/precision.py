"""Gradients in bfloat16 with decisions in float32: about half the time of a gradient attack.

Forward and backward passes run under autocast on channels-last images. Weights stay as they are, so the network needs
no copy, and normalisations, sums and losses that need float32 keep it. On CPUs this is as fast as a copy of the network
in bfloat16, with gradients nearer to those of float32.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from models.devices import device_of
from models.errors import InputError
from models.options import check_choice

__all__ = ["Bfloat16Gradients", "Precision", "check_precision", "with_gradients_in"]

Precision = Literal["float32", "bfloat16"]


class Bfloat16Gradients(nn.Module):
    """The network: bfloat16 for images that require a gradient, unchanged for all others. Logits are float32.

    Args:
        network: takes images in [0, 1], returns logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            logits: Tensor = self.network(images)
            return logits
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits.float()


def check_precision(precision: Precision, engine: str) -> Precision:
    """The precision unchanged.

    Args:
        precision: "float32" or "bfloat16".
        engine: "torch", or "art" for ART's code.

    Raises:
        InputError: another precision, or bfloat16 with ART, which computes in float32.
    """
    checked: Precision = check_choice("precision", precision, ("float32", "bfloat16"))
    if engine == "art" and checked != "float32":
        raise InputError("engine 'art' supports precision 'float32' only; use engine 'torch'")
    return checked


def with_gradients_in(precision: Precision, network: nn.Module, images: Tensor) -> nn.Module:
    """The network with gradients in this precision; with a warning, the network itself if bfloat16 has no benefit.

    This is so if the hardware has no fast bfloat16, or if the network fails or is not finite on the first image.

    Args:
        precision: of the gradients.
        network: takes images in [0, 1], returns logits.
        images: ``(B, C, H, W)``, on the network's device.
    """
    if precision == "float32":
        return network
    device = device_of(network) or images.device
    if not _fast_bfloat16(device.type):
        warnings.warn(
            f"this {device.type.upper()} has no fast bfloat16 that torch {torch.__version__} knows; "
            "the attack computes in float32",
            stacklevel=2,
        )
        return network
    lower = Bfloat16Gradients(network)
    if fault := _fault(lower, images[:1]):
        warnings.warn(f"the network does not work in bfloat16 ({fault}); the attack computes in float32", stacklevel=2)
        return network
    return lower


def _fault(lower: nn.Module, image: Tensor) -> str | None:
    """Why the network has no gradient in bfloat16; None if it has one."""
    image = image.detach().clone().requires_grad_(True)
    try:
        logits = lower(image)
        if not logits.requires_grad:
            return None  # nor in float32; the attack's own message states the remedy
        (gradient,) = torch.autograd.grad(logits.sum(), image)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as exc:
        return str(exc).partition("\n")[0]
    return None if logits.isfinite().all() and gradient.isfinite().all() else "logits or gradients are not finite"


def _fast_bfloat16(kind: str) -> bool:
    """Whether this kind of device has instructions for products of bfloat16 numbers."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name) is True for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))
