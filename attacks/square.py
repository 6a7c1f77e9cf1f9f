"""Square: random squares of ±epsilon, accepted if they lower the margin (Andriushchenko et al., 2020)."""

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_count, check_number, check_target, project
from attacks.common.margins import least_lead, margins
from attacks.common.queries import logits_of
from attacks.common.squares import propose_l2, propose_linf, start_l2, start_linf
from models.errors import InputError

__all__ = ["Square"]

_BLOCK = 64  # number of steps whose random numbers are drawn at once


class Square(Attack):
    """Random search in the ball of radius epsilon by logits alone, with one query per image and step.

    It starts at vertical stripes of ±epsilon, or in L2 at a grid of bumps. Each step sets a random square to ±epsilon
    in every channel (in L2 it moves the norm of one square into another), and accepts the image if the margin between
    the true class and the best other one falls. The squares shrink by the paper's schedule, stretched over `steps`.
    Targeted attacks use the margin, too, where the paper uses the cross-entropy.

    Misclassified images are returned unchanged. An image leaves the search as soon as it is misclassified; without
    success it is returned at the lowest margin found. Every image has its own random stream, and the batch changes
    nothing but the rounding of the logits.

    Args:
        steps: maximum number of queries for one image after the first.
        first_share: share of the image that the first squares cover; 0.8 in the paper for L∞ on ImageNet, and in
            AutoAttack.
        target: None, or the target class (see `attacks.common.targets`).
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        steps: int = 5000,
        first_share: float = 0.8,
        norm: Norm = "linf",
        target: Target | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        self.steps = check_count("steps", steps)
        self.first_share = check_number("first_share", first_share, above=0)
        if self.first_share > 1:
            raise InputError(f"expected first_share in (0, 1], got {first_share!r}")
        self.target = check_target(target)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The search, for each image until its class is left or reached."""
        if min(images.shape[2:]) < 3:
            raise InputError(f"expected images of at least 3 x 3 pixels, got {tuple(images.shape[2:])}")
        classes, targeted = aim(self.target, network, images, labels, noise)
        best = images.clone()
        logits = logits_of(network, images)
        (rows,) = torch.nonzero(margins(logits, classes, targeted=targeted) > -least_lead(logits), as_tuple=True)
        generators = noise.generators(len(images), images.device)
        lowest = torch.full_like(logits[:, 0], torch.inf)
        height, width = images.shape[2:]
        start, propose = (start_linf, propose_linf) if self.norm == "linf" else (start_l2, propose_l2)
        for step in range(self.steps + 1):
            if len(rows) == 0:
                break
            if step == 0:
                own = [generators[row] for row in rows.tolist()]
                tried = start(images[rows], self.epsilon, own)
            else:
                if (step - 1) % _BLOCK == 0:
                    drawn = torch.zeros((len(images), _BLOCK, 6 + images.shape[1]), device=images.device)
                    for row in rows.tolist():
                        drawn[row].uniform_(generator=generators[row])
                side = _side(step / self.steps, self.first_share, height, width)
                tried = propose(images[rows], best[rows], self.epsilon, side, drawn[rows, (step - 1) % _BLOCK])
            tried = project(tried, images[rows], self.epsilon, self.norm)
            logits = logits_of(network, tried)
            margin = margins(logits, classes[rows], targeted=targeted)
            lower = margin < lowest[rows]
            best[rows[lower]], lowest[rows[lower]] = tried[lower], margin[lower]
            rows = rows[margin > -least_lead(logits)]
        return best


def _side(done: float, first_share: float, height: int, width: int) -> int:
    """Side of the squares in pixels after this share of the steps: their area halves at the paper's points."""
    halvings = sum(done * 10_000 > point for point in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    side = round((first_share / 2**halvings * height * width) ** 0.5)
    return int(min(max(side, 1), min(height, width) - 1))
