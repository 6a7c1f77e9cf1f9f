"""The numbers per image of a network's paths, batch by batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.fgm import FGM
from models.errors import AttackError, NetworkError
from models.geometry.line_shape import line_shape
from models.geometry.paths import Paths, Stage, recording_paths
from models.geometry.vectors import cosines, projected, relative_lengths, squared_lengths, variations
from models.residuals import Discovery
from service.geometry.networks.settings import Disturbance

__all__ = ["NATURAL", "PathFigures"]

NATURAL = "natural"


class PathFigures:
    """Numbers of every image: add batches, then read `rows`.

    Args:
        network: in evaluation mode.
        discovery: its blocks.
        stages: its blocks of equal shape.
        disturbances: perturbations of every image.
        drawn: numbers of the images whose paths are projected.
        seed: of noise and projections.

    Attributes:
        without_gradient: numbers of the blocks at whose input the loss has no gradient.
        gradient_error: torch's message if the whole network could not be differentiated.
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
        self.gradient_error: str | None = None
        self._parts: dict[tuple[str, str], list[NDArray[Any]]] = {}

    def rows(self, subject: str, what: str) -> NDArray[Any]:
        """Numbers ``(N, …)`` of all images so far.

        Args:
            subject: "natural" or a disturbance, as text.
            what: "right" or "squared lengths"; for natural images also "ratio", "cosine" and, followed by the number of
                a stage, "line-shape ratio", "line-shape score", "shares", "paths"; for disturbances also "variations".
        """
        return np.concatenate(self._parts[subject, what])

    def add(self, numbers: NDArray[np.int64], images: Tensor, labels: Tensor) -> None:
        """Measure a batch.

        Args:
            numbers: of the images in their data set, ``(B,)``.
            images: ``(B, 3, H, W)`` in [0, 1], on the network's device.
            labels: ``(B,)``, on the same device.

        Raises:
            NetworkError: logits or residues are not finite.
            AttackError: FGM failed, for example because the logits have no gradient to the images.
        """
        natural = self._add_natural(numbers, images, labels)
        for disturbance in self._disturbances:
            disturbed = self._disturb(disturbance, numbers, images, labels)
            with torch.no_grad(), recording_paths(self._network, self._discovery) as paths:
                logits = self._network(disturbed)
                points = self._add_path(str(disturbance), paths, logits, labels)
                self._store(str(disturbance), "variations", variations(natural, points))

    def _add_natural(self, numbers: NDArray[np.int64], images: Tensor, labels: Tensor) -> list[Tensor]:
        with torch.enable_grad(), recording_paths(self._network, self._discovery) as paths:
            # A copy, since some networks change their input in place, which torch forbids for a leaf.
            logits = self._network(images.detach().requires_grad_().clone())
            residues, inputs = paths.residues, paths.inputs
            gradients = self._gradients(paths, logits, labels)
        with torch.no_grad():
            points = self._add_path(NATURAL, paths, logits, labels)
            self._store(NATURAL, "ratio", relative_lengths(residues, inputs))
            self._store(NATURAL, "cosine", cosines(residues, gradients))
            drawn = torch.from_numpy(np.isin(numbers, self._drawn))
            for number, stage in enumerate(self._stages):
                path = [inputs[stage.first], *points[stage.first : stage.last]]
                shape = line_shape(path)
                self._store(NATURAL, f"line-shape ratio {number}", shape.ratio)
                self._store(NATURAL, f"line-shape score {number}", shape.score)
                self._store(NATURAL, f"shares {number}", shape.shares)
                self._store(
                    NATURAL, f"paths {number}", projected([point[drawn] for point in path], self._seed + number)
                )
        return points

    def _gradients(self, paths: Paths, logits: Tensor, labels: Tensor) -> list[Tensor]:
        """∇L(x_m) of each image and block; zero if there is none, with the block in `without_gradient`."""
        loss = F.cross_entropy(
            logits, labels, reduction="sum"
        )  # the mean would divide each image's gradient by the batch size
        inputs = paths.inputs
        found: Sequence[Tensor | None]
        try:
            found = paths.gradients(loss)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as exc:  # all other figures need no gradient
            self.gradient_error = str(exc).partition(" Hint:")[0]
            found = [None] * len(inputs)
        self.without_gradient.update(number for number, gradient in enumerate(found) if gradient is None)
        return [
            torch.zeros_like(point) if gradient is None else gradient
            for point, gradient in zip(inputs, found, strict=True)
        ]

    def _add_path(self, subject: str, paths: Paths, logits: Tensor, labels: Tensor) -> list[Tensor]:
        """Add the numbers that natural and disturbed images share; the sums x_{m+1} of every block."""
        residues = paths.residues
        lengths = squared_lengths(residues)
        if not (torch.isfinite(logits).all() and torch.isfinite(lengths).all()):
            raise NetworkError(f"logits or residues are not finite on {subject} images; check the network's weights")
        self._store(subject, "right", logits.argmax(dim=1) == labels)
        self._store(subject, "squared lengths", lengths)
        return [point + residue for point, residue in zip(paths.inputs, residues, strict=True)]

    def _disturb(self, disturbance: Disturbance, numbers: NDArray[np.int64], images: Tensor, labels: Tensor) -> Tensor:
        if disturbance.kind == "fgm":
            try:
                return FGM(epsilon=disturbance.size, batch_size=len(images))(self._network, images, labels)
            except AttackError as exc:
                raise AttackError(f"{exc}; give --epsilon none to leave FGM out") from exc
        # Seeded per image: noise does not depend on the batch, and has the same direction at every size.
        draws = [
            torch.randn(images.shape[1:], generator=torch.Generator().manual_seed((self._seed << 31) + int(number)))
            for number in numbers
        ]
        return (images + disturbance.size * torch.stack(draws).to(images.device)).clamp(0.0, 1.0)

    def _store(self, subject: str, what: str, values: Tensor) -> None:
        self._parts.setdefault((subject, what), []).append(values.detach().cpu().numpy())
