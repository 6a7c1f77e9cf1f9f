"""Selective and orthogonal projected gradient descent (Bryniarski et al., 2022)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from attacks.adaptive.result import AdaptiveResult, Forward
from attacks.common.finite import check_finite
from attacks.common.margins import margins as class_margins
from attacks.common.noise import ImageNoise
from attacks.common.norms import project
from attacks.common.steps import random_start
from attacks.decision_based.search import Decide
from models.errors import InputError
from models.options import check_count, check_number

__all__ = ["descend", "without_component"]

_LONGEST_STEP = 8 / 255


def descend(
    forward: Forward,
    decide: Decide,
    images: Tensor,
    labels: Tensor,
    *,
    kind: Literal["selective", "orthogonal"],
    epsilon: float,
    steps: int = 200,
    restarts: int = 2,
    seed: int = 0,
    visit: Callable[[Tensor], None] | None = None,
) -> AdaptiveResult:
    """Images within L∞ `epsilon` that fool and pass, by projected gradient descent on one of two losses at a time.

    While the network is right, a step follows the gradient that fools it; once it is wrong, the one that lowers the
    detector's margin. "selective" takes these gradients as they are, "orthogonal" takes from each the component along
    the other, so that a step towards one aim does not undo the other (Bryniarski et al., 2022, "Evading adversarial
    example detection defenses with orthogonal projected gradient descent").

    Runs start at the image itself first, then at random points of the ball. Every second run steps along the gradient
    with its length set to that of a sign step (no entry above 2.5 of them): a sign step is not orthogonal any more. The
    first iterate that `decide` lets pass ends an image's run, so norms are not made small.

    Args:
        forward: images → logits ``(b, K)`` and margins ``(b,)``, above 0 where flagged, both differentiable.
        images: ``(B, C, H, W)`` in [0, 1].
        labels: ``(B,)``, the true classes.
        steps: of each run. Their length falls geometrically from 10 · epsilon / steps to a tenth of that, so that the
            first ones cross the ball and the last ones settle between two aims. None is above 8/255: without a budget
            too, a step has to be as fine as an image is.
        visit: is shown each batch of iterates.

    Raises:
        InputError: another kind, or counts and numbers out of range.
        AttackError: a gradient that is not finite.
    """
    if kind not in ("selective", "orthogonal"):
        raise InputError(f"expected kind 'selective' or 'orthogonal', got {kind!r}")
    check_number("epsilon", epsilon, above=0)
    longest = min(10 * epsilon / check_count("steps", steps), epsilon, _LONGEST_STEP)
    noise = ImageNoise(check_count("seed", seed, least=0), 0)
    best, evaded = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    gradients = torch.zeros_like(queries)
    for run in range(check_count("restarts", restarts)):
        points = random_start(images, epsilon, "linf", noise, run) if run else images.clone()
        for number in range(steps):
            size = longest * 0.1 ** (number / steps)
            rows = (~evaded).nonzero().squeeze(1)
            if not len(rows):
                return AdaptiveResult(best, evaded, queries, gradients)
            direction = _direction(forward, points[rows], labels[rows], kind)
            step = direction.sign() if run % 2 == 0 else _as_long_as_a_sign(direction)
            moved = project(points[rows] + size * step, images[rows], epsilon, "linf")
            points[rows] = moved
            if visit is not None:
                visit(moved)
            passed = decide(moved, rows)
            best[rows[passed]], evaded[rows[passed]] = moved[passed], True
            queries[rows] += 1
            gradients[rows] += 1 if kind == "selective" else 2
    return AdaptiveResult(best, evaded, queries, gradients)


def without_component(values: Tensor, along: Tensor) -> Tensor:
    """Values ``(B, …)`` less their component along the other tensor: the result is orthogonal to it, row by row.

    Where `along` is zero, the values stay as they are.
    """
    # In float64, and with a largest entry of 1: gradients of confident networks are so small that squares underflow.
    flat, other = values.flatten(1).double(), along.flatten(1).double()
    other = other / other.abs().amax(1, keepdim=True).clamp_min(torch.finfo(other.dtype).tiny)
    length = other.square().sum(1, keepdim=True)
    share = (flat * other).sum(1, keepdim=True) / length.clamp_min(torch.finfo(other.dtype).tiny)
    return (flat - share * other).to(values.dtype).view_as(values)


def _direction(forward: Forward, points: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Where to go: up the fooling loss while the network is right, else down the detector's margin"""
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        logits, margins = forward(points)
        lead = -class_margins(logits, labels)
        fooled = (logits.argmax(1) != labels).detach()
        if kind == "selective":
            (direction,) = torch.autograd.grad(torch.where(fooled, -margins, lead).sum(), points)
            check_finite("gradients", direction)
            return direction
        (fooling,) = torch.autograd.grad(lead.sum(), points, retain_graph=True)
        (passing,) = torch.autograd.grad(-margins.sum(), points)
        check_finite("gradients", fooling, passing)
    return torch.where(
        fooled[:, None, None, None], without_component(passing, fooling), without_component(fooling, passing)
    )


def _as_long_as_a_sign(direction: Tensor) -> Tensor:
    """Along the direction, with a root mean square of 1 and no entry beyond 2.5"""
    scaled = direction / direction.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
    rms = scaled.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (scaled / rms.clamp_min(1e-12)).clamp(-2.5, 2.5)
