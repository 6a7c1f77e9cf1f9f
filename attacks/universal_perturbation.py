"""One perturbation for all images of a batch: a universal adversarial perturbation (Moosavi-Dezfooli et al., 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, check_count, check_number
from attacks.common.finite import check_finite
from attacks.common.norms import project, steepest
from attacks.common.steps import check_step

__all__ = ["UniversalPerturbation"]


class UniversalPerturbation(Attack):
    """Adds the same v to every image of the batch, clipped to [0, 1]; v stays within `epsilon`.

    The threat is Moosavi-Dezfooli et al.'s, the algorithm is not theirs (DeepFool image by image, hours on a data set)
    but projected gradient ascent on the mean loss of the batch, as in Shafahi et al. (2020): v ← P(v + step ·
    steepest(Σ ∇L(x_i + v, y_i))). An image's loss counts no further once it is above `loss_limit`, else a few images
    that are far in error would direct the sum. Of all v met, the one that fools most images is taken.

    **The images of a batch decide together.** Other images, another order or another batch size give another v; a
    batch of one is an ordinary attack on one image. Use batches as large as the attack is meant to be universal.
    `plumbline` attacks in shards of 256 images, so there is one v for at most that many. Deterministic.

    Args:
        steps: gradient steps for a batch.
        step: size of one step in the attack's norm; None: epsilon / 10.
        loss_limit: cross-entropy above which an image counts no further.
        batch_size: images that share one perturbation.
    """

    def __init__(
        self,
        *,
        epsilon: float = 10 / 255,
        steps: int = 100,
        step: float | None = None,
        loss_limit: float = 9.0,
        norm: Norm = "linf",
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        self.steps = check_count("steps", steps)
        self.step = step
        self.loss_limit = check_number("loss_limit", loss_limit, above=0)
        self._step = check_step(step, epsilon, epsilon / 10, allow_large_step=False)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The batch with its perturbation."""
        shared, best, most = torch.zeros_like(images[:1]), images, -1
        for step in range(self.steps + 1):
            # Within the ball around each image is within the ball around all of them: v itself is projected below.
            attacked = project(images + shared, images, self.epsilon, self.norm).requires_grad_(True)
            logits = network(attacked)
            check_finite("logits", logits)
            fooled = int((logits.detach().argmax(1) != labels).sum())
            if fooled > most:
                best, most = attacked.detach(), fooled
            if step == self.steps or most == len(images):
                break
            losses = F.cross_entropy(logits.double(), labels, reduction="none")
            (gradient,) = torch.autograd.grad(losses.clamp(max=self.loss_limit).sum(), attacked)
            check_finite("losses and gradients", losses, gradient)
            shared = shared + self._step * steepest(gradient.sum(0, keepdim=True), self.norm)
            shared = _within(shared, self.epsilon, self.norm)
        return best


def _within(shared: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The nearest perturbation inside the ball"""
    if norm == "linf":
        return shared.clamp(-epsilon, epsilon)
    length: Tensor = torch.linalg.vector_norm(shared)
    return shared * (epsilon / length.clamp_min(1e-12)).clamp(max=1.0)
