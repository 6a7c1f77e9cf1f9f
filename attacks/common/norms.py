"""Distances, balls and directions in the two norms that attacks are measured in here: L∞ and L2."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Norm", "perturbation_norms", "project", "projection", "steepest", "tolerance"]

Norm = Literal["linf", "l2"]

_TINY = 1e-12  # keeps a zero gradient a zero direction, and a zero perturbation where it is


def perturbation_norms(natural: Tensor, attacked: Tensor) -> tuple[Tensor, Tensor]:
    """L∞ and L2 size of each image's perturbation: ``(B, ...)``, ``(B, ...)`` → ``(B,)``, ``(B,)``, both float64."""
    difference = (attacked.double() - natural.double()).flatten(1)
    return difference.abs().amax(1), difference.square().sum(1).sqrt()


def tolerance(norm: Norm, pixels: int) -> float:
    """How far rounding alone can carry an image of `pixels` float32 values out of its ball.

    Each pixel in [0, 1] is off by at most half a unit in the last place, 2⁻²⁵; in L2 those add up over all pixels.
    """
    return 1e-6 if norm == "linf" else 1e-6 + 2.0**-25 * pixels**0.5


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Unit step that raises a linear function of this gradient most: its sign (L∞) or its direction (L2)."""
    if norm == "linf":
        return gradient.sign()
    # Scaled by the largest entry first: a float32 square underflows where the gradient itself does not.
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
    return scaled / _lengths(scaled)


def project(images: Tensor, natural: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Images inside the ball of radius `epsilon` around the natural ones and inside [0, 1].

    In L∞ this is the nearest such image. In L2 it is ball first, box second: clipping to a box that holds the natural
    image moves every pixel towards it, so the result is inside both, though not always the nearest point of both.
    """
    return projection(natural, epsilon, norm)(images)


def projection(natural: Tensor, epsilon: float, norm: Norm) -> Callable[[Tensor], Tensor]:
    """`project` for many images around the same natural ones: their bounds are computed once."""
    if norm == "linf":
        low, high = (natural - epsilon).clamp_(min=0.0), (natural + epsilon).clamp_(max=1.0)
        return lambda images: torch.clamp(images, low, high)

    def onto_ball(images: Tensor) -> Tensor:
        perturbation = images - natural
        return (natural + perturbation * (epsilon / _lengths(perturbation)).clamp(max=1.0)).clamp(0.0, 1.0)

    return onto_ball


def _lengths(values: Tensor) -> Tensor:
    """``(B, C, H, W)`` → ``(B, 1, 1, 1)``, never zero"""
    return values.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(_TINY)
