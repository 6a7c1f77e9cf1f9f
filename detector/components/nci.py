"""Proximity of the embedding to the weights of the predicted class (NCI; Liu and Qin, 2025)."""

from collections.abc import Mapping

from detector.common.array_api import Array, constants, namespace
from detector.components._last_embedding import lengths
from detector.components._linear_head import LinearHeadComponent
from detector.components.base import Inputs

__all__ = ["CollapseProximity"]


class CollapseProximity(LinearHeadComponent):
    """−(h − μ) · w_p / ‖h − μ‖, with p the predicted class. With neural collapse, h − μ points towards w_p.

    The paper also subtracts the L1 norm of h, with a factor that is selected on outliers. The component omits it, since
    it learns from natural images only.
    """

    title = "Neural-collapse proximity"
    description = "the last embedding does not point towards the weights of the predicted class"
    groups = ("nci",)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The projection, with a negative sign."""
        centred, predicted = self.centred(inputs), inputs.outputs().top_two_classes[:, 0]
        xp, (weights,) = namespace(centred), constants(centred, self.weights_)
        return {"nci": (-xp.vecdot(centred, weights[predicted]) / lengths(centred))[:, None]}
