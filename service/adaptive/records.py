"""Results of adaptive attacks as arrays, one entry per image."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.adaptive.agreement import Agreement

__all__ = ["FOOLED", "AdaptiveAttacks", "AdaptiveSet"]

FOOLED = "network_fooled"  # a flag of the attack `network`: the network alone misclassifies the attacked image


@dataclass(frozen=True, eq=False)
class AdaptiveSet:
    """Result of one attack on network and detector, for N images in their order.

    Args:
        name: of the attack.
        epsilon: its L∞ budget; None for attacks that minimise the perturbation.
        images: ``(N, 3, H, W)`` float32 in [0, 1]; the natural image where the attack failed.
        attempted: ``(N,)`` bool, the attack ran on the image.
        evaded: ``(N,)`` bool, the pipeline accepts the image and the network misclassifies it.
        not_confirmed: ``(N,)`` bool, evaded according to the attack, but not when the pipeline scores the image again.
        linf, l2: ``(N,)`` float64, distances from the natural image.
        l2_from_fooled: ``(N,)`` float64, distance from Carlini and Wagner's image; None if the attack does not start
            there.
        queries, gradients: ``(N,)`` int64, numbers of verdicts and of backward passes.
        extra: further flags ``(N,)``, by name.
    """

    name: str
    epsilon: float | None
    images: NDArray[np.float32]
    attempted: NDArray[np.bool_]
    evaded: NDArray[np.bool_]
    not_confirmed: NDArray[np.bool_]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    l2_from_fooled: NDArray[np.float64] | None
    queries: NDArray[np.int64]
    gradients: NDArray[np.int64]
    extra: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class AdaptiveAttacks:
    """Results of all adaptive attacks on the same N images, and the state before them.

    Args:
        right: ``(N,)`` bool, the natural image is classified correctly.
        flagged: ``(N,)`` bool, the natural image is flagged.
        fooled, detected: ``(N,)`` bool, Carlini and Wagner's attack succeeds, and its image is flagged; None if no
            attack needs these images.
        fooled_linf, fooled_l2: ``(N,)`` float64, distances of that image from the natural one.
        sets: one per attack, or one per attack and budget, with rising budgets.
        unlimited: selective and orthogonal descent without a budget, on the same images.
        few_steps: the same at the middle budget with a quarter of the steps.
        surrogate: "exact" if the score itself is differentiated, else the surrogate's agreement with the detector; None
            if no attack needs a gradient of the score.
        skipped: attacks that cannot run on this detector, with the reason.
    """

    right: NDArray[np.bool_]
    flagged: NDArray[np.bool_]
    fooled: NDArray[np.bool_] | None
    detected: NDArray[np.bool_] | None
    fooled_linf: NDArray[np.float64] | None
    fooled_l2: NDArray[np.float64] | None
    sets: tuple[AdaptiveSet, ...]
    unlimited: tuple[AdaptiveSet, ...]
    few_steps: tuple[AdaptiveSet, ...]
    surrogate: Agreement | Literal["exact"] | None
    skipped: dict[str, str]
