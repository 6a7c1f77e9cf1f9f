"""Starts and proposals of the Square attack for a whole batch (Andriushchenko et al., 2020, algorithms 2 and 3).

The caller provides the random numbers of a proposal, ``(B, 6 + C)`` uniform in [0, 1): position of the first square (2)
and of the second (2), orientation (1), common sign (1), sign of each channel (C).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["propose_l2", "propose_linf", "start_l2", "start_linf"]

_TINY = 1e-12
_CELLS = 5  # of the L2 start, along each side


def start_linf(natural: Tensor, epsilon: float, generators: Sequence[torch.Generator]) -> Tensor:
    """The start in L∞: vertical stripes one pixel wide, ±epsilon in every channel."""
    stripes = natural.new_empty((*natural.shape[:2], 1, natural.shape[3]))
    for stripe, generator in zip(stripes, generators, strict=True):
        stripe.uniform_(-1, 1, generator=generator)
    return natural + epsilon * _signs(stripes)


def propose_linf(natural: Tensor, best: Tensor, epsilon: float, side: int, drawn: Tensor) -> Tensor:
    """The best images with one square set to natural ± epsilon, with a sign per channel.

    Args:
        natural: ``(B, C, H, W)``.
        best: the best images so far, of the same shape.
        epsilon: L∞ budget.
        side: of the square, in pixels.
        drawn: ``(B, 6 + C)``, random numbers.
    """
    tried = best.clone()
    at = _square(_places(drawn[:, :2], side, natural), side)
    tried[at] = natural[at] + epsilon * _signs(2 * drawn[:, 6:] - 1)[:, None, None]
    return tried


def start_l2(natural: Tensor, epsilon: float, generators: Sequence[torch.Generator]) -> Tensor:
    """The start in L2: a grid of bumps with a random sign per bump and channel and a total norm of epsilon."""
    count, channels, height, width = natural.shape
    side = max(min(height, width) // _CELLS, 2)
    drawn = natural.new_empty((count, height // side, width // side, 1 + channels))
    for part, generator in zip(drawn, generators, strict=True):
        part.uniform_(generator=generator)
    perturbation = torch.zeros_like(natural)
    for i in range(height // side):
        for j in range(width // side):
            bump = _bumps(side, drawn[:, i, j, 0] < 0.5)
            signs = _signs(2 * drawn[:, i, j, 1:] - 1)
            window = (..., slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
            perturbation[window] = signs[:, :, None, None] * bump[:, None]
    return natural + perturbation * (epsilon / _length(perturbation))


def propose_l2(natural: Tensor, best: Tensor, epsilon: float, side: int, drawn: Tensor) -> Tensor:
    """The best images with the perturbation of the second square removed and its norm moved into the first square.

    The norm that clipping to [0, 1] has freed goes there, too.

    Args:
        natural: ``(B, C, H, W)``.
        best: the best images so far, of the same shape.
        epsilon: L2 budget.
        side: of the squares, in pixels.
        drawn: ``(B, 6 + C)``, random numbers.
    """
    side = max(side, 3)  # a bump has two halves and a norm above 0
    perturbation = best - natural
    into = _square(_places(drawn[:, :2], side, natural), side)
    out_of = _square(_places(drawn[:, 2:4], side, natural), side)
    touched = torch.zeros_like(natural)
    touched.permute(0, 2, 3, 1)[_last(into)] = 1
    touched.permute(0, 2, 3, 1)[_last(out_of)] = 1
    # Squared norms: of the whole perturbation, of both squares per channel, and the unused rest of the budget.
    spent = perturbation.square().sum(dim=(1, 2, 3))
    of_squares = (perturbation.square() * touched).sum(dim=(2, 3))
    spare = (epsilon**2 - spent).clamp_min(0) / natural.shape[1]
    here = perturbation[into]
    bump = _bumps(side, drawn[:, 4] < 0.5)[..., None] * _signs(2 * drawn[:, 6:] - 1)[:, None, None]
    here = bump + here / here.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp_min(_TINY)
    here = here / here.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp_min(_TINY)
    perturbation[out_of] = 0
    perturbation[into] = here * (of_squares + spare[:, None]).sqrt()[:, None, None]
    return natural + perturbation * (epsilon / _length(perturbation)).clamp(max=1.0)


def _places(drawn: Tensor, side: int, images: Tensor) -> Tensor:
    """Top and left edges ``(B, 2)`` of squares inside the images, from numbers uniform in [0, 1)."""
    room = torch.tensor([images.shape[2] - side + 1, images.shape[3] - side + 1], device=images.device)
    return torch.minimum((drawn * room).long(), room - 1)


def _square(places: Tensor, side: int) -> tuple[Tensor, slice, Tensor, Tensor]:
    """An index that selects ``(B, side, side, C)`` from ``(B, C, H, W)``."""
    along = torch.arange(side, device=places.device)
    rows = torch.arange(len(places), device=places.device)[:, None, None]
    return rows, slice(None), places[:, :1, None] + along[None, :, None], places[:, 1:, None] + along[None, None]


def _last(index: tuple[Tensor, slice, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    rows, _, top, left = index
    return rows, top, left


def _bumps(side: int, transposed: Tensor) -> Tensor:
    """``(B, side, side)`` of norm 1: a positive and a negative half, one above the other or, transposed, in a row."""
    half = side // 2
    both = torch.cat([_hill(half, side), -_hill(side - half, side)])
    both = (both / both.norm()).to(transposed.device)
    return torch.where(transposed[:, None, None], both.T, both)


def _hill(height: int, width: int) -> Tensor:
    """``(height, width)`` of norm 1: nested rectangles, where the k-th from the centre adds 1 / k²."""
    i, j = torch.arange(height)[:, None], torch.arange(width)[None]
    # Rings are counted from the centre outwards.
    rings = max(height // 2 + 1, width // 2 + 1)
    across = torch.maximum((i - height // 2).abs(), (j - width // 2).abs())
    weights = torch.tensor([sum(1 / k**2 for k in range(ring + 1, rings + 1)) for ring in range(rings + 1)])
    hill = weights[across.clamp(max=rings)]
    return torch.div(hill, hill.square().sum().sqrt().clamp_min(_TINY))


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0)


def _length(perturbation: Tensor) -> Tensor:
    return perturbation.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(_TINY)
