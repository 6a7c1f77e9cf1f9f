"""An evasion detector of ART, and its differentiable surrogate for ART's adaptive attacks.

detector = PlumblineDetector(classifier)
detector.fit(images, is_adversarial)
report, flagged = detector.detect(images)
attack = ProjectedGradientDescent(detector.surrogate(images, labels, joint=True), targeted=True)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from art.defences.detector.evasion import EvasionDetector
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.artifact import load_artifact
from detector.pipeline import Pipeline
from models.errors import InputError, NotFittedError
from service.adapters.fitting import fitted_pipeline, normalized_network
from service.adaptive.budgets import Budgets
from service.adaptive.context import AttackContext
from service.adaptive.settings import AdaptiveSettings
from service.adaptive.surrogate import fitted_surrogate, surrogate_inputs
from service.adaptive.system import System

__all__ = ["PlumblineDetector"]


class PlumblineDetector(EvasionDetector):  # type: ignore[misc]  # ART is untyped
    """Detects adversarial images by the network of an ART classifier.

    Args:
        classifier: takes images in [0, 1]; its preprocessing is at most a mean and a standard deviation. It is not
            changed; the detector runs a copy of its network.
        detector: a name from `plumbline list detectors`, with options after colons.
        fpr: false-positive rate of the threshold.
        seed: of the split and the detector.

    Attributes:
        pipeline: the fitted pipeline; None before `fit`.

    Raises:
        InputError: other pixels than in [0, 1], channels last, or other preprocessing.
    """

    defence_params: ClassVar = ["classifier", "detector", "fpr", "seed"]

    def __init__(
        self, classifier: PyTorchClassifier, *, detector: str = "fusion", fpr: float = 0.05, seed: int = 0
    ) -> None:
        super().__init__()
        self.classifier, self.detector, self.fpr, self.seed = classifier, detector, fpr, seed
        self.pipeline: Pipeline | None = None
        self._check_params()

    @classmethod
    def from_artifact(
        cls, folder: Path | str, *, network_file: str | None = None, device: str | torch.device = "cpu"
    ) -> "PlumblineDetector":
        """The fitted detector of an artifact that `plumbline fit` wrote, with its network as the ART classifier.

        Args:
            folder: of the artifact.
            network_file: PATH.py:CALLABLE of the network, if it comes from a user's file.
            device: where the network runs.

        Raises:
            ArtifactError: see `load_artifact`.
        """
        pipeline = load_artifact(folder, network_file=network_file, device=device).pipeline
        adapter = cls(_classifier(pipeline.network, pipeline, len(pipeline.classes)), fpr=pipeline.calibration.fpr)
        adapter.pipeline = pipeline
        return adapter

    def fit(self, x: NDArray[Any], y: NDArray[Any], batch_size: int = 128, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Fit to natural and adversarial images, and calibrate the threshold on a fifth of the natural ones.

        Args:
            x: ``(N, 3, H, W)`` in [0, 1].
            y: 1 for adversarial and 0 for natural images, ``(N,)``, or one-hot ``(N, 2)``.
            batch_size, nb_epochs, kwargs: without effect; the detector is not trained in epochs.

        Raises:
            InputError, NetworkError: see `fitted_pipeline`; or other labels.
        """
        adversarial = _is_adversarial(y, len(x))
        images = torch.from_numpy(np.array(x, dtype=np.float32))
        mean, std = _normalization(self.classifier)
        self.pipeline = fitted_pipeline(
            normalized_network(self.classifier.model, mean, std), images[~adversarial], detector=self.detector,
            abnormal=images[adversarial], fpr=self.fpr, seed=self.seed,
        )  # fmt: skip

    def detect(
        self, x: NDArray[Any], batch_size: int = 128, **kwargs: Any
    ) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
        """Scores and p-values ``(N,)`` by name, and whether each image of ``(N, 3, H, W)`` is flagged.

        Raises:
            NotFittedError: before `fit`.
            ImageError: images of another size, or outside [0, 1].
        """
        results = self._fitted().score_in_batches(torch.from_numpy(np.array(x, dtype=np.float32)), batch_size)
        report = {
            "scores": np.array([each.score for each in results], dtype=np.float64),
            "p_values": np.array([each.p_value for each in results], dtype=np.float64),
        }
        return report, np.array([each.flagged for each in results], dtype=np.bool_)

    def surrogate(
        self, x: NDArray[Any], y: NDArray[Any], *, joint: bool = False, budgets: Budgets | None = None
    ) -> PyTorchClassifier:
        """A differentiable classifier of the flag, or of the classes and the flag, for adaptive attacks.

        With one output, it is the detector of `art.estimators.classification.DetectorClassifier`: above 0 for images
        that are flagged. The output is the detector's own margin where that has a gradient, and otherwise a network
        that imitates the margin on natural, noisy and attacked images.

        With `joint`, it has the classes of ART's DetectorClassifier: those of the network, and a last one for flagged
        images. All gradient-based attacks of ART run on it. For a DetectorClassifier, ART 1.20 computes no loss
        gradients, and no gradients if all labels of a batch are classes or all are flags.

        Args:
            x: natural images ``(N, 3, H, W)`` in [0, 1].
            y: their classes ``(N,)``.
            joint: whether the outputs are the classes and the flag.
            budgets: of the fit; see `Budgets`.

        Raises:
            NotFittedError: before `fit`.
        """
        pipeline = self._fitted()
        system = System(pipeline)
        margins = system.exact_margins
        if margins is None:
            images = torch.from_numpy(np.array(x, dtype=np.float32)).to(pipeline.device)
            labels = torch.from_numpy(np.asarray(y, dtype=np.int64)).to(pipeline.device)
            settings = AdaptiveSettings(budgets=budgets or Budgets(), seed=self.seed)
            context = AttackContext(system, images, labels, settings, progress=False)
            imitation, _ = fitted_surrogate(system, images, context.fooled, labels, settings.budgets, self.seed)
            margins = lambda parts: imitation(surrogate_inputs(parts))  # noqa: E731
        return _classifier(_Surrogate(system, margins, joint=joint), pipeline, len(pipeline.classes) + joint)

    def _fitted(self) -> Pipeline:
        if self.pipeline is None:
            raise NotFittedError(f"{type(self).__name__} is not fitted; call fit first")
        return self.pipeline

    def _check_params(self) -> None:
        _normalization(self.classifier)


