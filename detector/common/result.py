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
        parts: scores float64 ``(B,)`` of the parts of the score, by name; comparable with each other.
    """

    score: np.ndarray
    components: dict[str, np.ndarray]
    contributions: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, np.ndarray] = field(default_factory=dict)

    def main_components(self) -> list[str | None]:
        """Name of the component that contributes most to the score of each image; None for a score without any."""
        return self._largest(self.contributions or self.components)

    def main_parts(self) -> list[str | None]:
        """Name of the part with the largest score, for each image; None for a score without parts."""
        return self._largest(self.parts)

    def _largest(self, values: dict[str, np.ndarray]) -> list[str | None]:
        if not values:
            return [None] * len(self.score)
        names = list(values)
        return [names[index] for index in np.argmax(np.stack(list(values.values())), axis=0)]
