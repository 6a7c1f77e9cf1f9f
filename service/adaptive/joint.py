"""Attacks on all passes at once: network and companion, on the image and on its views.

The score is not differentiated.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks import build_attack
from attacks.adaptive.result import AdaptiveResult
from attacks.carlini_wagner import CarliniWagner
from detector.pipeline import Pipeline
from models.features import needs_of
from models.images.views import IMAGE
from service.adaptive.context import AttackContext, AttackRun

__all__ = ["JointNetwork", "joint_attack", "joint_carlini_wagner"]

_CONFIDENCES = (0.0, 2.0, 5.0, 10.0, 20.0)


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


def joint_attack(context: AttackContext, epsilon: float, steps: int) -> AttackRun:
    """PGD within one L∞ budget, with the steps and restarts of the descents; one query of the detector at the end.

    Args:
        context: system, images and budgets.
        epsilon: L∞ budget.
        steps: of each run.
    """
    restarts = context.budgets.descent_restarts

    def run(rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
        options = {"epsilon": epsilon, "steps": steps, "restarts": restarts, "seed": seed}
        attack = build_attack("pgd", {**options, "batch_size": context.system.gradient_batch})
        found = attack(JointNetwork(context.system.pipeline), context.images[rows], context.labels[rows])
        queries = torch.ones(len(rows), dtype=torch.int64, device=found.device)
        return AdaptiveResult(found, _accepted(context, found, rows), queries, queries * steps * restarts), {}

    return run


def joint_carlini_wagner(
    context: AttackContext, rows: NDArray[np.int64], seed: int
) -> tuple[AdaptiveResult, dict[str, Tensor]]:
    """Carlini and Wagner's attack on the margins of all passes' mean log-probabilities; see `AttackRun`.

    The confidence rises until the detector accepts the image: with a margin of 0 the passes may disagree.
    """
    network, images = JointNetwork(context.system.pipeline), context.images[rows].clone()
    evaded = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
    queries, gradients = torch.zeros_like(evaded, dtype=torch.int64), torch.zeros_like(evaded, dtype=torch.int64)
    for confidence in _CONFIDENCES:
        (left,) = torch.nonzero(~evaded, as_tuple=True)
        if not len(left):
            break
        options = {**context.budgets.carlini_wagner, "confidence": confidence}
        attack = CarliniWagner(**options, batch_size=context.system.gradient_batch, seed=seed)
        some = rows[left.cpu().numpy()]
        found = attack(network, context.images[some], context.labels[some])
        passed = _accepted(context, found, some)
        images[left[passed]], evaded[left[passed]] = found[passed], True
        queries[left] += 1
        gradients[left] += attack.steps * attack.search_steps
    return AdaptiveResult(images, evaded, queries, gradients), {}


def _accepted(context: AttackContext, images: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """``(b,)`` bool: the network misclassifies the image, and the detector accepts it."""
    labels = context.labels[rows]
    decide = context.decide(lambda predicted, which: predicted != labels[which])
    return decide(images, torch.arange(len(rows), device=images.device))
