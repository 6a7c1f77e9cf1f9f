"""AutoAttack on the network alone, to compare the network with and without a detector on the same images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.adaptive.result import AdaptiveResult
from attacks.autoattack import AutoAttack
from service.adaptive.context import AttackContext, AttackRun
from service.adaptive.records import FOOLED

__all__ = ["network_attack"]

_CLASSES_NEEDED = 4  # of the targeted part


def network_attack(context: AttackContext, epsilon: float) -> AttackRun:
    """The first two parts of AutoAttack, APGD on cross-entropy and targeted APGD on DLR, within one L∞ budget.

    FAB and Square, the other parts, take most of its time. With fewer than four classes there is no targeted part.

    Args:
        context: system and images.
        epsilon: L∞ budget.
    """
    targeted = len(context.system.pipeline.classes) >= _CLASSES_NEEDED
    parts = "apgd-ce+apgd-t" if targeted else "apgd-ce"

    def run(rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
        attack = AutoAttack(
            epsilon=epsilon,
            version="custom",
            attacks_to_run=parts,
            seed=seed,
            batch_size=context.system.gradient_batch,
        )
        labels = context.labels[rows]
        images = attack(context.system.network, context.images[rows], labels)
        predicted, flagged = context.system.classify(images)
        fooled = context.tensor(predicted) != labels
        evaded, queries = fooled & ~context.tensor(flagged), torch.ones_like(labels)
        return AdaptiveResult(images, evaded, queries, torch.zeros_like(labels)), {FOOLED: fooled}

    return run
