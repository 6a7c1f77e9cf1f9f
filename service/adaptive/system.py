"""A fitted pipeline from the attacker's side: decisions, and what has a gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.calibration import Calibration
from detector.common.result import ScoreResult
from detector.pipeline import Pipeline
from models.batching import fitting_batch
from models.errors import InputError, NetworkError
from models.features import FeatureExtractor, FeatureRequest, Features
from service.adaptive.exact import columns_of, exact_margins

__all__ = ["Decision", "System", "predicted_by"]

Decision = Literal["calibrated", "vote"]

_VOTE = 0.5  # thesis 5.4.2: a forest predicts "adversarial" if at least half of its trees do
_LOGIT_LEAD = 1e-6  # relative to the largest logit, that a class needs during a search
_SMALLEST = -1e-300  # a score can be below the threshold by less than its last digit

Parts = dict[str, NDArray[np.float32]]


class System:
    """Network and detector; an image is flagged if score − threshold ≥ 0.

    Args:
        pipeline: network, detector, calibration.
        decision: "calibrated", the threshold for a false-positive rate, or "vote", 0.5.
        ensemble: True for the detector's score, which for classifiers is the larger of both probabilities; False for
            the probability "all_class" alone. A detector without classifiers has its score only.
        calibration: of that score; by default the pipeline's, which belongs to the detector's score.
        batch_size: maximum number of images in one forward pass; fewer where memory requires it.

    Attributes:
        gradient_batch: maximum number of images in one gradient of `forward`.
        differentiable: names of the parts of the features that have a gradient in the images.
        exact_margins: differentiable margins from these parts; None if the score has no gradient.

    Raises:
        InputError: the detector cannot make this decision.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        decision: Decision = "calibrated",
        ensemble: bool = True,
        calibration: Calibration | None = None,
        batch_size: int = 128,
    ) -> None:
        if decision not in ("calibrated", "vote"):
            raise InputError(f"expected decision 'calibrated' or 'vote', got {decision!r}")
        if batch_size < 2:
            raise InputError(f"expected a batch size of at least 2, got {batch_size}; pass a larger one")
        self.pipeline = pipeline
        self.decision: Decision = decision
        self.ensemble = ensemble
        self.batch_size = batch_size
        probe = torch.rand(2, *pipeline.image_shape, generator=torch.Generator().manual_seed(0))
        features = pipeline.features(probe)
        has_votes = "all_class" in pipeline.detector.score_components(features).components
        if decision == "vote" and not has_votes:
            raise InputError(
                f"decision='vote' needs a detector with classifiers, got {pipeline.detector!r}; use "
                "decision='calibrated'"
            )
        if decision == "calibrated" and not ensemble and has_votes and calibration is None:
            raise InputError(
                "ensemble=False needs a calibration of the vote 'all_class'; the pipeline's is of the larger vote; "
                "pass calibration=Calibration(votes of other natural images, fpr), or decision='vote'"
            )
        self._only_all_class = has_votes and not ensemble
        self.threshold = _VOTE if decision == "vote" else (calibration or pipeline.calibration).threshold
        self._columns = columns_of(pipeline.detector)
        self.exact_margins = exact_margins(pipeline.detector, self._columns, self.threshold)
        self._shapes = {name: values.shape[1:] for name, values in features.requested.items()}
        requests = [each for each in pipeline.detector.feature_requests() if self._has_gradient(each, probe)]
        self._extractor = self._extractor_of(requests)
        self.differentiable = tuple(self.forward(probe.to(pipeline.device))[1])
        self._feature_batch = pipeline.batch_size(batch_size)
        image = probe[:1].to(pipeline.device)
        self.gradient_batch = fitting_batch(self._differentiate, image, batch_size, batch_size)

    @property
    def network(self) -> nn.Module:
        """The pipeline's network."""
        return self.pipeline.network

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.pipeline.device

    # --- verdicts

    def features(self, images: Tensor) -> Features:
        """The pipeline's features of images ``(N, 3, H, W)``, batch by batch."""
        return Features.concatenated(
            [self.pipeline.features(batch) for batch in torch.split(images, self._feature_batch)]
        )

    def margins(self, features: Features) -> NDArray[np.float64]:
        """Score minus threshold ``(N,)``; flagged where it is at least 0."""
        return self._margins(self.pipeline.detector.score_components(features))

    def _margins(self, result: ScoreResult) -> NDArray[np.float64]:
        scores = result.score
        if self._only_all_class:
            scores = result.components["all_class"]
        elif self.decision == "vote":  # the score of a composite detector is not a probability
            scores = np.maximum(result.components["all_class"], result.components["predicted_class"])
        margins: NDArray[np.float64] = scores - self.threshold
        return np.where(scores >= self.threshold, margins, np.minimum(margins, _SMALLEST))

    def classify(self, images: Tensor) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Predicted classes and flags, each ``(N,)``."""
        features = self.features(images)
        return features.predicted, self.margins(features) >= 0

    def decide(
        self, wanted: Callable[[Tensor, Tensor], Tensor], *, lead: float = 0.0
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A function `(images, rows) → (b,) bool`: not flagged, and predicted as `wanted(predicted, rows)` requires.

        Both hold with a small lead: images at the boundary, such as HopSkipJump's, are scored again in other batches,
        where rounding can change the decision.

        Args:
            wanted: which predictions are accepted.
            lead: of the score below the threshold.
        """

        def passes(images: Tensor, rows: Tensor) -> Tensor:
            features = self.features(images)
            margins = self.margins(features)
            second, first = np.partition(features.logits, -2, axis=1)[:, -2:].T
            clear = first - second > _LOGIT_LEAD * np.maximum(np.abs(first), np.abs(second))
            accepted = torch.from_numpy((margins < 0) & (margins <= -lead) & clear).to(images.device)
            return accepted & wanted(torch.from_numpy(features.predicted).to(images.device), rows)

        return passes

    # --- features as matrices

    def parts(self, features: Features) -> Parts:
        """Logits, statistics and requested features as float32 matrices ``(N, F_i)``, by name.

        The detector's columns replace the features that are used for them only.
        """
        requested = {name: values.reshape(len(values), -1) for name, values in features.requested.items()}
        if self._columns is not None:
            requested = {name: values for name, values in requested.items() if name not in self._columns.replaces}
            requested[self._columns.name] = self._columns.from_features(features)
        return {"logits": features.logits, "statistics": features.statistics, **requested}

    def margins_of(self, parts: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """As `margins`, of parts that are not necessarily those of images."""
        if self._columns is not None:
            return self._margins(self._columns.score_components(parts[self._columns.name], predicted_by(parts)))
        requested = {name: parts[name].reshape(-1, *shape) for name, shape in self._shapes.items()}
        return self.margins(Features(parts["logits"], parts["statistics"], requested))

    def used_parts(self, features: Features) -> tuple[str, ...]:
        """Names of the parts that the score depends on: a permutation of their rows changes some score."""
        parts = self.parts(features)
        margins = self.margins_of(parts)
        generator = np.random.default_rng(0)
        orders = [generator.permutation(len(margins)) for _ in range(3)]
        return tuple(
            name
            for name, values in parts.items()
            if any((self.margins_of({**parts, name: values[order]}) != margins).any() for order in orders)
        )

    # --- what can be differentiated

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits ``(b, K)`` and the `differentiable` parts ``(b, F_i)`` by name, the logits among them."""
        with torch.enable_grad():
            return self._forward(images, self._extractor)

    def _differentiate(self, images: Tensor) -> None:
        """One gradient, to measure its memory."""
        images = images.detach().requires_grad_(True)
        parts = self.forward(images)[1]
        torch.autograd.grad(torch.stack([values.sum() for values in parts.values()]).sum(), images)

    def _extractor_of(self, requests: Sequence[FeatureRequest]) -> FeatureExtractor:
        pipeline = self.pipeline
        return FeatureExtractor(
            self.network, pipeline.discovery, pipeline.statistics_spec, requests, companion=pipeline.companion
        )

    def _forward(self, images: Tensor, extractor: FeatureExtractor) -> tuple[Tensor, dict[str, Tensor]]:
        context = extractor.forward(images)
        statistics = context.statistics
        requested = {request.name: request(context) for request in extractor.feature_requests}
        if self._columns is not None and set(self._columns.replaces) <= set(requested):
            made = self._columns.from_tensors(context.logits, statistics, requested)
            requested = {name: values for name, values in requested.items() if name not in self._columns.replaces}
            requested[self._columns.name] = made
        requested = {name: values.flatten(1) for name, values in requested.items()}
        return context.logits, {"logits": context.logits, "statistics": statistics, **requested}

    def _has_gradient(self, feature_request: FeatureRequest, probe: Tensor) -> bool:
        images = probe.to(self.device).requires_grad_(True)
        try:
            with torch.enable_grad():
                _, parts = self._forward(images, self._extractor_of([feature_request]))
        except NetworkError:
            raise
        except RuntimeError:  # torch does not convert a tensor with gradients to NumPy
            return False
        return all(values.requires_grad for values in parts.values())


def predicted_by(parts: Mapping[str, NDArray[np.float32]]) -> NDArray[np.int64]:
    """The class with the largest logit ``(N,)``."""
    classes: NDArray[np.int64] = parts["logits"].argmax(axis=1).astype(np.int64)
    return classes
