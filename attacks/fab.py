"""Fast Adaptive Boundary (FAB): minimal perturbations along linearised boundaries (Croce and Hein, 2020)."""

import functools
import importlib

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, check_count, check_number
from attacks.common.finite import watched_logits
from attacks.common.norms import perturbation_norms
from attacks.libraries.autoattack import autoattack_library, autoattack_version
from models.errors import AttackError

__all__ = ["FAB"]


class FAB(Attack):
    """The authors' FAB from AutoAttack's package. It minimises the perturbation and has no budget.

    Each step goes to a point between the projections of the last point and of the image itself on the nearest
    linearised boundary. An adversarial point is moved back towards the image. The result is the nearest adversarial
    point. Images without one, and misclassified images, are returned unchanged.

    A step computes one gradient per class of the network. `target_classes` = n gives the authors' FAB-T: one search for
    each of the n most probable wrong classes, with one gradient per step. The first run is deterministic. The starts of
    later runs are drawn for the whole batch, so the batch changes results.

    Args:
        steps: of one search.
        restarts: number of searches; all but the first start at a random point.
        radius: of the ball of the random points; None: the authors' 0.3 for L∞ and 1 for L2.
        target_classes: number of targets, searched one by one; None: one search over all classes.
        norm: norm to minimise, "linf" or "l2".
    """

    def __init__(
        self,
        *,
        steps: int = 100,
        restarts: int = 1,
        radius: float | None = None,
        target_classes: int | None = None,
        norm: Norm = "linf",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.restarts = check_count("restarts", restarts)
        self.radius = radius if radius is None else check_number("radius", radius, above=0)
        self.target_classes = None if target_classes is None else check_count("target_classes", target_classes)

    @property
    def any_batch(self) -> bool:
        """See the base class."""
        return self.restarts == 1

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The nearest image of all searches.

        Raises:
            AttackError: the library is missing or failed, or logits or a gradient of the network are not finite.
        """
        library = importlib.import_module(f"{autoattack_library().__name__}.fab_pt")
        search = library.FABAttack_PT(
            functools.partial(watched_logits, network),
            norm={"linf": "Linf", "l2": "L2"}[self.norm],
            n_iter=self.steps,
            eps=self.radius,
            device=images.device,
        )
        best, nearest = images.clone(), torch.full_like(images[:, 0, 0, 0], torch.inf, dtype=torch.float64)
        with torch.no_grad():
            classes = network(images[:1]).shape[1]
        for target in [None] if self.target_classes is None else range(2, min(self.target_classes, classes - 1) + 2):
            search.target_class = target  # by rank: 2 is the runner-up
            for restart in range(self.restarts):
                try:
                    found = search.attack_single_run(
                        images, labels, use_rand_start=restart > 0, is_targeted=target is not None
                    ).clamp(0.0, 1.0)
                except AttackError:
                    raise
                except (RuntimeError, IndexError, TypeError) as exc:
                    raise AttackError(f"{library.__name__} failed: {exc}") from exc
                linf, l2 = perturbation_norms(images, found)
                size = linf if self.norm == "linf" else l2
                nearer = (size > 0) & (size < nearest)  # the search returns failures unchanged
                best[nearer], nearest[nearer] = found[nearer], size[nearer]
        return best

    def libraries(self) -> dict[str, str]:
        """Name and version of the authors' package."""
        return autoattack_version()
