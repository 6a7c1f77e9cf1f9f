"""Gradient steps of FGM, BIM, PGD and APGD. Everything stays on the network's device.

They do not use ART because of its cost around each gradient: in ART 1.20, AutoPGD makes two forward passes per
gradient, PGD ends with two more, unfrozen weights are differentiated, too, and a random start depends on the other
images of the batch. Here one step is one forward pass and one backward pass to the images. The resulting images equal
those of ART where they are comparable (`tests/attacks/test_against_art.py`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.finite import check_finite
from attacks.common.noise import ImageNoise
from attacks.common.norms import Norm, project, projection, steepest
from attacks.common.precision import Bfloat16Gradients
from models.errors import AttackError, InputError

__all__ = ["ascend", "beats", "check_step", "losses_and_gradient", "losses_of", "random_start"]


def losses_and_gradient(
    network: nn.Module, images: Tensor, classes: Tensor, *, targeted: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses to raise ``(B,)``, successes ``(B,)`` bool, and the gradient in the images ``(B, C, H, W)``.

    Untargeted: the cross-entropy of the given classes, and a prediction of any other class. Targeted: minus the
    cross-entropy, and a prediction of the given class.

    Args:
        network: takes images in [0, 1], returns logits.
        images: ``(B, C, H, W)``.
        classes: ``(B,)``, the true classes, or the targets.
        targeted: whether the classes are targets.

    Raises:
        AttackError: a loss or a gradient is not finite, or there is no gradient in the images.
    """
    images = images.detach().requires_grad_(True)
    losses, fooled = _losses(network, images, classes, targeted)
    # Summed and not averaged, so that an image's gradient does not depend on the batch size.
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
                f"torch cannot differentiate the network in the images ({why}); remove in-place operations from its "
                "forward pass, or use an attack without gradients, such as square"
            ) from exc
    if gradient is None:
        raise AttackError(
            "the logits have no gradient in the images; look for no_grad, detach or NumPy in the network's forward "
            "pass, or use an attack without gradients, such as square"
        )
    return gradient


@torch.no_grad()
def losses_of(network: nn.Module, images: Tensor, classes: Tensor, *, targeted: bool = False) -> tuple[Tensor, Tensor]:
    """Losses and successes of `losses_and_gradient`, without the gradient.

    Args:
        network, images, classes, targeted: as in `losses_and_gradient`.

    Raises:
        AttackError: a loss is not finite.
    """
    losses, fooled = _losses(network, images, classes, targeted)
    check_finite("losses", losses)
    return losses, fooled


def _losses(network: nn.Module, images: Tensor, classes: Tensor, targeted: bool) -> tuple[Tensor, Tensor]:
    logits = network(images)
    # In float64, since the float32 softmax of a confident image rounds to 1 and its gradient to 0.
    losses = F.cross_entropy(logits.double(), classes, reduction="none")
    other = logits.detach().argmax(1) != classes
    return (-losses, ~other) if targeted else (losses, other)


def beats(fooled: Tensor, losses: Tensor, best_fooled: Tensor, best_losses: Tensor) -> Tensor:
    """Where an image is a better result than the best so far: success first, then the higher loss.

    Args:
        fooled, losses: ``(B,)``, successes and losses of the new images.
        best_fooled, best_losses: ``(B,)``, those of the best images so far.
    """
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
    """Images after projected gradient steps: x ← P(x + step · steepest(∇L(x, y))).

    With gradients in bfloat16, an image whose last point fails in float32 is replaced by its point of highest loss
    among those that succeeded in bfloat16, if that point succeeds in float32.

    Args:
        network: takes images in [0, 1], returns logits.
        natural: ``(B, C, H, W)``, the centres of the balls.
        classes: ``(B,)``, the true classes, or the targets.
        start: ``(B, C, H, W)``, where the steps begin.
        norm, epsilon: the ball.
        step: size of one step in this norm.
        steps: number of steps.
        targeted: whether the steps lower the loss of the classes.
    """
    images, nearest = start, projection(natural, epsilon, norm)
    best: tuple[Tensor, Tensor] | None = None
    for step_index in range(steps):
        losses, fooled, gradient = losses_and_gradient(network, images, classes, targeted=targeted)
        if step_index and isinstance(network, Bfloat16Gradients):
            best = _highest(images, losses.masked_fill(~fooled, -torch.inf), best)
        images = nearest(images + step * steepest(gradient, norm))
    if best is None:
        return images
    _, fooled = losses_of(network, images, classes, targeted=targeted)
    (failed,) = torch.nonzero(~fooled & best[1].isfinite(), as_tuple=True)
    if len(failed):
        _, fooled = losses_of(network, best[0][failed], classes[failed], targeted=targeted)
        images[failed[fooled]] = best[0][failed[fooled]]
    return images


def _highest(images: Tensor, losses: Tensor, best: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Images and losses ``(B,)``, those of the best so far where their loss is higher."""
    if best is None:
        return images, losses
    higher = losses > best[1]
    return torch.where(higher[:, None, None, None], images, best[0]), torch.where(higher, losses, best[1])


def random_start(natural: Tensor, epsilon: float, norm: Norm, noise: ImageNoise, draw: int) -> Tensor:
    """Images drawn uniformly from the ball around the natural ones, then clipped to [0, 1].

    Args:
        natural: ``(B, C, H, W)``, the centres.
        epsilon, norm: the ball.
        noise: random streams of the images.
        draw: index of the draw.
    """
    uniform = noise.uniform(natural, 2 * draw)
    if norm == "linf":
        return project(natural + epsilon * uniform, natural, epsilon, norm)
    # The direction of a normal vector is uniform on the sphere; the d-th root of a uniform number is the radius.
    normal = torch.erfinv(uniform.clamp(-1 + 1e-6, 1 - 1e-6))
    radius = ((noise.uniform(natural[:, :1, :1, :1], 2 * draw + 1) + 1) / 2) ** (1 / natural[0].numel())
    return project(natural + epsilon * radius * steepest(normal, norm), natural, epsilon, norm)


def check_step(step: float | None, epsilon: float, default: float, *, allow_large_step: bool) -> float:
    """The step size, or the default if it is None.

    Args:
        step: size of one step.
        epsilon: radius of the ball.
        default: step size if `step` is None.
        allow_large_step: accept a step above epsilon. With such a step every iterate jumps between corners of the ball;
            in published results, ART's default step of 0.1 did so at epsilon 0.03.

    Raises:
        InputError: `allow_large_step` is not a bool, the step is not a positive number, or it is above epsilon without
            `allow_large_step`.
    """
    if not isinstance(allow_large_step, bool):  # the string "no" is true
        raise InputError(f"expected allow_large_step as True or False, got {allow_large_step!r}")
    if step is None:
        return default
    if isinstance(step, bool) or not isinstance(step, int | float) or not math.isfinite(step) or step <= 0:
        raise InputError(f"expected step as a finite number above 0, got {step!r}")
    if step > epsilon and not allow_large_step:
        raise InputError(
            f"expected a step of at most epsilon = {epsilon:.6g}, got {step:.6g}; "
            "leave step out, or pass allow_large_step=True"
        )
    return float(step)
