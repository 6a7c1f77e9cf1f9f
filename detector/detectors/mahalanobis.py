"""Mahalanobis distances of the blocks' embeddings to the nearest class (Lee et al., 2018; the thesis, E.2.1)."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from detector.base.columns import ColumnsDetector
from detector.common.options import require_choice, require_number
from detector.density.gaussians import Gaussians
from detector.features.embeddings import Layers, PooledEmbeddings, chosen_blocks
from models.features import FeatureRequest, Features, ForwardPass, Needs
from models.residuals import StatisticsSpec, record_residues

__all__ = ["Mahalanobis"]


class Mahalanobis(ColumnsDetector):
    """Columns: per layer, the squared Mahalanobis distance min_c (h − μ_c)ᵀ Σ⁺ (h − μ_c) of the pooled embedding h.

    Class means μ_c and the covariance Σ that all classes share come from the reference images and their true classes;
    Σ⁺ is the pseudo-inverse. It is the negative confidence of "A Simple Unified Framework for Detecting
    Out-of-Distribution Samples and Adversarial Attacks" (Lee, Lee, Lee and Shin, 2018), whose classifier is logistic
    regression. The outlier score of classifier="none" is the unweighted sum over the layers (weights would need
    outliers), or the distance in the last layer.

    Input pre-processing (their equation 4), with a `magnitude` above 0: each layer has its own image, x − magnitude ·
    sign(∇_x of the layer's distance to the class nearest to x). The magnitude is in pixels of images in [0, 1]. Their
    code is equivalent: it takes the step on normalised images and divides it by the standard deviation. They choose
    among 0, 0.0005, 0.001, 0.0014, 0.002, 0.005 and 0.01 on images like those tested; here it is an option. As in
    theirs, the moved image may leave [0, 1] by the magnitude.

    Args:
        layers: "blocks" for all recorded blocks; "stages" for the last of each run of blocks of one shape.
        magnitude: of the input pre-processing; costs a backward pass and a further forward pass per layer.
        combine: "sum" or "last", the layers in the outlier score.
        options: see `ColumnsDetector`.
    """

    needs_reference = True

    gaussians_: Gaussians
    moved_: "DistancesOfMoved"

    def __init__(
        self,
        *,
        layers: Layers = "blocks",
        magnitude: float = 0.0,
        combine: Literal["sum", "last"] = "sum",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.layers = layers
        self.magnitude = magnitude
        self.combine = combine

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_choice("layers", self.layers, get_args(Layers))
        require_choice("combine", self.combine, ("sum", "last"))
        require_number("magnitude", self.magnitude, least=0.0, most=1.0)

    def _unused_options(self) -> tuple[str, ...]:
        return (*super()._unused_options(), *(() if self.classifier == "none" else ("combine",)))

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Embeddings; with pre-processing, after `prepare`, also the distances of the moved images."""
        moved = (self.moved_,) if hasattr(self, "moved_") else ()
        return (PooledEmbeddings(self.layers, network=self.magnitude != 0), *moved)

    def _prepare(self, reference: Features, labels: np.ndarray) -> None:
        self._take(Gaussians.fit(reference.requested[PooledEmbeddings(self.layers).name], labels))

    def _take(self, gaussians: Gaussians) -> None:
        self.gaussians_ = gaussians
        if self.magnitude:
            self.moved_ = DistancesOfMoved(gaussians, self.layers, self.magnitude)

    def _distances(self, features: Features) -> np.ndarray:
        """Float64 ``(B, L)``."""
        if hasattr(self, "moved_"):
            return features.requested[self.moved_.name].astype(np.float64)
        distances: np.ndarray = self.gaussians_.distances(features.requested[PooledEmbeddings(self.layers).name])
        return distances

    def _columns(self, features: Features) -> np.ndarray:
        return self._distances(features)

    def _outlier_score(self, features: Features) -> np.ndarray:
        distances = self._distances(features)
        score: np.ndarray = distances.sum(axis=1) if self.combine == "sum" else distances[:, -1].copy()
        return score

    def _reference_state(self) -> dict[str, np.ndarray]:
        return self.gaussians_.state()

    def _restore_reference(self, state: Mapping[str, np.ndarray]) -> None:
        self._take(Gaussians.from_state(state, self.num_classes_))


class DistancesOfMoved:
    """Float32 ``(B, L)``: per layer, the distance of the image that was moved towards its nearest class.

    Args:
        gaussians: of every layer.
        layers: which they are.
        magnitude: change of every pixel.
    """

    needs = Needs(network=True)

    def __init__(self, gaussians: Gaussians, layers: Layers, magnitude: float) -> None:
        self.layers, self.magnitude = layers, float(magnitude)
        self._arrays = (gaussians.centre, gaussians.whitening, gaussians.whitened_means)
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in self._arrays)
        self.name = f"mahalanobis:{layers}:magnitude={self.magnitude!r}:{hashlib.sha256(content).hexdigest()[:16]}"
        self._placed: tuple[torch.device, list[Tensor]] | None = None

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class; L further forward passes and as many backward ones."""
        with torch.inference_mode(False), torch.enable_grad():
            images = context.images.clone().requires_grad_(True)
            moved = []
            for distance in self._distances(context, images):
                (gradient,) = torch.autograd.grad(distance.sum(), images, retain_graph=True)
                moved.append(images.detach() - self.magnitude * gradient.sign())
        with torch.no_grad():
            found = [self._distances(context, batch)[layer] for layer, batch in enumerate(moved)]
        return torch.stack(found, dim=1).float()

    def _distances(self, context: ForwardPass, images: Tensor) -> list[Tensor]:
        """Distances ``(B,)`` of every layer, differentiable in the images."""
        statistics_spec = StatisticsSpec(quantity="embeddings")
        with record_residues(
            context.network, context.discovery, statistics_spec=statistics_spec, statistics=False, pool=True
        ) as recording:
            context.network(images)
        blocks = chosen_blocks([branch.shape for branch in context.discovery.branches], self.layers)
        centres, whitenings, means = self._on(images.device)
        found = []
        for layer, block in enumerate(blocks):
            pooled = recording.pooled[block]
            width = pooled.shape[1]
            vector = pooled.to(centres.dtype) - centres[layer, :width]
            # The zero padding of a narrow embedding is at the centre and adds nothing.
            whitened = vector @ whitenings[layer, :width]
            found.append((whitened[:, None] - means[layer]).square().sum(dim=2).amin(dim=1))
        return found

    def _on(self, device: torch.device) -> list[Tensor]:
        if self._placed is None or self._placed[0] != device:
            # MPS has no float64.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            with torch.inference_mode(False):
                self._placed = device, [torch.tensor(array, dtype=dtype, device=device) for array in self._arrays]
        return self._placed[1]
