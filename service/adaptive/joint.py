"""PGD on all passes at once: network and companion, on the image and on its views. The score is not differentiated."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks import build_attack
from attacks.adaptive.result import AdaptiveResult
from detector.pipeline import Pipeline
from models.features import needs_of
from models.images.views import IMAGE
from service.adaptive.context import AttackContext, Engine

__all__ = ["JointNetwork", "joint_attack"]


class JointNetwork(nn.Module):
    """Images → the mean log-probabilities ``(B, K)`` over all passes whose logits the detector uses.

    Args:
        pipeline: of the detector.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.network, self.companion = pipeline.network, pipeline.companion
        needs = needs_of(pipeline.detector.feature_requests())
        self._views, self._companion_views = (IMAGE, *needs.views), needs.companion

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        passes = [self.network(view(images)) for view in self._views]
        if self.companion is not None:
            passes += [self.companion(view(images)) for view in self._companion_views]
        return torch.stack([torch.log_softmax(logits, dim=1) for logits in passes]).mean(dim=0)


def joint_attack(context: AttackContext, epsilon: float, steps: int) -> Engine:
    """PGD within one L∞ budget, with the steps and restarts of the descents; one query of the detector at the end.

    Args:
        context: system, images and budgets.
        epsilon: L∞ budget.
        steps: of each run.
    """
    network, restarts = JointNetwork(context.system.pipeline), context.budgets.descent_restarts

    def run(rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
        options = {"epsilon": epsilon, "steps": steps, "restarts": restarts, "seed": seed}
        attack = build_attack("pgd", options | {"batch_size": context.system.gradient_batch})
        images, labels = context.images[rows], context.labels[rows]
        found = attack(network, images, labels)
        decide = context.decide(lambda predicted, which: predicted != labels[which])
        every = torch.arange(len(rows), device=images.device)
        queries = torch.ones(len(rows), dtype=torch.int64, device=images.device)
        return AdaptiveResult(found, decide(found, every), queries, queries * steps * restarts), {}

    return run
