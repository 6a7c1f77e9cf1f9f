"""DeepFool: steps to the nearest linearised decision boundary (Moosavi-Dezfooli et al., 2016)."""

from typing import Literal

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, check_choice, check_count, check_number
from attacks.common.finite import check_finite
from attacks.common.margins import least_lead, margins
from attacks.common.norms import steepest
from attacks.libraries.art import art_version, run_art_attack
from models.errors import InputError

__all__ = ["DeepFool"]

# A step skips a class if its boundary, estimated from its last known slope, is this many times as far as the nearest
# one. Slopes change by a few per cent over such small perturbations, so a skipped class is not the nearest.
_REACH = 2.0
_TINY = 1e-12


class DeepFool(Attack):
    """Up to 100 steps, each to the nearest linearised boundary; an image stops when its class changes.

    The attack leaves the network's *prediction* and ignores the labels, as in ART and unlike thesis E.1.1. The result
    for a misclassified image may therefore be classified correctly. There is no budget. Results lie on the decision
    boundary: rounding to 8 bits restores the class of nearly all of them. The attack is deterministic, and images do
    not influence each other.

    The steps are the paper's algorithm 2 with pixels clipped to [0, 1]; norm "linf" is its section 3.3 with p = ∞. The
    class of an image counts as changed once the new class leads by 2⁻¹⁶ of the largest logit, and each step goes that
    much further. ART requires no lead, and rounding moves up to half of its images back over the boundary.

    Finished images leave the batch. The first step computes the slopes of all `classes`; later steps only those whose
    boundary may be the nearest. On a ResNet-20 this takes about 12 gradients per image, where ART takes 1,000.

    Args:
        steps: maximum number of steps.
        overshoot: distance past the boundary, relative to the perturbation; 0.02 in the paper, 1e-6 in ART.
        classes: number of classes, the most probable ones of the natural image, whose boundaries are considered.
        norm: norm to minimise, "l2" or "linf".
        engine: "torch", or "art" for ART's code, for L2 only. If the network has more than `classes` classes, ART
            follows every class that is among the most probable of *any* image of the batch, so the batch changes
            results.
    """

    algorithm = 2

    def __init__(
        self,
        *,
        steps: int = 100,
        overshoot: float = 1e-6,
        classes: int = 10,
        norm: Norm = "l2",
        engine: Literal["torch", "art"] = "torch",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.overshoot = check_number("overshoot", overshoot, least=0)
        if self.overshoot >= 1:
            raise InputError(f"expected overshoot in [0, 1), got {overshoot!r}")
        self.classes = check_count("classes", classes, least=2)
        self.engine = check_choice("engine", engine, ("torch", "art"))
        if engine == "art" and norm != "l2":
            raise InputError("engine 'art' supports norm 'l2' only; use engine 'torch'")

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch, attacked by the engine."""
        if self.engine == "torch":
            return self._search(network, images)
        options = {
            "max_iter": self.steps,
            "epsilon": self.overshoot,
            "nb_grads": self.classes,
            "batch_size": len(images),
            "verbose": False,
        }
        return run_art_attack("DeepFool", network, images, labels, options)

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}

    def _search(self, network: nn.Module, natural: Tensor) -> Tensor:
        found = natural.clone()
        # In float64, since the last steps are below the resolution of float32.
        moved = natural.double()
        active = torch.arange(len(natural), device=natural.device)
        home = others = slopes = torch.empty(0)
        for step in range(self.steps + 1):
            images = found[active].requires_grad_(True)
            logits = network(images)
            check_finite("logits", logits)  # a NaN lead would look like a changed class
            if step == 0:
                order = logits.detach().argsort(dim=1, descending=True)[:, : self.classes]
                home, others = order[:, 0], order[:, 1:]
                slopes = torch.zeros_like(others, dtype=images.dtype)  # unknown
            left = margins(logits.detach(), home) > -least_lead(logits)
            if step == self.steps or not left.any():
                break
            if not left.all():
                active, home, others, slopes = active[left], home[left], others[left], slopes[left]
                images = found[active].requires_grad_(True)
                logits = network(images)
            nearest = _to_nearest(network, images, logits, home, others, slopes, self.norm)
            moved[active] = (moved[active] + nearest).clamp_(0, 1)
            past = natural[active] + (1 + self.overshoot) * (moved[active] - natural[active])
            found[active] = past.clamp_(0, 1).to(natural.dtype)
        return found


def _to_nearest(
    network: nn.Module, images: Tensor, logits: Tensor, home: Tensor, others: Tensor, slopes: Tensor, norm: Norm
) -> Tensor:
    """The shortest step ``(B, C, H, W)`` across one of the linearised boundaries (the paper's equations 8 and 9).

    Args:
        network: takes images in [0, 1], returns logits.
        images, logits: with their graph.
        home: ``(B,)``, the class to leave.
        others: ``(B, K)``, the other classes.
        slopes: ``(B, K)``, dual norms of the gradients of the differences of logits, 0 if never computed; updated in
            place.
        norm: "l2" or "linf".
    """
    scores = logits.detach()
    # To the point where the other class leads, not to the one where both logits are equal.
    lag = (scores.gather(1, home[:, None]) - scores.gather(1, others)).abs() + 2 * least_lead(scores)[:, None]
    guess = torch.where(slopes > 0, lag / slopes.clamp_min(_TINY), 0.0)
    order = guess.argsort(dim=1, stable=True)
    wanted = (guess <= _REACH * guess.amin(1, keepdim=True)).gather(1, order)
    distance = torch.full_like(lag[:, 0], torch.inf)
    step = torch.zeros_like(images, requires_grad=False)
    for rank in range(order.shape[1]):
        (rows,) = torch.nonzero(wanted[:, rank], as_tuple=True)
        if len(rows) == 0:
            break
        column = order[rows, rank]
        gradient = _gradient(network, images, logits, rows, home[rows], others[rows, column])
        slope = _dual_norm(gradient, norm)
        slopes[rows, column] = slope
        reached = torch.where(slope > 0, lag[rows, column] / slope.clamp_min(_TINY), torch.inf)
        nearer = reached < distance[rows]
        distance[rows[nearer]] = reached[nearer]
        step[rows[nearer]] = reached[nearer][:, None, None, None] * steepest(gradient[nearer], norm)
    return step


def _gradient(network: nn.Module, images: Tensor, logits: Tensor, rows: Tensor, home: Tensor, other: Tensor) -> Tensor:
    """Gradients of z_other - z_home in the images of these rows; `home` and `other` have one entry per row."""
    if 2 * len(rows) < len(images):  # a forward pass of few images costs less than a backward pass of all
        images = images.detach()[rows].requires_grad_(True)
        logits, rows = network(images), torch.arange(len(rows), device=rows.device)
    (gradient,) = torch.autograd.grad((logits[rows, other] - logits[rows, home]).sum(), images, retain_graph=True)
    check_finite("gradients", gradient[rows])
    return gradient[rows]


def _dual_norm(gradient: Tensor, norm: Norm) -> Tensor:
    """Dual norms of the gradients ``(B,)``: L2 for L2, L1 for L∞."""
    flat = gradient.flatten(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().sum(1)