class _Surrogate(nn.Module):
    """Images → margins ``(B, 1)``, above 0 for flagged images; or logits with that of the flag ``(B, K + 1)``."""

    def __init__(self, system: System, margins: Callable[[dict[str, Tensor]], Tensor], *, joint: bool) -> None:
        super().__init__()
        self._system, self._margins, self._joint = system, margins, joint

    def forward(self, images: Tensor) -> Tensor:
        logits, parts = self._system.forward(images.float())
        margins = self._margins(parts).float()[:, None]
        return torch.cat([logits, logits.amax(dim=1, keepdim=True) + margins], dim=1) if self._joint else margins


def _classifier(network: nn.Module, pipeline: Pipeline, classes: int) -> PyTorchClassifier:
    # ART requires at least two classes, and its DetectorClassifier a detector with one output.
    return PyTorchClassifier(
        network, nn.CrossEntropyLoss(), pipeline.image_shape, classes, clip_values=(0.0, 1.0),
        device_type="cpu" if pipeline.device.type == "cpu" else "gpu",
    )  # fmt: skip


def _is_adversarial(y: NDArray[Any], count: int) -> NDArray[np.bool_]:
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 2:
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1)
    if len(labels) != count or not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"expected {count} labels, 1 for adversarial and 0 for natural images, or one-hot ({count}, 2), got "
            f"{np.shape(y)} with values in {np.unique(labels)[:5].tolist()}; these are not class labels"
        )
    return np.asarray(labels == 1)


def _normalization(classifier: PyTorchClassifier) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the classifier's preprocessing.

    Raises:
        InputError: see `PlumblineDetector`.
    """
    clip, step = classifier.clip_values, classifier.preprocessing
    if clip is None or np.min(clip[0]) != 0 or np.max(clip[1]) != 1 or not classifier.channels_first:
        raise InputError(
            "expected an ART classifier of images (N, 3, H, W) in [0, 1]; construct it with clip_values=(0, 1) and "
            "channels_first=True"
        )
    if classifier.preprocessing_defences or not (step is None or (hasattr(step, "mean") and hasattr(step, "std"))):
        raise InputError(
            "expected an ART classifier with preprocessing=(mean, std) at most; move other steps into its model"
        )
    if step is None:
        return (0.0,), (1.0,)
    return tuple(np.ravel(step.mean).tolist()), tuple(np.ravel(step.std).tolist())
