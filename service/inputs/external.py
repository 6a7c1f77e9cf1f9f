"""A detector of pytorch-ood or ART as a Plumbline detector: `external:PATH.py:CALLABLE[:OPTION=VALUE...]`.

The callable gets a copy of the network, from images in [0, 1] to logits, and the options. It returns an object with the
interface of

    pytorch-ood    fit(data_loader), predict(images) → scores; higher = more anomalous
    ART            fit(x, y), detect(x) → (report, is_adversarial); y is 1 for attacked images

The code of the user's .py file runs. The file is identified by its SHA-256. The object can be anything, so it is not
stored: an external detector can be evaluated, but an artifact never contains one.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from detector.base.detector import Detector
from detector.common.result import ScoreResult
from models.devices import device_of
from models.errors import InputError
from models.features import FeatureRequest, Features, ForwardPass, Needs
from models.images.stored import as_float
from models.loading.user_file import load_user_file, without_package

__all__ = ["EXTERNAL", "ExternalDetector", "external_detector"]

EXTERNAL = "external"
_BATCH = 128  # images
_EVALUATED_ONLY = (
    "an external detector is code, which an artifact does not contain; evaluate it instead: plumbline evaluate "
    "--detectors external:PATH.py:CALLABLE"
)


class _Images:
    """The pixels ``(B, 3, H, W)`` in [0, 1]."""

    name, needs = "images", Needs()

    def __call__(self, forward_pass: ForwardPass) -> Tensor:
        return forward_pass.images


class ExternalDetector(Detector):
    """The detector that a user's callable builds.

    Args:
        file: the user's file.
        function: the callable's name.
        sha256: of the file and of the other own files that it imports, by path.
        options: arguments of the callable beside the network.
        seed: of torch's random numbers while the detector is built and fitted.

    Attributes:
        needs_adversarial: True for the interface of ART.
    """

    built_: Any

    def __init__(
        self, *, file: str, function: str, sha256: Mapping[str, str], options: Mapping[str, Any], seed: int = 0
    ) -> None:
        self.file, self.function, self.sha256, self.options, self.seed = file, function, sha256, options, seed

    def connect(self, constructor: Callable[..., Any], network: nn.Module) -> "ExternalDetector":
        """This detector with the callable and the network that it is built with.

        Raises:
            InputError: the callable fails, or returns an object of another interface.
        """
        self._constructor, self._network = constructor, network
        self.needs_adversarial = hasattr(self._build(), "detect")
        return self

    def __deepcopy__(self, memo: object) -> "ExternalDetector":
        return copy.copy(self)  # the network is shared, and `fit` builds a new object

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The images."""
        return (_Images(),)

    def _fit(self, natural: Features, adversarial: Features | None, labels: NDArray[np.int64] | None) -> None:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)
            self.built_ = self._build()
            images = as_float(natural.requested[_Images.name])
            if adversarial is not None:
                attacked = as_float(adversarial.requested[_Images.name])
                marks = np.repeat([0, 1], [len(images), len(attacked)])
                self._run("fit", torch.cat([images, attacked]).numpy(), marks)
                return
            known = torch.from_numpy(natural.predicted if labels is None else labels)
            if hasattr(self.built_, "to"):
                self.built_.to(self._device)
            self._run("fit", DataLoader(TensorDataset(images, known), batch_size=_BATCH))

    def _score(self, features: Features) -> ScoreResult:
        images = features.requested[_Images.name]
        scores = [self._scores(as_float(images[start : start + _BATCH])) for start in range(0, len(images), _BATCH)]
        return ScoreResult(np.concatenate([np.empty(0), *scores]), {})

    def _scores(self, images: Tensor) -> NDArray[np.float64]:
        method, given = ("detect", images.numpy()) if self.needs_adversarial else ("predict", images.to(self._device))
        returned = self._run(method, given)
        try:
            if self.needs_adversarial:
                returned = _scores_of_report(*returned)
            scores = torch.as_tensor(returned).detach().cpu().numpy().astype(np.float64)
        except (TypeError, ValueError, RuntimeError) as exc:
            raise self._failure(f"the result of {method}", exc) from exc
        if scores.shape != (len(images),):
            raise InputError(f"{self._where}: expected scores ({len(images)},), one per image, got {scores.shape}")
        if not np.isfinite(scores).all():
            raise InputError(f"{self._where}: expected finite scores, got {scores[~np.isfinite(scores)][0]}")
        return scores

    def _build(self) -> Any:
        try:
            built = self._constructor(copy.deepcopy(self._network), **self.options)
        except Exception as exc:  # a user's callable may raise anything
            raise self._failure("callable", exc) from exc
        if not (hasattr(built, "fit") and (hasattr(built, "detect") or hasattr(built, "predict"))):
            raise InputError(
                f"{self._where}: expected a detector with fit and predict, as in pytorch-ood, or fit and detect, as in "
                f"ART, got {type(built).__name__}"
            )
        return built

    def _run(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self.built_, method)(*arguments)
        except Exception as exc:
            raise self._failure(method, exc) from exc

    def _failure(self, what: str, exc: Exception) -> InputError:
        return InputError(f"{self._where}: {what} failed with {type(exc).__name__}: {without_package(exc)}")

    @property
    def _where(self) -> str:
        return f"{self.file}:{self.function}"

    @property
    def _device(self) -> torch.device:
        return device_of(self._network) or torch.device("cpu")

    def _state(self) -> NoReturn:
        raise InputError(_EVALUATED_ONLY)

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> NoReturn:
        raise InputError(_EVALUATED_ONLY)


def external_detector(
    path: str, function: str, options: Mapping[str, Any], *, network: nn.Module | None, seed: int = 0
) -> ExternalDetector:
    """The unfitted detector that a callable in a user's file builds.

    Args:
        path: of the file, whose code runs.
        function: the callable's name.
        options: its arguments beside the network.
        network: takes images in [0, 1]; None where a detector is fitted for an artifact.
        seed: of torch's random numbers while the detector is fitted.

    Raises:
        InputError: no such file or callable, or what it returns is no detector; or no network.
        NetworkError: the file raises an exception.
    """
    if network is None:
        raise InputError(_EVALUATED_ONLY)
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; pass external:PATH.py:CALLABLE")
    user = load_user_file(Path(path))
    digests = {Path(path).name: user.sha256, **user.imported()}
    detector = ExternalDetector(file=path, function=function, sha256=digests, options=dict(options), seed=seed)
    return detector.connect(user.function(function), network)


def _scores_of_report(report: Any, flagged: Any) -> NDArray[Any]:
    """Scores of ART's report: "scores"; or the difference of the two "predictions"; or the flags."""
    entries = report if isinstance(report, Mapping) else {}
    if "scores" in entries:
        return np.asarray(entries["scores"]).reshape(-1)
    predictions = np.asarray(entries.get("predictions", ()))
    if predictions.ndim == 2 and predictions.shape[1] == 2:
        return np.asarray(predictions[:, 1] - predictions[:, 0])
    return np.asarray(flagged).reshape(-1)
