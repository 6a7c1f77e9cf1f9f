"""Gradient steps: what FGM, BIM, PGD and APGD are made of. Everything stays on the network's device.

They are written here rather than taken from ART because of what ART 1.20 does around each gradient: AutoPGD makes two
forward passes for one gradient, PGD ends with two more, the weights are differentiated too unless they are frozen, and
a random start depends on what else is in the batch. Here one step is one forward pass and one backward pass to the
images, and the images are ART's where that can be compared (`tests/attacks/test_against_art.py`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.finite import check_finite
from attacks.common.noise import ImageNoise
from attacks.common.norms import Norm, project, projection, steepest
from models.errors import AttackError, InputError

__all__ = ["ascend", "beats", "check_step", "losses_and_gradient", "losses_of", "random_start"]


def losses_and_gradient(
    network: nn.Module, images: Tensor, classes: Tensor, *, targeted: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """What the attack raises ``(B,)``, whether it is there ``(B,)``, and the gradient in the images ``(B, C, H, W)``.

    Untargeted: the cross-entropy of the classes given, and whether the image is taken for another. Targeted: minus the
    cross-entropy, and whether it is taken for the class given.

    Raises:
        AttackError: a loss or a gradient is not finite, or there is no gradient in the images.
    """
    images = images.detach().requires_grad_(True)
    losses, fooled = _losses(network, images, classes, targeted)
    # Summed and not averaged, so that an image's gradient does not depend on how many are in the batch.
    gradient = _gradient(losses.sum(), images)
    check_finite("losses and gradients", losses, gradient)
    return losses.detach(), fooled, gradient


def _gradient(loss: Tensor, images: Tensor) -> Tensor:
    gradient = None
    if loss.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(loss, images, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as exc:
            why = str(exc).partition(" Hint:")[0].rstrip(".")
            raise AttackError(
                f"expected a network that torch can differentiate in the images, but it cannot ({why}); take out of "
                "its forward what changes tensors in place, or attack without gradients, such as by square"
            ) from exc
    if gradient is None:
        raise AttackError(
            "expected logits that depend on the images by differentiable steps, got no gradient; look for no_grad, "
            "detach or NumPy in the network's forward, or attack without gradients, such as by square"
        )
    return gradient


@torch.no_grad()
def losses_of(network: nn.Module, images: Tensor, classes: Tensor, *, targeted: bool = False) -> tuple[Tensor, Tensor]:
    """The first two of `losses_and_gradient`, without a gradient.

    Raises:
        AttackError: a loss is not finite.
    """
    losses, fooled = _losses(network, images, classes, targeted)
    check_finite("losses", losses)
    return losses, fooled


def _losses(network: nn.Module, images: Tensor, classes: Tensor, targeted: bool) -> tuple[Tensor, Tensor]:
    logits = network(images)
    # In float64: a float32 softmax of 1 - 1e-8 is 1, and the gradient of a confident image would be lost.
    losses = F.cross_entropy(logits.double(), classes, reduction="none")
    other = logits.detach().argmax(1) != classes
    return (-losses, ~other) if targeted else (losses, other)


def beats(fooled: Tensor, losses: Tensor, best_fooled: Tensor, best_losses: Tensor) -> Tensor:
    """Where an image is a better attack than the best so far: fooling first, then the higher loss. All ``(B,)``."""
    return (fooled & ~best_fooled) | ((fooled == best_fooled) & (losses > best_losses))


def ascend(
    network: nn.Module,
    natural: Tensor,
    classes: Tensor,
    start: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    step: float,
    steps: int,
    targeted: bool = False,
) -> Tensor:
    """Images after `steps` projected steps of size `step` up the loss: x ← P(x + step · steepest(∇L(x, y))).

    Targeted, they go down the loss of the classes given.
    """
    images, nearest = start, projection(natural, epsilon, norm)
    for _ in range(steps):
        _, _, gradient = losses_and_gradient(network, images, classes, targeted=targeted)
        images = nearest(images + step * steepest(gradient, norm))
    return images


def random_start(natural: Tensor, epsilon: float, norm: Norm, noise: ImageNoise, draw: int) -> Tensor:
    """Images drawn uniformly from the ball around the natural ones, then clipped to [0, 1]."""
    uniform = noise.uniform(natural, 2 * draw)
    if norm == "linf":
        return project(natural + epsilon * uniform, natural, epsilon, norm)
    # A normal vector's direction is uniform on the sphere; the d-th root of a uniform number fills the ball evenly.
    normal = torch.erfinv(uniform.clamp(-1 + 1e-6, 1 - 1e-6))
    radius = ((noise.uniform(natural[:, :1, :1, :1], 2 * draw + 1) + 1) / 2) ** (1 / natural[0].numel())
    return project(natural + epsilon * radius * steepest(normal, norm), natural, epsilon, norm)


def check_step(step: float | None, epsilon: float, default: float, *, allow_large_step: bool) -> float:
    """The step size, or the default where none is given.

    Raises:
        InputError: `allow_large_step` is no bool, or the step is not a positive number, or is above epsilon without
            `allow_large_step`. A step above epsilon makes every iterate jump from corner to corner of the ball: ART's
            default step of 0.1 did so under epsilon 0.03 in published results.
    """
    if not isinstance(allow_large_step, bool):  # the text "no" is true
        raise InputError(f"expected allow_large_step as True or False, got {allow_large_step!r}")
    if step is None:
        return default
    if isinstance(step, bool) or not isinstance(step, int | float) or not math.isfinite(step) or step <= 0:
        raise InputError(f"expected step as a finite number above 0, got {step!r}")
    if step > epsilon and not allow_large_step:
        raise InputError(
            f"expected a step of at most epsilon = {epsilon:.6g}, got {step:.6g}; "
            "leave step out, or say allow_large_step=True"
        )
    return float(step)
