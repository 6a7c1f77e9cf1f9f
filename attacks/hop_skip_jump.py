"""HopSkipJump: uses predicted classes only, and estimates the normal of the decision boundary (Chen et al., 2020)."""

import math
from typing import Literal

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, check_choice, check_count, check_target
from attacks.decision_based.hop_skip_jump import hop_skip_jump
from attacks.decision_based.starts import decision_and_starts, run_art_from_starts
from attacks.libraries.art import art_version
from models.errors import InputError

__all__ = ["HopSkipJump"]


class HopSkipJump(Attack):
    """A small perturbation from the network's predicted classes alone; no budget, 50 steps as in the thesis.

    Each step estimates the normal of the boundary from first_queries · √step random probes, jumps along it, and returns
    to the boundary by a binary search (`attacks/decision_based/hop_skip_jump.py`): about 25,000 queries per image for
    50 steps on 32 x 32 pixels. The start is the first misclassified one of up to `start_tries` random images, with
    uniform pixels as in ART and the paper, and with coarse squares of colour in between. Misclassified images, and
    images without a start, are returned unchanged. All others are returned misclassified, on the boundary: rounding to
    8 bits restores the class of most of them.

    Every image has its own random stream. The batch changes nothing but the rounding of the logits, which can change
    the answer for a point on the boundary and thus the rest of the search.

    Args:
        steps: rounds of estimate, jump and search.
        first_queries: probes of the first estimate.
        max_queries: maximum number of probes of one estimate.
        total_queries: maximum number of queries for one image, without those for its start; None: no limit.
        start_tries: number of random images to try as a start.
        norm: norm to minimise, "l2" or "linf".
        target: None, or the target class (see `attacks.common.targets`). An image then starts at the nearest image of
            its batch that is predicted as its target, or at a random one.
        engine: "torch", or "art" for ART's code from the same starts, image by image, without `total_queries` and
            `target`. It draws from the global generators, so the batch size changes its results.
    """

    def __init__(
        self,
        *,
        steps: int = 50,
        first_queries: int = 100,
        max_queries: int = 10_000,
        total_queries: int | None = None,
        start_tries: int = 100,
        norm: Norm = "l2",
        target: Target | None = None,
        engine: Literal["torch", "art"] = "torch",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.first_queries = check_count("first_queries", first_queries, least=2)
        self.max_queries = check_count("max_queries", max_queries, least=first_queries)
        self.total_queries = None if total_queries is None else check_count("total_queries", total_queries)
        self.start_tries = check_count("start_tries", start_tries)
        self.engine: Literal["torch", "art"] = check_choice("engine", engine, ("torch", "art"))
        self.target = check_target(target)
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
                "norm": 2 if self.norm == "l2" else math.inf,
                "max_iter": self.steps,
                "max_eval": self.max_queries,
                "init_eval": self.first_queries,
                "targeted": False,
                "verbose": False,
            }
            return run_art_from_starts("HopSkipJump", network, images, labels, noise, self.start_tries, options)
        decide, starts = decision_and_starts(network, images, labels, noise, self.target, self.start_tries)
        found = hop_skip_jump(
            decide,
            images,
            starts,
            norm=self.norm,
            steps=self.steps,
            first_queries=self.first_queries,
            max_queries=self.max_queries,
            total_queries=self.total_queries,
            generators=noise.generators(len(images), images.device),
        )
        return found.images

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}
