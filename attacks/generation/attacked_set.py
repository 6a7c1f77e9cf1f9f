"""Attacked images of one data set, with success rates and sizes of perturbations."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.common.base import Attack
from attacks.common.norms import perturbation_norms
from models.images.stored import FloatImages, StoredImages

__all__ = ["AttackedSet"]

_CHUNK = 256  # images


@dataclass(frozen=True)
class AttackedSet:
    """Attacked images of one data set and the outcome for each. Arrays are in the order of the natural images.

    Attributes:
        images: attacked images ``(N, 3, H, W)`` float32 in [0, 1]; an array, unless `generate` was given many 8-bit
            images.
        labels: true classes ``(N,)`` int64.
        natural_correct: ``(N,)`` bool, the natural image is classified correctly.
        attacked_correct: ``(N,)`` bool, the attacked image is classified correctly.
        linf, l2: ``(N,)`` float64, sizes of the perturbations.
        attack: name of the attack.
        parameters: its parameters.
    """

    images: NDArray[np.float32] | StoredImages
    labels: NDArray[np.int64]
    natural_correct: NDArray[np.bool_]
    attacked_correct: NDArray[np.bool_]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    attack: str
    parameters: dict[str, Any]

    @classmethod
    def measured(
        cls,
        natural: NDArray[np.float32] | FloatImages,
        attacked: NDArray[np.float32] | StoredImages,
        labels: NDArray[np.int64],
        predicted: NDArray[np.int64],
        attack: Attack,
    ) -> Self:
        """The set of these images, with the sizes of their perturbations.

        Args:
            natural: ``(N, 3, H, W)`` float32 in [0, 1].
            attacked: of the same shape.
            labels: true classes ``(N,)``.
            predicted: classes before and after the attack ``(2, N)``.
            attack: that was run.
        """
        parts = [slice(first, first + _CHUNK) for first in range(0, len(natural), _CHUNK)]
        sizes = [
            perturbation_norms(torch.from_numpy(natural[part]), torch.from_numpy(attacked[part])) for part in parts
        ]
        linf, l2 = (torch.cat(each).numpy() for each in zip(*sizes, strict=True))
        return cls(
            images=attacked, labels=labels, natural_correct=predicted[0] == labels,
            attacked_correct=predicted[1] == labels, linf=linf, l2=l2, attack=attack.name,
            parameters=attack.parameters(),
        )  # fmt: skip

    @property
    def success(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: the natural image is classified correctly and the attacked image is not."""
        return self.natural_correct & ~self.attacked_correct

    @property
    def natural_accuracy(self) -> float:
        """Share of natural images that are classified correctly."""
        return float(self.natural_correct.mean())

    @property
    def accuracy(self) -> float:
        """Share of attacked images that are classified correctly."""
        return float(self.attacked_correct.mean())

    @property
    def success_rate(self) -> float:
        """Share of successes among the natural images that are classified correctly; NaN without any."""
        return float(self.success.sum() / self.natural_correct.sum()) if self.natural_correct.any() else float("nan")

    def summary(self) -> dict[str, Any]:
        """Summary as JSON values; `success_rate` is null if no natural image is classified correctly."""
        return {
            "attack": self.attack,
            "parameters": self.parameters,
            "n": len(self.labels),
            "natural_accuracy": self.natural_accuracy,
            "accuracy_under_attack": self.accuracy,
            "success_rate": self.success_rate if self.natural_correct.any() else None,
            "unchanged": float((self.linf == 0).mean()),
            "linf": _distribution(self.linf),
            "l2": _distribution(self.l2),
        }


def _distribution(values: NDArray[np.float64]) -> dict[str, float]:
    return {"mean": float(values.mean()), "median": float(np.median(values)), "max": float(values.max())}
