"""Auto-PGD: PGD with momentum that finds its step size itself (Croce and Hein, 2020)."""

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_count, check_target
from attacks.common.norms import projection, steepest
from attacks.common.steps import beats, check_step, losses_and_gradient, losses_of, random_start

__all__ = ["APGD"]

_MOMENTUM = 0.75  # α of equation (1): weight of the new step, the rest continues the last move
_RISING = 0.75  # ρ of condition 1: share of steps since the last checkpoint that must have raised the loss


class APGD(Attack):
    """Algorithm 1 of Croce and Hein with cross-entropy ("APGD-CE"): 100 steps, five starts as in ART.

    Each image has a step size of its own. At checkpoints it is halved, and the search goes back to the best point,
    where too few of the steps since the last one raised the loss, or where nothing was gained at an unchanged size.

    Two departures. The step starts at epsilon and not at the paper's 2 · epsilon, since no step here is above epsilon
    unless asked for: `step=2 * epsilon, allow_large_step=True` is the paper's. And an image comes back at the highest
    loss among the points that fool the network, where there are any, else at the highest loss of all (the paper's
    x_max); so a failed image is attacked too, and a misclassified original is carried further into its error.

    The later starts are for the images that no start before has turned. Every image has a random stream of its own:
    neither the batch size nor the other images change its starts.

    Args:
        step: first step size in the attack's norm; None: epsilon.
        allow_large_step: accept a step above epsilon.
        restarts: number of random starts.
        target: None, or the class to aim at: "least_likely", "runner_up", "random", or a number (see
            `attacks.common.targets`). The steps then go down the loss of that class.
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        steps: int = 100,
        step: float | None = None,
        allow_large_step: bool = False,
        restarts: int = 5,
        norm: Norm = "linf",
        target: Target | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        self.steps = check_count("steps", steps)
        self.step = step
        self.target = check_target(target)
        self.allow_large_step = allow_large_step
        self.restarts = check_count("restarts", restarts)
        self._step = check_step(step, epsilon, epsilon, allow_large_step=allow_large_step)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The best point of all starts, image by image."""
        labels, _ = aim(self.target, network, images, labels, noise)
        start = random_start(images, self.epsilon, self.norm, noise, 0)
        best, best_fooled, best_losses = self._search(network, images, labels, start)
        for draw in range(1, self.restarts):
            (left,) = torch.nonzero(~best_fooled, as_tuple=True)
            if len(left) == 0:
                break
            start = random_start(images, self.epsilon, self.norm, noise, draw)[left]
            found, fooled, losses = self._search(network, images[left], labels[left], start)
            better = beats(fooled, losses, best_fooled[left], best_losses[left])
            at = left[better]
            best[at], best_fooled[at], best_losses[at] = found[better], fooled[better], losses[better]
        return best

    def _search(
        self, network: nn.Module, natural: Tensor, labels: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Best points from one start ``(B, C, H, W)``, whether they fool the network ``(B,)``, their losses ``(B,)``"""
        targeted, nearest = self.target is not None, projection(natural, self.epsilon, self.norm)
        x, x_last = start, start
        loss, fooled, gradient = losses_and_gradient(network, x, labels, targeted=targeted)
        best, best_fooled, best_loss = x.clone(), fooled, loss
        # x_max, f_max and its gradient drive the search; `best` is only what comes out.
        x_max, f_max, gradient_max = x.clone(), loss, gradient.clone()
        f_checkpoint, rises = f_max, torch.zeros_like(loss)
        halved = torch.zeros_like(loss, dtype=torch.bool)
        eta = torch.full_like(natural[:, :1, :1, :1], self._step)
        checkpoints = _checkpoints(self.steps)
        last_checkpoint = 0
        for k in range(1, self.steps + 1):
            z = nearest(x + eta * steepest(gradient, self.norm))
            if k > 1:
                z = x + _MOMENTUM * (z - x) + (1 - _MOMENTUM) * (x - x_last)
                z = nearest(z)
            x_last, x, loss_last = x, z, loss
            if k == self.steps:
                loss, fooled = losses_of(network, x, labels, targeted=targeted)
            else:
                loss, fooled, gradient = losses_and_gradient(network, x, labels, targeted=targeted)
            best, best_fooled, best_loss = _keep(
                beats(fooled, loss, best_fooled, best_loss), (x, fooled, loss), (best, best_fooled, best_loss)
            )
            rises += loss > loss_last
            x_max, f_max, gradient_max = _keep(loss > f_max, (x, loss, gradient), (x_max, f_max, gradient_max))
            if k in checkpoints:
                halve = (rises < _RISING * (k - last_checkpoint)) | (~halved & (f_max == f_checkpoint))
                eta = torch.where(_spread(halve), eta / 2, eta)
                x, loss, gradient = _keep(halve, (x_max, f_max, gradient_max), (x, loss, gradient))
                f_checkpoint, halved, last_checkpoint = f_max, halve, k
                rises = torch.zeros_like(rises)
        return best, best_fooled, best_loss


def _keep(
    where: Tensor, new: tuple[Tensor, Tensor, Tensor], old: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The new values of the images where it says so ``(B,)``, the old ones elsewhere"""
    first, second, third = (
        torch.where(_spread(where) if a.ndim == 4 else where, a, b) for a, b in zip(new, old, strict=True)
    )
    return first, second, third


def _spread(where: Tensor) -> Tensor:
    return where[:, None, None, None]


def _checkpoints(steps: int) -> set[int]:
    """Steps ⌈p_j · steps⌉ at which the step size is looked at, ever closer together (their section 3.1).

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).
    """
    before, at = 0, 22  # in hundredths: 0.41 · 100 is not 41 in floating point
    found = set()
    while at <= 100:
        found.add(-(-at * steps // 100))
        before, at = at, at + max(at - before - 3, 6)
    return found
