"""Carlini and Wagner's L2 attack: optimises for the smallest perturbation that fools (Carlini and Wagner, 2017)."""

from torch import Tensor, nn

from attacks.base import Attack, ImageNoise, check_count, check_number
from attacks.estimator import art_version, run_art_attack

__all__ = ["CarliniWagner"]


class CarliniWagner(Attack):
    """ART's CarliniL2Method, untargeted: 10 iterations in each of 10 steps of the search for c; no budget.

    An image that is already misclassified comes back as it is, and so does one for which nothing was found.
    Deterministic, and no image depends on another. ART searches the step size by halving and doubling, which the
    authors' code does not.

    Args:
        steps: iterations for each value of c.
        search_steps: values of c tried, the weight of being misclassified against being near.
        confidence: by how much the wrong class's logit is to exceed the right one's.
        learning_rate: first step size, in tanh space.
        initial_const: first c.
    """

    def __init__(
        self,
        *,
        steps: int = 10,
        search_steps: int = 10,
        confidence: float = 0.0,
        learning_rate: float = 0.01,
        initial_const: float = 0.01,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm="l2", epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.search_steps = check_count("search_steps", search_steps)
        self.confidence = check_number("confidence", confidence, least=0)
        self.learning_rate = check_number("learning_rate", learning_rate, above=0)
        self.initial_const = check_number("initial_const", initial_const, above=0)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch through ART."""
        options = {
            "confidence": self.confidence,
            "learning_rate": self.learning_rate,
            "binary_search_steps": self.search_steps,
            "max_iter": self.steps,
            "initial_const": self.initial_const,
            "batch_size": len(images),
            "verbose": False,
        }
        return run_art_attack("CarliniL2Method", network, images, labels, options)

    def libraries(self) -> dict[str, str]:
        """ART's version."""
        return art_version()
