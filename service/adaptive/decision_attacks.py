"""Adaptive attacks that use decisions alone: HopSkipJump with the detector as one more class (thesis 5.4.5)."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attacks.adaptive.black_box import black_box, nearest_starts
from attacks.adaptive.result import AdaptiveResult
from service.adaptive.context import AttackContext

__all__ = ["black_box_attack", "whole_system_attack"]

Result = tuple[AdaptiveResult, dict[str, Tensor]]


def black_box_attack(context: AttackContext, rows: NDArray[np.int64], seed: int) -> Result:
    """HopSkipJump towards the detected images x̃, inside their predicted class and accepted by the detector.

    It starts from the nearest accepted natural image of that class. The flag "random_start" is true if at least
    one of 100 uniformly random images, drawn for this image, is also a start.
    """
    reached = context.tensor(context.fooled_features.predicted[rows])
    detected = context.fooled[rows]
    starts, _ = nearest_starts(
        detected,
        context.images[context.accepted],
        reached[:, None] == context.tensor(context.natural.predicted[context.accepted]),
    )
    decide = context.decide(lambda predicted, which: predicted == reached[which])
    targets = detected if context.budgets.around == "attacked" else context.images[rows]
    result = black_box(decide, targets, starts, **context.hop_skip_jump_options(seed))
    return result, {"random_start": context.has_random_start(decide, rows)}


def whole_system_attack(context: AttackContext, rows: NDArray[np.int64], seed: int) -> Result:
    """HopSkipJump towards the natural images among the accepted and misclassified ones.

    It starts from the nearest accepted natural image of another class.
    """
    labels = context.labels[rows]
    starts, _ = nearest_starts(
        context.images[rows],
        context.images[context.accepted],
        labels[:, None] != context.tensor(context.natural.predicted[context.accepted]),
    )
    decide = context.decide(lambda predicted, which: predicted != labels[which])
    return black_box(decide, context.images[rows], starts, **context.hop_skip_jump_options(seed)), {}
