"""An outlier detector of scikit-learn on arrays of images.

detector = PlumblineDetector(network, mean=mean, std=std).fit(images, labels)
detector.predict(other_images)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from detector.artifact import load_artifact
from detector.pipeline import Pipeline
from models.errors import InputError
from service.adapters.fitting import fitted_pipeline, normalized_network

__all__ = ["PlumblineDetector"]

_SMALLEST = -1e-300  # a flagged score can exceed the threshold by 0


class PlumblineDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Flags images for which the prediction of a network cannot be trusted.

    Images are arrays ``(N, 3, H, W)`` in [0, 1], or the same flattened, ``(N, 3·H·W)``, as the steps of a
    scikit-learn pipeline pass them.

    Args:
        network: a classifier of normalised images, which is not changed; the detector runs a copy.
        mean, std: of its normalisation, one number or three, for pixels in [0, 1]; by default none.
        detector: a name from `plumbline list detectors`, with options after colons.
        image_shape: (3, H, W) of flattened images.
        fpr: false-positive rate of the threshold.
        batch_size: maximum number of images in one forward pass.
        seed: of the split and the detector.

    Attributes:
        pipeline_: the fitted pipeline.
        offset_: the threshold; `decision_function` is `offset_` minus Plumbline's score.
        n_features_in_: length of the second axis of the images of `fit`.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        detector: str = "outliers",
        image_shape: tuple[int, int, int] | None = None,
        fpr: float = 0.05,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.mean = mean
        self.std = std
        self.detector = detector
        self.image_shape = image_shape
        self.fpr = fpr
        self.batch_size = batch_size
        self.seed = seed

    @classmethod
    def from_artifact(
        cls, folder: Path | str, *, network_file: str | None = None, device: str | torch.device = "cpu"
    ) -> Self:
        """The fitted detector of an artifact that `plumbline fit` wrote; a clone of it is not fitted.

        Args:
            folder: of the artifact.
            network_file: PATH.py:CALLABLE of the network, if it comes from a user's file.
            device: where the network runs.

        Raises:
            ArtifactError: see `load_artifact`.
        """
        pipeline = load_artifact(folder, network_file=network_file, device=device).pipeline
        estimator = cls(pipeline.network, image_shape=pipeline.image_shape, fpr=pipeline.calibration.fpr)
        return estimator._fitted_with(pipeline)

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit to natural images; a fifth of them calibrates the threshold.

        Args:
            X: images.
            y: their classes ``(N,)``; None: the predicted ones.

        Raises:
            InputError, NetworkError: see `fitted_pipeline`; or no network.
        """
        if self.network is None:
            raise InputError("expected a network to fit a detector to, got None; pass network=")
        images = self._images(X)
        self.n_features_in_ = np.shape(X)[1]
        pipeline = fitted_pipeline(
            normalized_network(self.network, self.mean, self.std), images,
            None if y is None else np.asarray(y, dtype=np.int64), detector=self.detector, fpr=self.fpr, seed=self.seed,
        )  # fmt: skip
        return self._fitted_with(pipeline)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Threshold minus score, float64 ``(N,)``: negative for flagged images, as scikit-learn defines it.

        Raises:
            NotFittedError: of scikit-learn, before `fit`.
            ImageError: images of another size, or outside [0, 1].
        """
        check_is_fitted(self)
        results = self.pipeline_.score_in_batches(self._images(X), self.batch_size)
        values = np.array([self.offset_ - each.score for each in results], dtype=np.float64)
        return np.where([each.flagged for each in results], np.minimum(values, _SMALLEST), values)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """−1 for flagged images and 1 for others, ``(N,)``; raises as `decision_function` does."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _fitted_with(self, pipeline: Pipeline) -> Self:
        self.pipeline_, self.offset_ = pipeline, pipeline.calibration.threshold
        return self

    def _images(self, X: ArrayLike) -> Tensor:
        images = np.array(X, dtype=np.float32)
        if images.ndim == 2 and self.image_shape is not None and images.shape[1] == np.prod(self.image_shape):
            images = images.reshape(-1, *self.image_shape)
        if images.ndim != 4:
            raise InputError(
                f"expected images (N, 3, H, W), or flattened ones and image_shape=(3, H, W), got {images.shape} and "
                f"image_shape={self.image_shape}; reshape them or pass image_shape"
            )
        return torch.from_numpy(images)
