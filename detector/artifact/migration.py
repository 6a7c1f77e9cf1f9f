"""States and parameters of detectors from earlier artifacts, under the present names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["migrated_parameters", "migrated_state"]

_COMPONENTS = {"learnt": "classifier", "dispute": "prediction_disagreement", "change": "logit_shift"}
_COMPOSITE = ("path", "views", "fusion")
# Options that earlier artifacts lack, with the values that change nothing.
_LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "transport": {"norms_only": False, "columns_per_block": 2},
    "transport_cost": {"rule": "per_class"},
}


def migrated_parameters(detector: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a detector with the options that did not exist when its artifact was written."""
    return {**_LATER_OPTIONS.get(detector, {}), **parameters}


def migrated_state(detector: str, state: Mapping[str, np.ndarray], protocol: int) -> dict[str, np.ndarray]:
    """The arrays of a detector's state under the names of protocol 2.

    Args:
        detector: name of the detector.
        state: arrays by their names in the artifact.
        protocol: of the artifact.
    """
    if protocol >= 2:
        return dict(state)
    return {_renamed(detector, name): array for name, array in state.items()}


def _renamed(detector: str, name: str) -> str:
    """The name of an array in protocol 2 by its name in protocol 1."""
    head, _, rest = name.partition(".")
    if head == "measured":
        return f"requested.{rest}"
    if head == "reference":
        return name.replace("everyone.", "background.")
    if detector not in _COMPOSITE or name in ("shape", "scales"):
        return name
    if head == "natural":
        return f"component.{rest}"
    if head == "surprise":
        component, _, array = rest.partition(".")
        return f"tail_score.{_COMPONENTS.get(component, component)}.{array}"
    return f"component.classifier.{name}"
