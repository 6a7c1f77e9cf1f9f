"""Differences between the outputs of the network and of its companion, for the classifiers."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components.base import Component, Inputs
from detector.features.path_columns import output_columns
from detector.features.path_vectors import CompanionLogits
from models.features import FeatureRequest

__all__ = ["CompanionOutputs"]


class CompanionOutputs(Component):
    """Margin, distance and divergence of the companion's output from the network's. Not part of the score."""

    title = "Outputs of the companion"
    description = "a second network gives another output"
    groups = ("companion_outputs",)

    def __init__(self) -> None:
        super().__init__(in_score=False)
        self._logits = CompanionLogits()

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The request for the companion's logits."""
        return (self._logits,)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """`output_columns` of both outputs."""
        return {"companion_outputs": output_columns(inputs.outputs(), inputs.outputs(self._logits))}
