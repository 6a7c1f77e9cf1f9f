"""DeepFool: over the nearest decision boundary, linearised again at each step (Moosavi-Dezfooli et al., 2016)."""

from torch import Tensor, nn

from attacks.base import Attack, ImageNoise, check_count, check_number
from attacks.estimator import art_version, run_art_attack
from models.errors import InputError

__all__ = ["DeepFool"]


class DeepFool(Attack):
    """ART's DeepFool: up to 100 steps, stops an image as soon as the prediction changes, small in L2; no budget.

    It moves away from the network's *prediction* and ignores the labels, so an image that was misclassified may come
    back classified correctly. Results lie on the decision boundary: a rounding to 8 bits undoes nearly all of them, and
    so, now and then, does another batch size at prediction. Deterministic. Above `classes` classes ART follows every
    class that is among the most probable of *any* image of the batch, so the batch can widen an image's choice.

    Args:
        overshoot: how far past the boundary, relative to the perturbation (ART's `epsilon`). ART's default is less than
            float32 can tell apart: rounding carries some images, a few in a hundred, back to the class they came from.
            The authors' is 0.02.
        classes: number of most probable classes whose boundaries are looked at.
    """

    def __init__(
        self, *, steps: int = 100, overshoot: float = 1e-6, classes: int = 10, batch_size: int = 128, seed: int = 0
    ) -> None:
        super().__init__(norm="l2", epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.overshoot = check_number("overshoot", overshoot, least=0)
        if self.overshoot >= 1:
            raise InputError(f"expected overshoot in [0, 1), got {overshoot!r}")
        self.classes = check_count("classes", classes, least=2)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch through ART."""
        options = {
            "max_iter": self.steps,
            "epsilon": self.overshoot,
            "nb_grads": self.classes,
            "batch_size": len(images),
            "verbose": False,
        }
        return run_art_attack("DeepFool", network, images, labels, options)

    def libraries(self) -> dict[str, str]:
        """ART's version."""
        return art_version()
