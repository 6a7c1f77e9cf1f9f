"""The result for one image: class, score, p-value, flag and components, optionally with its path."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detector.common.former_names import former_name

__all__ = ["PathOfImage", "Verdict"]


@dataclass(frozen=True)
class PathOfImage:
    """The statistics of an image block by block, with the band of natural paths.

    Each of `statistics`, `low`, `median` and `high` has one row per block, with one number per column of the block:
    ‖r‖²/d, cos(r, 1), then further cosines. `low`, `median` and `high` are quantiles over natural images.
    """

    branches: tuple[str, ...]
    statistics: tuple[tuple[float, ...], ...]
    low: tuple[tuple[float, ...], ...]
    median: tuple[tuple[float, ...], ...]
    high: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """The predicted class of one image, and whether the prediction can be trusted.

    Args:
        label: the predicted class's index.
        class_name: its name.
        probability: its softmax probability; high on most adversarial images too.
        score: higher = more anomalous.
        p_value: share of natural images that nothing was fitted on that score at least as high, (1 + #{≥}) / (n + 1).
        flagged: whether the score reaches the calibrated threshold, equivalently whether p_value <= fpr.
        components: of the score, by name; `Detector.component_info` explains them.
        main_component: name of the component that contributes most to the score; None for a score without components.
        part_p_values: p-values of the parts of the score by name, such as "attack" and "outlier"; empty without parts.
        main_part: the part that is least natural; None without parts.
        path: the statistics of every block, if requested.
        probabilities: float64 ``(K,)``, the softmax over all classes; not part of the JSON.
    """

    label: int
    class_name: str
    probability: float
    score: float
    p_value: float
    flagged: bool
    components: dict[str, float]
    main_component: str | None = None
    part_p_values: dict[str, float] = field(default_factory=dict)
    main_part: str | None = None
    path: PathOfImage | None = None
    probabilities: np.ndarray | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, "votes" with the former names of components; without a path or parts if none."""
        optional = ("path", "part_p_values", "main_part")
        values = {name: value for name, value in vars(self).items() if name not in ("probabilities", *optional)}
        values["components"] = dict(self.components)
        values["votes"] = {former_name(name): value for name, value in self.components.items()}
        if self.part_p_values:
            values["part_p_values"], values["main_part"] = dict(self.part_p_values), self.main_part
        if self.path is not None:
            values["path"] = dict(vars(self.path))
        return values
