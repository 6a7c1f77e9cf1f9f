"""Boundary attack: a random walk along the decision boundary towards the image (Brendel et al., 2018)."""

from typing import Literal

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Target, check_choice, check_count, check_number, check_target
from attacks.decision_based.boundary import boundary
from attacks.decision_based.starts import decision_and_starts, run_art_from_starts
from attacks.libraries.art import art_version
from models.errors import InputError

__all__ = ["Boundary"]


class Boundary(Attack):
    """A small L2 perturbation found from the network's predicted classes alone; no budget, 5,000 steps as the thesis.

    One step tries `candidates` points: a random move on the sphere around the image, then one towards it. The nearest
    misclassified one is kept. Both lengths follow each image's own rates of success
    (`attacks/decision_based/decision.py`). ART tries
    20 moves on the sphere in each step, then goes on from each: about 30 times as many queries per step.

    It begins at the first misclassified one of up to `start_tries` random images, and from there by a binary search at
    the boundary. Images that are misclassified already, and those for which no start is found, come back unchanged.
    Everything else comes back misclassified, on the boundary: a rounding to 8 bits undoes most of it.

    Every image has a random stream of its own; the batch changes nothing but the rounding of the network's logits,
    which may decide otherwise about a point tried at the boundary and so lead the walk elsewhere.

    Args:
        steps: of the walk.
        candidates: points tried in each step; None: 1. With engine "art" moves on the sphere; None: 20, as ART.
        orthogonal_step, source_step: first lengths, relative to the distance; None: 0.1, with engine "art" its 0.01.
        total_queries: most queries of the walk for one image (the tries for a start come on top); None: no limit.
        start_tries: random images tried for a start.
        target: None, or the class to aim at (see `attacks.common.targets`). An image then starts at the nearest one of
        its
            batch that is predicted as its target; at random where there is none, and unchanged where no try is either.
        engine: "torch", or "art" for ART's code from the same starts, image by image: without `total_queries` and
            `target`. It draws from the global generators, so the batch size changes its results.
    """

    def __init__(
        self,
        *,
        steps: int = 5000,
        candidates: int | None = None,
        orthogonal_step: float | None = None,
        source_step: float | None = None,
        total_queries: int | None = None,
        start_tries: int = 100,
        target: Target | None = None,
        engine: Literal["torch", "art"] = "torch",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm="l2", epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.candidates = None if candidates is None else check_count("candidates", candidates)
        self.orthogonal_step = _check_part("orthogonal_step", orthogonal_step)
        self.source_step = _check_part("source_step", source_step)
        self.total_queries = None if total_queries is None else check_count("total_queries", total_queries)
        self.start_tries = check_count("start_tries", start_tries)
        self.target = check_target(target)
        self.engine: Literal["torch", "art"] = check_choice("engine", engine, ("torch", "art"))
        if engine == "art" and (total_queries is not None or target is not None):
            raise InputError("expected neither total_queries nor target with engine 'art'; use engine 'torch'")

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch through the engine."""
        if self.engine == "art":
            options = {
                "max_iter": self.steps,
                "sample_size": self.candidates or 20,
                "delta": self.orthogonal_step or 0.01,
                "epsilon": self.source_step or 0.01,
                "targeted": False,
                "verbose": False,
            }
            return run_art_from_starts("BoundaryAttack", network, images, labels, noise, self.start_tries, options)
        decide, starts = decision_and_starts(network, images, labels, noise, self.target, self.start_tries)
        found = boundary(
            decide,
            images,
            starts,
            steps=self.steps,
            candidates=self.candidates or 1,
            orthogonal_step=self.orthogonal_step or 0.1,
            source_step=self.source_step or 0.1,
            total_queries=self.total_queries,
            generators=noise.generators(len(images), images.device),
        )
        return found.images

    def libraries(self) -> dict[str, str]:
        """ART's version where it is the engine."""
        return art_version() if self.engine == "art" else {}


def _check_part(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if check_number(name, value, above=0) >= 1:
        raise InputError(f"expected {name} below 1, as a part of the distance, got {value!r}")
    return float(value)
