"""A detector of pytorch-ood: its benchmarks evaluate a Plumbline detector beside others.

detector = PlumblineDetector(model, mean=mean, std=std).fit(train_loader)
scores = detector.predict(images)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pytorch_ood.api import Detector, DetectorInfo, RequiresFittingException, Task
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detector.artifact import load_artifact
from detector.pipeline import Pipeline
from service.adapters.fitting import fitted_pipeline, normalized_network, taken
from service.adapters.images import loaded_images, unnormalized

__all__ = ["PlumblineDetector"]


class PlumblineDetector(Detector):  # type: ignore[misc]  # pytorch-ood is untyped
    """Outlier scores of normalised images; higher = more likely OOD.

    The detector reads several layers of the network in one pass, so pytorch-ood's cached logits or features do not
    suffice, and `predict` takes images.

    Args:
        model: a classifier of normalised images, which is not changed; the detector runs a copy.
        mean, std: of the normalisation in the transform, one number or three, for pixels in [0, 1]; by default none.
        detector: a name from `plumbline list detectors`, with options after colons.
        fpr: false-positive rate of the threshold in `pipeline.calibration`; the scores do not depend on it.
        limit: maximum number of images to fit on, sampled at random.
        seed: of the sample, the split and the detector.

    Attributes:
        pipeline: the fitted pipeline, for p-values and flags; None before `fit`.
    """

    requires_fit = True
    info: ClassVar = DetectorInfo(tasks=[Task.CLASSIFICATION])

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        detector: str = "outliers",
        fpr: float = 0.05,
        limit: int = 10_000,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.mean, self.std = tuple(mean), tuple(std)
        self.detector, self.fpr, self.limit, self.seed = detector, fpr, limit, seed
        self.pipeline: Pipeline | None = None

    @classmethod
    def from_artifact(
        cls,
        folder: Path | str,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        network_file: str | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """The fitted detector of an artifact that `plumbline fit` wrote.

        Args:
            folder: of the artifact.
            mean, std: of the normalisation in the benchmark's transform, which can differ from that of the network.
            network_file: PATH.py:CALLABLE of the network, if it comes from a user's file.
            device: where the network runs.

        Raises:
            ArtifactError: see `load_artifact`.
        """
        pipeline = load_artifact(folder, network_file=network_file, device=device).pipeline
        adapter = cls(pipeline.network, mean=mean, std=std, fpr=pipeline.calibration.fpr)
        adapter.pipeline, adapter.requires_fit = pipeline, False
        return adapter

    def fit(self, data_loader: "DataLoader[Any]") -> Self:
        """Fit to a loader of batches (images, labels); labels below 0 mark outliers.

        Outliers are used only by detectors that learn from attacked images or outliers. The detector of an artifact is
        not fitted again.

        Raises:
            InputError, NetworkError: see `fitted_pipeline`.
        """
        if not self.requires_fit:
            return self
        images, labels = loaded_images(data_loader, self.mean, self.std, limit=self.limit, seed=self.seed)
        natural, outliers = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
        self.pipeline = fitted_pipeline(
            normalized_network(self.model, self.mean, self.std), taken(images, natural), labels[natural],
            detector=self.detector, abnormal=taken(images, outliers), fpr=self.fpr, seed=self.seed,
        )  # fmt: skip
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Scores float64 ``(B,)`` of normalised images ``(B, 3, H, W)``, on their device.

        Raises:
            RequiresFittingException: before `fit`.
            ImageError: images of another size, or normalised in another way.
        """
        if self.pipeline is None:
            raise RequiresFittingException
        results = self.pipeline.score_in_batches(unnormalized(x, self.mean, self.std), max(1, len(x)))
        return torch.tensor([each.score for each in results], dtype=torch.float64, device=x.device)

    def to(self, device: str | torch.device) -> Self:
        """Move the network to the device; returns the detector.

        Raises:
            InputError: an artifact's engine other than torch in float32 on another device.
        """
        super().to(device)
        if self.pipeline is not None:
            self.pipeline = self.pipeline.to(device)
        return self
