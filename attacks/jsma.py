"""Jacobian-based Saliency Map Attack (JSMA): changes the two most salient values at a time (Papernot et al., 2016)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from attacks.common.base import (
    Attack,
    ImageNoise,
    Target,
    check_choice,
    check_count,
    check_number,
    check_target,
    target_classes,
)
from attacks.common.finite import check_finite
from attacks.libraries.art import art_version, run_art_attack
from models.errors import InputError

__all__ = ["JSMA"]

_SMALLEST_STEP = 1 / 255  # one grey level; with steps below the resolution of float32 the search would not end


class JSMA(Attack):
    """Changes at most a share `gamma` of an image's values, each by `theta` at a time, within [0, 1].

    Each step changes the pair (p, q) of values, by pixel and channel, with the highest saliency of algorithm 3,
    (a_p + a_q) · (b_p + b_q), where both sums have to be positive: a is the rise of the target's logit with theta, and
    b the fall of the sum of the other logits. If no pair qualifies, the paper stops; here the pair with the largest
    a + b is changed, since the logits of a good network often rise together.

    The search for the best pair is exact as a rule: it excludes values that cannot exceed the best known pair with any
    partner. If more than `candidates` values remain, only those with the highest bounds are paired, which may miss the
    best pair.

    The attack in the paper is always targeted. Without a target, this attack moves to the runner-up of the natural
    image and stops as soon as the image is misclassified; with a target it stops in that class. There is no budget in
    L2 or L∞. The attack is deterministic except for a random target, and images do not influence each other.

    Args:
        theta: change of a value in one step, positive or negative, at least one grey level (1/255) in size; 1 in the
            paper, 0.1 in ART. A value may change repeatedly, in up to gamma · D / (2 · |theta|) steps for D values.
        gamma: largest share of an image's values that may change, by default the paper's.
        candidates: maximum number of values of an image that are paired in one step.
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`).
        engine: "torch", or "art" for ART's SaliencyMapMethod, which changes the two values with the largest gradient of
            the target's logit (often fewer values than with the paper's rule), and always continues to the target.
    """

    lp_bounded: bool = False

    def __init__(
        self,
        *,
        theta: float = 1.0,
        gamma: float = 0.145,
        candidates: int = 128,
        target: Target | None = None,
        engine: Literal["torch", "art"] = "torch",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm="l2", epsilon=None, batch_size=batch_size, seed=seed)
        self.theta = check_number("theta", theta, least=-1.0)
        if not _SMALLEST_STEP <= abs(self.theta) <= 1:
            raise InputError(
                f"expected theta in [-1, 1] and at least 1/255 = {_SMALLEST_STEP:.4g} either way, got {theta!r}; "
                "a step below one grey level would make the search very long"
            )
        self.gamma = check_number("gamma", gamma, above=0)
        if self.gamma > 1:
            raise InputError(f"expected gamma in (0, 1], a share of an image's values, got {gamma!r}")
        self.candidates = check_count("candidates", candidates, least=2)
        self.target = check_target(target)
        self.engine = check_choice("engine", engine, ("torch", "art"))

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch, attacked by the engine."""
        targets = target_classes("runner_up" if self.target is None else self.target, network, images, labels, noise)
        if self.engine == "art":
            options = {"theta": self.theta, "gamma": self.gamma, "batch_size": len(images), "verbose": False}
            return run_art_attack("SaliencyMapMethod", network, images, targets, options)
        return self._search(network, images, labels, targets)

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}

    def _search(self, network: nn.Module, images: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        found = images.clone()
        changed = torch.zeros_like(found.flatten(1), dtype=torch.bool)
        most = int(self.gamma * changed.shape[1])
        end = 1.0 if self.theta > 0 else 0.0
        active = torch.arange(len(images), device=images.device)
        # Each step changes two values, and each value can change this many times.
        moves = math.ceil(1 / abs(self.theta)) + 1
        for _ in range(most * moves // 2 + 1):
            tried = found[active].requires_grad_(True)
            logits = network(tried)
            predicted = logits.detach().argmax(1)
            there = predicted != labels[active] if self.target is None else predicted == targets[active]
            target = logits.gather(1, targets[active][:, None]).sum()
            (of_target,) = torch.autograd.grad(target, tried, retain_graph=True)
            (of_others,) = torch.autograd.grad(logits.sum() - target, tried)
            check_finite("logits and gradients", logits, of_target, of_others)
            sign = 1.0 if self.theta > 0 else -1.0
            pixels = tried.detach().flatten(1)
            # Values at the end of their range cannot change; after `most` changed values, only these may change again.
            full = changed[active].sum(1) + 2 > most
            free = (pixels != end) & (changed[active] | ~full[:, None])
            on = ~there & (free.sum(1) >= 2)
            rows, left = active[on], free[on]
            if len(rows) == 0:
                break
            pairs = _best_pairs(
                sign * of_target.flatten(1)[on], -sign * of_others.flatten(1)[on], left, self.candidates
            )
            moved = found.flatten(1)[rows]
            moved.scatter_(1, pairs, (moved.gather(1, pairs) + self.theta).clamp(0.0, 1.0))
            found[rows] = moved.view_as(found[rows])
            changed[rows] = changed[rows].scatter(1, pairs, True)
            active = rows
        return found


def _best_pairs(a: Tensor, b: Tensor, free: Tensor, candidates: int) -> Tensor:
    """The pair ``(B, 2)`` of free values with the highest saliency.

    Args:
        a, b: ``(B, D)``, rise of the target's logit and fall of the sum of the others with each value.
        free: ``(B, D)`` bool, values that may change; at least two per image.
        candidates: maximum number of values to pair.
    """
    a, b = a.masked_fill(~free, -torch.inf), b.masked_fill(~free, -torch.inf)
    rising = (a + b).topk(2, dim=1)
    # A lower bound of the best saliency; if this pair is not admissible, every value with a positive bound stays.
    known = _saliency(a.gather(1, rising.indices).sum(1), b.gather(1, rising.indices).sum(1))
    bound = _saliency(a + a.amax(1, keepdim=True), b + b.amax(1, keepdim=True))
    kept = (bound >= known[:, None].clamp_min(0.0)) & (bound > -torch.inf)
    count = min(candidates, max(2, int(kept.sum(1).amax())))
    at = torch.where(kept, bound, -torch.inf).topk(count, dim=1)
    a, b = a.gather(1, at.indices), b.gather(1, at.indices)
    saliency = _saliency(a[:, :, None] + a[:, None, :], b[:, :, None] + b[:, None, :])
    out = (at.values == -torch.inf)[:, :, None] | (at.values == -torch.inf)[:, None, :]
    saliency = saliency.masked_fill(out | torch.eye(count, dtype=torch.bool, device=a.device), -torch.inf)
    best, place = saliency.flatten(1).max(1)
    pairs = torch.stack(
        [at.indices.gather(1, place[:, None] // count), at.indices.gather(1, place[:, None] % count)], 1
    )
    return torch.where((best > -torch.inf)[:, None], pairs[:, :, 0], rising.indices)


def _saliency(a: Tensor, b: Tensor) -> Tensor:
    """a · b if both are positive, else -∞ for pairs that are not admissible."""
    return torch.where((a > 0) & (b > 0), a * b, -torch.inf)
