"""Distances, projections and steepest directions in L∞ and L2."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Norm", "perturbation_norms", "project", "projection", "steepest", "tolerance"]

Norm = Literal["linf", "l2"]

_IMAGES = 32  # whose norms are computed at once
_TINY = 1e-12  # so that a zero gradient gives a zero direction, and a zero perturbation stays zero


def perturbation_norms(natural: Tensor, attacked: Tensor) -> tuple[Tensor, Tensor]:
    """L∞ and L2 norms of the perturbations, ``(B,)`` float64 each, of images ``(B, ...)``."""
    linf, l2 = [], []
    # Part by part, since float64 copies of a whole set of photos need gigabytes.
    for one, other in zip(torch.split(attacked, _IMAGES), torch.split(natural, _IMAGES), strict=True):
        difference = (one.double() - other.double()).flatten(1)
        linf.append(difference.abs().amax(1))
        l2.append(difference.square().sum(1).sqrt())
    return torch.cat(linf), torch.cat(l2)


def tolerance(norm: Norm, pixels: int) -> float:
    """Distance by which rounding alone can move an image of `pixels` float32 values out of its ball.

    The rounding error of a pixel in [0, 1] is at most half a unit in the last place, 2⁻²⁵; in L2 the errors of all
    pixels add up.
    """
    return 1e-6 if norm == "linf" else 1e-6 + 2.0**-25 * pixels**0.5


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Unit step that raises a linear function with this gradient most: its sign (L∞) or its direction (L2)."""
    if norm == "linf":
        return gradient.sign()
    # Divided by the largest entry first, since a float32 square underflows earlier than the gradient itself.
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
    return scaled / _lengths(scaled)


def project(images: Tensor, natural: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Images inside the ball of radius `epsilon` around the natural ones and inside [0, 1].

    In L∞ the result is the nearest such image. In L2 the projection onto the ball comes first and the clipping second.
    Clipping moves every pixel towards the natural image, so the result is inside both, but not always the nearest.

    Args:
        images: ``(B, C, H, W)``.
        natural: the centres of the balls, of the same shape.
        epsilon: radius.
        norm: "linf" or "l2".
    """
    return projection(natural, epsilon, norm)(images)


def projection(natural: Tensor, epsilon: float, norm: Norm) -> Callable[[Tensor], Tensor]:
    """`project` as a function of the images alone, with bounds that are computed once."""
    if norm == "linf":
        low, high = (natural - epsilon).clamp_(min=0.0), (natural + epsilon).clamp_(max=1.0)
        return lambda images: torch.clamp(images, low, high)

    def onto_ball(images: Tensor) -> Tensor:
        perturbation = images - natural
        return (natural + perturbation * (epsilon / _lengths(perturbation)).clamp(max=1.0)).clamp(0.0, 1.0)

    return onto_ball


def _lengths(values: Tensor) -> Tensor:
    """L2 norms ``(B, 1, 1, 1)``, never zero."""
    return values.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(_TINY)
