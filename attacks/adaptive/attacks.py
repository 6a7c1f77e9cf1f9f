"""Attacks on a network and its detector together: an image has to fool the one and pass the other.

The detector comes in as callables, so nothing here knows what it is:

    decide(images, rows) → (b,) bool    whether the image of that row is what the attacker wants: wrong and not flagged
    forward(images) → (b, K), (b, …)    the network's logits, and what the detector sees of the images or its margin

black_box          HopSkipJump on `decide` (thesis 5.4.5, first attack; also the attack on the whole system): nearest
                   to the images it is given, which in the thesis are the detected adversarial ones, not the originals
find_features      HopSkipJump on the detector alone, in the space of its features (second attack, first half)
match_features     equation 42: an image that still fools and has those features (second attack, second half)
descend            selective and orthogonal projected gradient descent (Bryniarski et al., 2022)
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.common.base import check_count, check_number
from attacks.common.finite import check_finite
from attacks.common.isolation import ImageNoise
from attacks.common.norms import project
from attacks.common.steps import random_start
from attacks.decision_based.decision import Decide, hop_skip_jump
from models.errors import InputError

__all__ = [
    "AdaptiveResult",
    "Forward",
    "black_box",
    "descend",
    "find_features",
    "match_features",
    "nearest_starts",
    "without_component",
]

_LONGEST_STEP = 8 / 255

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class AdaptiveResult(NamedTuple):
    """What an adaptive attack made of B images.

    Attributes:
        images: ``(B, …)``; where nothing was found, the image the attack was given.
        evaded: ``(B,)`` bool, `decide` says so.
        queries: ``(B,)`` int64, how often `decide` was asked.
        gradients: ``(B,)`` int64, backward passes through the network.
    """

    images: Tensor
    evaded: Tensor
    queries: Tensor
    gradients: Tensor


def nearest_starts(targets: Tensor, pool: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """For each target ``(B, …)`` the nearest of the pool ``(P, …)`` that is allowed for it, and whether there is one.

    Args:
        allowed: ``(B, P)`` bool.

    Returns:
        Starts ``(B, …)``, the target itself where none is allowed, and ``(B,)`` bool.
    """
    distances = torch.cdist(targets.flatten(1), pool.flatten(1)).masked_fill(~allowed, torch.inf)
    any_allowed = allowed.any(1)
    starts = targets.clone()
    if any_allowed.any():  # an empty pool has no nearest
        starts[any_allowed] = pool[distances.argmin(1)[any_allowed]]
    return starts, any_allowed


def black_box(
    decide: Decide,
    images: Tensor,
    starts: Tensor,
    *,
    steps: int = 50,
    max_queries: int = 10_000,
    first_queries: int = 100,
    total_queries: int | None = None,
    seed: int = 0,
) -> AdaptiveResult:
    """HopSkipJump from the starts towards the images, staying where `decide` says yes; smallest L2 distance wins.

    The distance that is made small is that from `images`. In the thesis (5.4.5) these are the detected adversarial
    images x̃; how far the result is from the natural image x is then no aim of the attack, and is measured afterwards.

    Whoever starts from an image that passes has one all along: that an image is evaded says nothing without its
    distance. Rows whose start does not pass come back as they were.

    Args:
        images, starts: ``(B, C, H, W)`` in [0, 1].
        steps, max_queries, first_queries: as `hop_skip_jump`; the thesis's 50 iterations and 10,000 evaluations.
        total_queries: most queries for one image in all; None: no limit but these.
    """
    found = hop_skip_jump(
        decide, images, starts, norm="l2", steps=steps, max_queries=max_queries, first_queries=first_queries,
        total_queries=total_queries, seed=seed,
    )  # fmt: skip
    kept = torch.where(_as_rows(found.found, images), found.images, images)
    return AdaptiveResult(kept, found.found, found.queries, torch.zeros_like(found.queries))


def find_features(
    decide: Decide,
    features: Tensor,
    starts: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    steps: int = 50,
    max_queries: int = 10_000,
    first_queries: int = 100,
    total_queries: int | None = None,
    seed: int = 0,
) -> AdaptiveResult:
    """Features ``(B, F)`` near the given ones that the detector does not flag, from starts that it does not flag.

    HopSkipJump in the box between `low` and `high` ``(F,)``, scaled to [0, 1]: columns of different units would
    otherwise not count alike in its distances. `decide` is asked in the features' own units.
    """
    extent = high - low
    unit = torch.where(extent > 0, extent, torch.ones_like(extent))  # a column without extent stays where it is

    def decide_scaled(points: Tensor, rows: Tensor) -> Tensor:
        return decide(low + points * extent, rows)

    found = black_box(
        decide_scaled,
        ((features - low) / unit).clamp(0, 1),
        ((starts - low) / unit).clamp(0, 1),
        steps=steps,
        max_queries=max_queries,
        first_queries=first_queries,
        total_queries=total_queries,
        seed=seed,
    )
    return found._replace(images=torch.where(found.evaded[:, None], low + found.images * extent, features))


def match_features(
    forward: Forward,
    decide: Decide,
    images: Tensor,
    starts: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    scale: Tensor,
    weights: Sequence[float] = (0.1, 1.0, 10.0, 100.0),
    distance_weight: float = 0.1,
    loss: Literal["cross_entropy", "margin"] = "cross_entropy",
    steps: int = 100,
    learning_rate: float = 0.005,
) -> AdaptiveResult:
    """Images that fool the network and have features near the targets (thesis, equation 42).

    Minimises −L(N(x*), y) + c₁ ‖(D(x*) − z*) / scale‖ + c₂ ‖x* − x‖ over x* in [0, 1] with Adam, from `starts`, once
    for each c₁. The division by `scale` is not in the thesis: columns differ by orders of magnitude. Every iterate of
    every c₁ is judged, and of those that `decide` lets pass an image keeps the one nearest to x in L2. Deterministic,
    and no image depends on another.

    Args:
        forward: images → logits ``(b, K)`` and features ``(b, F)``, both differentiable.
        images: ``(B, C, H, W)``, the natural originals x.
        starts: of the same shape, the detected adversarial images.
        labels: ``(B,)``, the true classes y.
        targets: ``(B, F)``, the features z* that pass.
        scale: ``(F,)``, above 0.
        weights: the c₁ that are tried.
        distance_weight: c₂.
        loss: L; "margin" is the largest wrong logit minus the right one, cut at 1, so that it stops pulling there.

    Raises:
        InputError: no weights, or a loss of another name.
        AttackError: a gradient that is not finite.
    """
    if not weights:
        raise InputError("expected at least one weight of the features, got none; give some, such as (1.0, 10.0)")
    if loss not in ("cross_entropy", "margin"):
        raise InputError(f"expected loss 'cross_entropy' or 'margin', got {loss!r}")
    check_count("steps", steps)
    check_number("learning_rate", learning_rate, above=0)
    rows = torch.arange(len(images), device=images.device)
    best, evaded = starts.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    nearest = torch.full((len(images),), torch.inf, device=images.device)
    for weight in weights:
        point = starts.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([point], lr=learning_rate)
        for _ in range(steps):
            logits, features = forward(point)
            fooling = (
                F.cross_entropy(logits, labels, reduction="none")
                if loss == "cross_entropy"
                else lead_of_wrong_class(logits, labels).clamp(max=1.0)
            )
            objective = (
                -fooling
                + weight * _length((features - targets) / scale)
                + distance_weight * _length((point - images).flatten(1))
            )
            # Summed: Adam works entry by entry, so each image is optimised as if it were alone.
            (gradient,) = torch.autograd.grad(objective.sum(), point)
            check_finite("gradients", gradient)
            point.grad = gradient
            optimizer.step()
            with torch.no_grad():
                point.clamp_(0, 1)
            here = point.detach()
            distance = (here - images).flatten(1).norm(dim=1)
            better = decide(here, rows) & (distance < nearest)
            best[better], nearest[better] = here[better], distance[better]
            evaded |= better
    count = torch.full((len(images),), len(weights) * steps, device=images.device)
    return AdaptiveResult(best, evaded, count, count.clone())


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


def lead_of_wrong_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest wrong logit minus the right one ``(B,)``; above 0 where misclassified."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


def _direction(forward: Forward, points: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Where to go: up the fooling loss while the network is right, else down the detector's margin"""
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        logits, margins = forward(points)
        lead = lead_of_wrong_class(logits, labels)
        fooled = (logits.argmax(1) != labels).detach()
        if kind == "selective":
            (direction,) = torch.autograd.grad(torch.where(fooled, -margins, lead).sum(), points)
            check_finite("gradients", direction)
            return direction
        (fooling,) = torch.autograd.grad(lead.sum(), points, retain_graph=True)
        (passing,) = torch.autograd.grad(-margins.sum(), points)
        check_finite("gradients", fooling, passing)
    return torch.where(
        _as_rows(fooled, points), without_component(passing, fooling), without_component(fooling, passing)
    )


def _as_long_as_a_sign(direction: Tensor) -> Tensor:
    """Along the direction, with a root mean square of 1 and no entry beyond 2.5"""
    scaled = direction / direction.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
    rms = scaled.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (scaled / rms.clamp_min(1e-12)).clamp(-2.5, 2.5)


def _length(values: Tensor) -> Tensor:
    """``(B, F)`` → ``(B,)``; with a slope of zero at zero, where the norm itself has none"""
    return (values.square().sum(1) + 1e-12).sqrt()


def _as_rows(flags: Tensor, values: Tensor) -> Tensor:
    return flags.view(-1, *(1,) * (values.ndim - 1))
