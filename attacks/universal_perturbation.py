"""Universal adversarial perturbation: one perturbation for all images of a batch (Moosavi-Dezfooli et al., 2017)."""

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

    The threat model is that of Moosavi-Dezfooli et al. Their algorithm, DeepFool image by image, takes hours on a data
    set. This one is projected gradient ascent on the loss of the batch, as in Shafahi et al. (2020): v ← P(v + step ·
    steepest(Σ ∇L(x_i + v, y_i))). Losses are capped at `loss_limit`, so that a few images with a high loss do not
    dominate the sum. The result is the v that fools most images.

    **The images of a batch share one v.** Other images, another order or another batch size give another v, and a batch
    of one is an ordinary attack on one image. Choose the batch size as the number of images that v is to be universal
    for. `plumbline` attacks in shards of 256 images, so one v serves at most that many. The attack is deterministic.

    Args:
        steps: gradient steps for a batch.
        step: size of one step in the attack's norm; None: epsilon / 10.
        loss_limit: cross-entropy at which the loss of an image is capped.
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

    @property
    def any_batch(self) -> bool:
        """See the base class."""
        return False

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The batch with its universal perturbation."""
        shared, best, most = torch.zeros_like(images[:1]), images, -1
        for step in range(self.steps + 1):
            # Clips each image; v itself is projected below.
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
    """The nearest perturbation inside the ball."""
    if norm == "linf":
        return shared.clamp(-epsilon, epsilon)
    length: Tensor = torch.linalg.vector_norm(shared)
    return shared * (epsilon / length.clamp_min(1e-12)).clamp(max=1.0)
