"""Distance to the decision boundaries of the last layer (fDBD; Liu and Qin, 2024)."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array, constants, namespace
from detector.components._last_embedding import lengths
from detector.components._linear_head import LinearHeadComponent
from detector.components.base import Inputs

__all__ = ["BoundaryDistance"]


class BoundaryDistance(LinearHeadComponent):
    """−mean over c ≠ p of |z_p − z_c| / (‖w_p − w_c‖ · ‖h − μ‖), with the logits z and the predicted class p."""

    title = "Boundary distance"
    description = "the last embedding is near the decision boundaries, compared with its distance from the mean"
    groups = ("fdbd",)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The distance, with a negative sign."""
        outputs, centred = inputs.outputs(), self.centred(inputs)
        predicted = outputs.top_two_classes[:, 0]
        between = np.linalg.norm(self.weights_[:, None] - self.weights_, axis=2)
        xp, (between,) = namespace(centred), constants(centred, np.maximum(between, 1e-12))
        gaps = xp.abs(outputs.largest[0][:, None] - outputs.values) / between[predicted]
        others = max(outputs.values.shape[1] - 1, 1)
        return {"fdbd": (-xp.sum(gaps, axis=1) / others / lengths(centred))[:, None]}
