"""Result of a detector for a batch of images."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = ["ComponentInfo", "ScoreResult"]


class ComponentInfo(NamedTuple):
    """Readable name and one-line description of a component."""

    title: str
    description: str


@dataclass(frozen=True)
class ScoreResult:
    """Scores with their components.

    Args:
        score: float64 ``(B,)``; higher = more anomalous.
        components: float64 ``(B,)`` each, by name; larger for less natural images.
        contributions: of each component to the score, ``(B,)``, where components themselves are not comparable.
    """

    score: np.ndarray
    components: dict[str, np.ndarray]
    contributions: dict[str, np.ndarray] = field(default_factory=dict)

    def main_components(self) -> list[str | None]:
        """Name of the component that contributes most to the score of each image; None for a score without any."""
        parts = self.contributions or self.components
        if not parts:
            return [None] * len(self.score)
        names = list(parts)
        return [names[index] for index in np.argmax(np.stack(list(parts.values())), axis=0)]
