"""A postprocessor of OpenOOD: its evaluator compares a Plumbline detector with others.

    postprocessor = PlumblinePostprocessor(mean=mean, std=std)
    Evaluator(network, id_name="cifar10", postprocessor=postprocessor).eval_ood()

Written against OpenOOD's documented interface, version 1.5; OpenOOD is not on the package index.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from openood.postprocessors import BasePostprocessor
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detector.artifact import load_artifact
from detector.pipeline import Pipeline
from models.errors import NotFittedError
from models.progress import progress_bar
from service.adapters.fitting import fitted_pipeline, normalized_network
from service.adapters.images import batch_of, loaded_images, unnormalized

__all__ = ["PlumblinePostprocessor"]


class PlumblinePostprocessor(BasePostprocessor):  # type: ignore[misc]  # OpenOOD is untyped
    """Predictions and confidences of normalised images, on any device; the confidence is the negative score.

    `setup` fits on the loader "train" and calibrates the threshold on the loader "val" of the in-distribution data. The
    loaders with outliers are not used.

    Args:
        config: OpenOOD's configuration, which is not used.
        mean, std: of the normalisation in the preprocessor, one number or three, for pixels in [0, 1]; by default none.
        detector: a name from `plumbline list detectors`, with options after colons.
        fpr: false-positive rate of the threshold in `pipeline.calibration`; the confidences do not depend on it.
        limit: maximum number of images to fit on and to calibrate on, sampled at random.
        seed: of the sample, the split and the detector.

    Attributes:
        pipeline: the fitted pipeline, for p-values and flags; None before `setup`.
    """

    # Read by the evaluator: no automatic search for hyperparameters.
    APS_mode = False
    hyperparam_search_done = True

    def __init__(
        self,
        config: Any = None,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        detector: str = "outliers",
        fpr: float = 0.05,
        limit: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__(config)
        self.args_dict: dict[str, Any] = {}
        self.mean, self.std = tuple(mean), tuple(std)
        self.detector, self.fpr, self.limit, self.seed = detector, fpr, limit, seed
        self.pipeline: Pipeline | None = None
        self._from_artifact = False

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
        """The fitted detector of an artifact that `plumbline fit` wrote; `setup` does not change it.

        Args:
            folder: of the artifact.
            mean, std: of the normalisation in the preprocessor, which can differ from that of the network.
            network_file: PATH.py:CALLABLE of the network, if it comes from a user's file.
            device: where the network runs.

        Raises:
            ArtifactError: see `load_artifact`.
        """
        postprocessor = cls(mean=mean, std=std)
        postprocessor.pipeline = load_artifact(folder, network_file=network_file, device=device).pipeline
        postprocessor._from_artifact = True
        return postprocessor

    def setup(
        self, net: nn.Module, id_loader_dict: "Mapping[str, DataLoader[Any]]", ood_loader_dict: Mapping[str, Any]
    ) -> None:
        """Fit on the loader "train" and calibrate on "val"; the network is not changed.

        Raises:
            InputError, NetworkError: see `fitted_pipeline`.
        """
        if self._from_artifact:
            return
        (images, labels), (calibrate_on, _) = (
            loaded_images(id_loader_dict[name], self.mean, self.std, limit=self.limit, seed=self.seed)
            for name in ("train", "val")
        )
        self.pipeline = fitted_pipeline(
            normalized_network(net, self.mean, self.std), images, labels, detector=self.detector,
            calibrate_on=calibrate_on, fpr=self.fpr, seed=self.seed,
        )  # fmt: skip

    def postprocess(self, net: nn.Module, data: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted classes int64 ``(B,)`` and confidences float64 ``(B,)`` of normalised images ``(B, 3, H, W)``.

        Raises:
            NotFittedError: before `setup`.
            ImageError: images of another size, or normalised in another way.
        """
        if self.pipeline is None:
            raise NotFittedError(f"{type(self).__name__} is not fitted; call setup first")
        results = self.pipeline.score_in_batches(unnormalized(data, self.mean, self.std), max(1, len(data)))
        labels = torch.tensor([each.label for each in results], dtype=torch.int64, device=data.device)
        return labels, torch.tensor([-each.score for each in results], dtype=torch.float64, device=data.device)

    def inference(
        self, net: nn.Module, data_loader: "DataLoader[Any]", progress: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Predicted classes, confidences and labels of a loader, ``(N,)`` each.

        OpenOOD's own method needs a GPU.
        """
        results: list[tuple[NDArray[Any], ...]] = []
        with progress_bar(total=len(data_loader), what="inference", unit="batch", show=progress) as bar:
            for batch in data_loader:
                data, labels = batch_of(batch)
                results.append(tuple(each.cpu().numpy() for each in (*self.postprocess(net, data), labels)))
                bar.update()
        predicted, confidences, known = (np.concatenate(each) for each in zip(*results, strict=True))
        return predicted, confidences, known
