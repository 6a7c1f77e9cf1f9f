"""Which attacks count as the same attack."""

from collections.abc import Mapping
from typing import Any

from models.errors import ArtifactError

__all__ = ["Threat", "threat", "threats_fitted_on"]

Threat = tuple[Any, ...]

_OPTIONS = ("norm", "epsilon", "target", "confidence", "attack", "substitute")


def threat(name: str, parameters: Mapping[str, Any]) -> Threat:
    """The properties that make two attacks the same: name, norm, budget, target and confidence, but not the steps."""
    return (name, *(parameters.get(option) or None for option in _OPTIONS))


def threats_fitted_on(provenance: Mapping[str, Any]) -> list[Threat]:
    """Each attack that an artifact was fitted on.

    Raises:
        ArtifactError: the provenance has another format.
    """
    try:
        return [threat(each["attack"], each["parameters"]) for each in provenance.get("attacks", [])]
    except (TypeError, KeyError, AttributeError) as exc:
        raise ArtifactError("the artifact does not state the attacks that it was fitted on; fit again") from exc
