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
    batch_size: int | None = None,
) -> AdaptiveResult:
    """Images within L∞ `epsilon` that fool the network and pass the detector, by projected gradient descent.

    Each step follows one of two gradients: while the network is right, the gradient that fools it; once it is wrong,
    the gradient that lowers the detector's margin. "selective" uses these gradients unchanged. "orthogonal" removes
    from each its component along the other, so that a step towards one goal does not undo the other (Bryniarski et al.,
    2022, "Evading adversarial example detection defenses with orthogonal projected gradient descent").

    The first run starts at the image itself, later runs at random points of the ball. Runs with an even index take sign
    steps. Runs with an odd index step along the gradient, scaled to the norm of a sign step with entries of at most
    2.5, since a sign step is no longer orthogonal. The run of an image ends at the first iterate that `decide` accepts,
    so distances are not minimised.

    Args:
        forward: images → logits ``(b, K)`` and margins ``(b,)``, above 0 if flagged, both differentiable.
        decide: whether an image fools the network and passes the detector.
        images: ``(B, C, H, W)`` in [0, 1].
        labels: ``(B,)``, the true classes.
        kind: "selective" or "orthogonal".
        epsilon: L∞ budget.
        steps: of each run. The step size falls geometrically from 10 · epsilon / steps to a tenth of that: the first
            steps cross the ball, and the last ones settle between both goals. It is at most 8/255, also without a
            budget.
        restarts: number of runs.
        seed: of the random starts.
        visit: called with each batch of iterates.
        batch_size: maximum number of images per gradient, which changes nothing but rounding; None: all of them.

    Raises:
        InputError: an unknown kind, or a number out of range.
        AttackError: a gradient is not finite.
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
            parts = torch.split(rows, batch_size or len(rows))
            direction = torch.cat([_direction(forward, points[part], labels[part], kind) for part in parts])
            step = direction.sign() if run % 2 == 0 else _scaled_to_sign(direction)
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
    """Values ``(B, …)`` minus their component along the other tensor: orthogonal to it, row by row.

    Rows where `along` is zero are unchanged.
    """
    # In float64 and with a largest entry of 1, since squares of a confident network's gradients underflow.
    flat, other = values.flatten(1).double(), along.flatten(1).double()
    other = other / other.abs().amax(1, keepdim=True).clamp_min(torch.finfo(other.dtype).tiny)
    length = other.square().sum(1, keepdim=True)
    share = (flat * other).sum(1, keepdim=True) / length.clamp_min(torch.finfo(other.dtype).tiny)
    return (flat - share * other).to(values.dtype).view_as(values)


def _direction(forward: Forward, points: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Direction of the next step: up the fooling loss while the network is right, else down the detector's margin."""
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


def _scaled_to_sign(direction: Tensor) -> Tensor:
    """The direction scaled to a root mean square of 1, with entries clipped to 2.5."""
    scaled = direction / direction.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
    rms = scaled.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (scaled / rms.clamp_min(1e-12)).clamp(-2.5, 2.5)
