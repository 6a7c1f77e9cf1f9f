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
    """A small L2 perturbation from the network's predicted classes alone; no budget, 5,000 steps as in the thesis.

    One step tries `candidates` points: a random move on the sphere around the image, then a move towards it. The
    nearest misclassified point is accepted. Both lengths adapt to the success rates of each image
    (`attacks/decision_based/boundary.py`). ART tries 20 moves on the sphere in each step and continues from each, which
    takes about 30 times as many queries per step.

    The start is the first misclassified one of up to `start_tries` random images, followed by a binary search to the
    boundary. Misclassified images, and images without a start, are returned unchanged. All others are returned
    misclassified, on the boundary: rounding to 8 bits restores the class of most of them.

    Every image has its own random stream. The batch changes nothing but the rounding of the logits, which can change
    the answer for a point on the boundary and thus the rest of the walk.

    Args:
        steps: of the walk.
        candidates: points of one step; None: 1. With engine "art", moves on the sphere; None: ART's 20.
        orthogonal_step, source_step: first lengths, relative to the distance; None: 0.1, or ART's 0.01 with its engine.
        total_queries: maximum number of queries for one image, without those for its start; None: no limit.
        start_tries: number of random images to try as a start.
        target: None, or the target class (see `attacks.common.targets`). An image then starts at the nearest image of
            its batch that is predicted as its target, or at a random one.
        engine: "torch", or "art" for ART's code from the same starts, image by image, without `total_queries` and
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
        self.orthogonal_step = _check_share("orthogonal_step", orthogonal_step)
        self.source_step = _check_share("source_step", source_step)
        self.total_queries = None if total_queries is None else check_count("total_queries", total_queries)
        self.start_tries = check_count("start_tries", start_tries)
        self.target = check_target(target)
        self.engine: Literal["torch", "art"] = check_choice("engine", engine, ("torch", "art"))
        if engine == "art" and (total_queries is not None or target is not None):
            raise InputError("engine 'art' supports neither total_queries nor target; use engine 'torch'")

    @property
    def any_batch(self) -> bool:
        """See the base class."""
        return super().any_batch and self.target is None

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch, attacked by the engine."""
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
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}


def _check_share(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if check_number(name, value, above=0) >= 1:
        raise InputError(f"expected {name} below 1, as a share of the distance, got {value!r}")
    return float(value)
