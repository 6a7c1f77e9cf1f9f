"""From images to verdicts: one forward pass with statistics, then the detector, then the calibrated threshold."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.features.statistics import by_block
from detector.pipeline.verdict import PathOfImage, Verdict
from models.engines import Engine, EngineSource
from models.engines.torch import TorchEngine
from models.errors import ImageError, InputError
from models.features import FeatureExtractor, Features, needs_of
from models.images.stored import ImageSequence, as_float
from models.normalization import Normalized
from models.residuals import Discovery, StatisticsSpec

__all__ = ["Pipeline"]

_SMALLEST_BATCH = 2  # of torch on CPUs; see `Pipeline.features`


class Pipeline:
    """A network, a fitted detector and a threshold: images ``(B, 3, H, W)`` in [0, 1] → verdicts.

    The network's weights and mode are never changed. Only one thread at a time may call `score`. Later changes of the
    network may have no effect, except changes of weights (see `models.residuals.WithStatistics`).

    Args:
        network: takes images in [0, 1]; in eval mode, on `device`.
        discovery: the branches that are recorded.
        measure: the statistics of each branch.
        detector: fitted on that network's features.
        calibration: from scores of natural images that the detector was not fitted on.
        classes: one name per logit.
        band: natural quantiles of the statistics, float32 ``(3, F)``; see `natural_band`.
        image_shape: (3, H, W) of the images that the network takes.
        device: where the forward pass runs.
        engine: runs the network for the detector's features; by default torch in float32. The network itself serves
            feature requests that an engine does not suffice for, and attacks.
        companion: a second network of the same classes, for a detector that compares with one; as `network`.

    Raises:
        InputError: parts that do not match.
    """

    def __init__(
        self,
        *,
        network: Normalized,
        discovery: Discovery,
        statistics_spec: StatisticsSpec,
        detector: Detector,
        calibration: Calibration,
        classes: Sequence[str],
        band: np.ndarray,
        image_shape: tuple[int, int, int],
        device: str | torch.device = "cpu",
        engine: Engine | None = None,
        companion: Normalized | None = None,
    ) -> None:
        detector._check_fitted()
        columns = len(discovery.branches) * statistics_spec.columns_per_block
        if detector.num_columns_ != columns:
            raise InputError(
                f"expected a detector of {columns} columns, for {len(discovery.branches)} branches and "
                f"{statistics_spec.columns_per_block} columns each, got one of {detector.num_columns_}; "
                "fit it on this network"
            )
        if len(classes) != detector.num_classes_:
            raise InputError(f"expected {detector.num_classes_} class names, one per logit, got {len(classes)}")
        if band.shape != (3, columns) or band.dtype != np.float32:
            raise InputError(f"expected a natural band float32 (3, {columns}), got {band.dtype} {band.shape}")
        _check_parts(detector, calibration)
        self.network = network.to(device).eval()
        self.discovery = discovery
        self.statistics_spec = statistics_spec
        self.detector = detector
        self.calibration = calibration
        self.classes = tuple(classes)
        self.band = band
        self.image_shape = image_shape
        self.device = torch.device(device)
        self.companion = None if companion is None else companion.to(device).eval()
        requests = detector.feature_requests()
        if engine is None and (needs := needs_of(requests)).engine_suffices:
            engine = TorchEngine(
                EngineSource(
                    network=self.network, discovery=discovery, statistics_spec=statistics_spec,
                    image_shape=image_shape, pooled=needs.pooled,
                )
            )  # fmt: skip
        self._extractor = FeatureExtractor(
            self.network, discovery, statistics_spec, requests, engine=engine, companion=self.companion
        )
        if companion is not None and not self._extractor.needs.companion:
            raise InputError(f"{detector!r} does not compare with a companion; leave it out")

    @property
    def engine(self) -> Engine | None:
        """Runs the network for the detector's features; None: torch with hooks, since the features need it."""
        return self._extractor.engine

    def score(self, images: Tensor, path: bool = False) -> list[Verdict]:
        """One verdict per image, in order.

        Args:
            images: float32 ``(B, 3, H, W)`` in [0, 1], on any device; B may be 0.
            path: whether each verdict carries its path.

        Raises:
            InputError: not a float32 tensor of that rank.
            ImageError: images of another size, outside [0, 1], or not finite.
            NetworkError: the network gave values that are not finite.
        """
        self._check_images(images)
        if not len(images):
            return []
        features = self.features(images)
        result = self.detector.score_components(features)
        main_components, probabilities = result.main_components(), _softmax(features.logits)
        scores, components = result.score.tolist(), {name: each.tolist() for name, each in result.components.items()}
        p_values = self.calibration.p_values(result.score).tolist()
        flagged = self.calibration.flags(result.score).tolist()
        part_p_values = {name: each.tolist() for name, each in self.calibration.part_p_values(result.parts).items()}
        main_parts = result.main_parts()
        return [
            Verdict(
                label=label,
                class_name=self.classes[label],
                probability=float(probabilities[row, label]),
                score=scores[row],
                p_value=p_values[row],
                flagged=flagged[row],
                components={name: values[row] for name, values in components.items()},
                main_component=main_components[row],
                part_p_values={name: values[row] for name, values in part_p_values.items()},
                main_part=main_parts[row],
                path=self._path(features.statistics[row]) if path else None,
                probabilities=probabilities[row],
            )
            for row, label in enumerate(features.predicted.tolist())
        ]

    def features(self, images: Tensor) -> Features:
        """Features of at least one valid image, from one forward pass; some feature requests make further passes.

        A batch that is smaller than the engine's smallest one is filled up with copies: a single image is scored as a
        batch of two, or as the image and its view, in torch on CPUs, where a batch of one takes other routines, and a
        difference in the last bit can change the vote of a forest. `fit` measures the smallest size from which on all
        batches give equal bits.

        On GPUs the routine can depend on every batch size, above all with TF32. Equal verdicts then require batches
        padded to a fixed size; without `torch.backends.cudnn.allow_tf32`, the scores of other batch sizes are close.

        Raises:
            NetworkError: values that are not finite.
        """
        count = len(images)
        batch = images.to(self.device)
        smallest = _SMALLEST_BATCH if self.engine is None else self.engine.smallest_batch
        needs = self._extractor.needs
        copies = math.ceil(smallest / (count * (1 + len(needs.views))))
        if needs.companion:
            copies = max(copies, math.ceil(_SMALLEST_BATCH / (count * len(needs.companion))))
        if copies == 1:
            return self._extractor.extract(batch)
        return self._extractor.extract(batch.repeat(copies, 1, 1, 1)).take(np.arange(count))

    def with_calibration(self, calibration: Calibration) -> "Pipeline":
        """This pipeline with another threshold; both share the network and the detector.

        Raises:
            InputError: the calibration has other parts than the score.
        """
        _check_parts(self.detector, calibration)
        other = copy.copy(self)
        other.calibration = calibration
        return other

    def to(self, device: str | torch.device) -> "Pipeline":
        """This pipeline on a device, with the same network, which is moved there.

        Raises:
            InputError: another device, and an engine other than torch in float32.
        """
        if torch.device(device) == self.device:
            return self
        if self.engine is not None and (self.engine.name, self.engine.precision) != ("torch", "float32"):
            raise InputError(
                f"the engine {self.engine.name} in {self.engine.precision} stays on {self.device}; load the artifact "
                f"with device={str(device)!r}"
            )
        return Pipeline(
            network=self.network, discovery=self.discovery, statistics_spec=self.statistics_spec,
            detector=self.detector, calibration=self.calibration, classes=self.classes, band=self.band,
            image_shape=self.image_shape, device=device, companion=self.companion,
        )  # fmt: skip

    def score_in_batches(self, images: ImageSequence, most: int = 128) -> list[Verdict]:
        """One verdict per image, in order, in batches of at most `most` that the memory allows; see `score`."""
        size = self.batch_size(most)
        starts = range(0, len(images), size)
        return [verdict for start in starts for verdict in self.score(as_float(images[start : start + size]))]

    def batch_size(self, most: int) -> int:
        """Images in one call of `score` that the memory allows, at most `most`."""
        return self._extractor.batch_size(torch.full((1, *self.image_shape), 0.5, device=self.device), most, most)

    def _check_images(self, images: Tensor) -> None:
        if not isinstance(images, Tensor) or images.ndim != 4 or images.dtype != torch.float32:
            got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"expected images as a float32 tensor (B, 3, H, W) in [0, 1], got {got}")
        if tuple(images.shape[1:]) != self.image_shape:
            raise ImageError(
                f"expected images of shape {self.image_shape} (channels, height, width), got "
                f"{tuple(images.shape[1:])}; apply the artifact's preprocessing first"
            )
        low, high = (float(bound) for bound in torch.aminmax(images)) if len(images) else (0.0, 1.0)
        if not (low >= 0 and high <= 1):  # NaN fails both comparisons
            fine = ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
            row = int((~fine).nonzero()[0, 0])
            raise ImageError(
                f"expected pixels in [0, 1], got values outside it or not finite in image {row} of the batch; "
                "divide 8-bit pixels by 255 and do not normalise: the network normalises inside"
            )

    def _path(self, statistics: np.ndarray) -> PathOfImage:
        rows = by_block(np.vstack([statistics, self.band]), self.statistics_spec.columns_per_block)
        blocks = [tuple(tuple(float(value) for value in block) for block in row) for row in rows]
        return PathOfImage(tuple(branch.name for branch in self.discovery.branches), *blocks)


def _check_parts(detector: Detector, calibration: Calibration) -> None:
    if set(calibration.parts) != set(detector.part_names()):
        raise InputError(
            f"expected calibration scores of the parts {sorted(detector.part_names())}, got "
            f"{sorted(calibration.parts)}; calibrate on the scores and parts of `score_components`"
        )


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 ``(B, K)``."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
