"""Natural scene statistics: classifiers on 18 statistics of local contrast (Kherchouche et al., 2020; thesis E.2.2)."""

from dataclasses import dataclass

from torch import Tensor

from detector.base.requested_columns import RequestedColumns
from detector.features.image_statistics import nss
from models.features import FeatureRequest, ForwardPass, Needs

__all__ = ["NSS"]


class NSS(RequestedColumns):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, from the image's scene statistics.

    Of the network, only the predicted class is used. See `detector.features.image_statistics.nss` for the
    columns and `detector.base.columns.ColumnsDetector` for the classifiers and the options. The paper's classifier is
    "svm".
    """

    def _request(self) -> FeatureRequest:
        return _Measured()


@dataclass(frozen=True)
class _Measured:
    name: str = "nss"

    needs = Needs()

    def __call__(self, context: ForwardPass) -> Tensor:
        return nss(context.images)
