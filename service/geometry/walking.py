"""The pass over all images of which only numbers per image are kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.fgm import FGM
from models.errors import AttackError, NetworkError
from models.geometry.paths import Paths, Stage, recording_paths
from models.geometry.transport import cosines, line_shape, projected, relative_lengths, squared_lengths, variations
from models.residuals import Discovery
from service.geometry.settings import Disturbance

__all__ = ["NATURAL", "Walk"]

NATURAL = "natural"


class Walk:
    """Measures batch after batch; `rows` then gives the numbers of all images.

    Args:
        network: in evaluation mode.
        discovery, stages: its blocks and their stages.
        disturbances: what is done to the images besides.
        drawn: numbers of the images whose paths are projected.
        seed: of noise and projections.

    Attributes:
        without_gradient: numbers of the blocks at whose input the loss could not be differentiated.
        why_not_differentiated: what torch said where it could not go back through the network at all.
    """

    def __init__(
        self,
        network: nn.Module,
        discovery: Discovery,
        stages: Sequence[Stage],
        *,
        disturbances: Sequence[Disturbance],
        drawn: NDArray[np.int64],
        seed: int,
    ) -> None:
        self._network = network
        self._discovery = discovery
        self._stages = stages
        self._disturbances = disturbances
        self._drawn = drawn
        self._seed = seed
        self.without_gradient: set[int] = set()
        self.why_not_differentiated: str | None = None
        self._parts: dict[tuple[str, str], list[NDArray[Any]]] = {}

    def rows(self, subject: str, what: str) -> NDArray[Any]:
        """Numbers ``(N, …)`` of all images so far.

        Args:
            subject: "natural" or a disturbance, as text.
            what: "right", "squared lengths"; for natural images also "ratio", "cosine" and, with the stage's number
                behind it, "line-shape ratio", "line-shape score", "shares", "paths"; for others also "variations".
        """
        return np.concatenate(self._parts[subject, what])

    def take(self, numbers: NDArray[np.int64], images: Tensor, labels: Tensor) -> None:
        """Measures a batch.

        Args:
            numbers: of the images in their data set, ``(B,)``.
            images: ``(B, 3, H, W)`` in [0, 1], on the network's device.
            labels: ``(B,)``, on the same device.

        Raises:
            NetworkError: logits or residues that are not finite.
            AttackError: FGM failed, as where the logits have no gradient to the images.
        """
        natural = self._take_natural(numbers, images, labels)
        for disturbance in self._disturbances:
            disturbed = self._disturb(disturbance, numbers, images, labels)
            with torch.no_grad(), recording_paths(self._network, self._discovery) as paths:
                logits = self._network(disturbed)
                points = self._take_any(str(disturbance), paths, logits, labels)
                self._add(str(disturbance), "variations", variations(natural, points))

    def _take_natural(self, numbers: NDArray[np.int64], images: Tensor, labels: Tensor) -> list[Tensor]:
        with torch.enable_grad(), recording_paths(self._network, self._discovery) as paths:
            # Behind a copy, for a network that changes its input in place: torch forbids that of a leaf.
            logits = self._network(images.detach().requires_grad_().clone())
            residues, inputs = paths.residues, paths.inputs
            gradients = self._gradients(paths, logits, labels)
        with torch.no_grad():
            points = self._take_any(NATURAL, paths, logits, labels)
            self._add(NATURAL, "ratio", relative_lengths(residues, inputs))
            self._add(NATURAL, "cosine", cosines(residues, gradients))
            drawn = torch.from_numpy(np.isin(numbers, self._drawn))
            for number, stage in enumerate(self._stages):
                path = [inputs[stage.first], *points[stage.first : stage.last]]
                shape = line_shape(path)
                self._add(NATURAL, f"line-shape ratio {number}", shape.ratio)
                self._add(NATURAL, f"line-shape score {number}", shape.score)
                self._add(NATURAL, f"shares {number}", shape.shares)
                self._add(NATURAL, f"paths {number}", projected([point[drawn] for point in path], self._seed + number))
        return points

    def _gradients(self, paths: Paths, logits: Tensor, labels: Tensor) -> list[Tensor]:
        """∇L(x_m) of each image and block; zero where there is none, which is noted."""
        loss = F.cross_entropy(logits, labels, reduction="sum")  # so that no image's gradient is divided by the batch
        inputs = paths.inputs
        found: Sequence[Tensor | None]
        try:
            found = paths.gradients(loss)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as exc:  # the other figures need no gradient
            self.why_not_differentiated = str(exc).partition(" Hint:")[0]
            found = [None] * len(inputs)
        self.without_gradient.update(number for number, gradient in enumerate(found) if gradient is None)
        return [
            torch.zeros_like(point) if gradient is None else gradient
            for point, gradient in zip(inputs, found, strict=True)
        ]

    def _take_any(self, subject: str, paths: Paths, logits: Tensor, labels: Tensor) -> list[Tensor]:
        """Measures what is measured of all images, and gives the sums x_{m+1} of every block."""
        residues = paths.residues
        lengths = squared_lengths(residues)
        if not (torch.isfinite(logits).all() and torch.isfinite(lengths).all()):
            raise NetworkError(
                f"expected finite logits and residues, got others on {subject} images; check the network's weights"
            )
        self._add(subject, "right", logits.argmax(dim=1) == labels)
        self._add(subject, "squared lengths", lengths)
        return [point + residue for point, residue in zip(paths.inputs, residues, strict=True)]

    def _disturb(self, disturbance: Disturbance, numbers: NDArray[np.int64], images: Tensor, labels: Tensor) -> Tensor:
        if disturbance.kind == "fgm":
            try:
                return FGM(epsilon=disturbance.size, batch_size=len(images))(self._network, images, labels)
            except AttackError as exc:
                raise AttackError(f"{exc}; --epsilon none leaves FGM out") from exc
        # An image's noise is its own, whatever batch it is in; and the same at every size, as its attack is.
        draws = [
            torch.randn(images.shape[1:], generator=torch.Generator().manual_seed((self._seed << 31) + int(number)))
            for number in numbers
        ]
        return (images + disturbance.size * torch.stack(draws).to(images.device)).clamp(0.0, 1.0)

    def _add(self, subject: str, what: str, values: Tensor) -> None:
        self._parts.setdefault((subject, what), []).append(values.detach().cpu().numpy())
