"""State that all adaptive attacks of one evaluation share, computed when the first attack needs it."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import build_attack, generate
from attacks.adaptive.result import AdaptiveResult
from attacks.common.noise import ImageNoise
from attacks.common.norms import perturbation_norms
from attacks.decision_based.search import Decide
from models.features import Features
from service.adaptive.settings import AdaptiveSettings
from service.adaptive.system import System

__all__ = ["AttackContext", "AttackRun"]

AttackRun = Callable[[NDArray[np.int64], int], tuple[AdaptiveResult, dict[str, Tensor]]]
"""Rows of the images and a seed → result of the attack on these rows, and further flags ``(b,)`` by name."""

_LEAD = 1e-6  # distance that attacks keep from the threshold, as a share of the median distance of natural images
_RANDOM_STARTS = 100  # ART's `init_size`: uniform images that its HopSkipJump tries as a start


class AttackContext:
    """System, images and what is known of them before the adaptive attacks.

    Args:
        system: network and detector with the rule that flags an image.
        images: ``(N, 3, H, W)`` float32 in [0, 1], on the system's device.
        labels: ``(N,)`` int64, the true classes, on the same device.
        settings: budgets, seed and cache.
        progress: whether to show progress bars.

    Attributes:
        truth: the labels as an array.
        natural: features of the natural images.
        flagged, right: ``(N,)`` bool, the natural image is flagged, and is classified correctly.
        accepted: rows of the natural images that pass, the starts of attacks by decisions.
    """

    def __init__(
        self, system: System, images: Tensor, labels: Tensor, settings: AdaptiveSettings, *, progress: bool
    ) -> None:
        self.system, self.images, self.labels = system, images, labels
        self.settings, self.budgets, self.progress = settings, settings.budgets, progress
        self.truth: NDArray[np.int64] = labels.cpu().numpy()
        self.natural = system.features(images)
        margins = system.margins(self.natural)
        self.flagged = margins >= 0
        self.right = self.natural.predicted == self.truth
        self.accepted = np.flatnonzero(~self.flagged)
        self._lead = _LEAD * float(np.median(np.abs(margins)))

    # --- Carlini and Wagner's images, the starts of two attacks and training images of the surrogate

    @functools.cached_property
    def fooled(self) -> Tensor:
        """Carlini and Wagner's images against the network alone: x̃ of the thesis."""
        attack = build_attack(
            "carlini_wagner", self.budgets.carlini_wagner, where_accepted={"seed": self.settings.seed}
        )
        made = generate(
            self.system.network,
            self.images.cpu(),
            self.labels.cpu(),
            attack,
            cache=self.settings.cache,
            shard_size=self.settings.shard_size,
            device=self.system.device,
            progress=self.progress,
        )
        return torch.from_numpy(made.images).to(self.system.device)

    @functools.cached_property
    def fooled_features(self) -> Features:
        """Features of these images."""
        return self.system.features(self.fooled)

    @functools.cached_property
    def is_fooled(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: the network classifies the natural image correctly and misclassifies this one."""
        wrong: NDArray[np.bool_] = self.fooled_features.predicted != self.truth
        fooled: NDArray[np.bool_] = self.right & wrong
        return fooled

    @functools.cached_property
    def detected(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: the attack succeeded and its image is flagged."""
        return self.is_fooled & (self.system.margins(self.fooled_features) >= 0)

    # --- inputs of the attacks

    def has_random_start(self, decide: Decide, rows: NDArray[np.int64]) -> Tensor:
        """``(b,)`` bool: whether `decide` accepts at least one of 100 uniformly random images, drawn for each row.

        Args:
            decide: a function of images and their positions in `rows`.
            rows: ``(b,)``, indices of images.
        """
        noise = ImageNoise(self.settings.seed, 0)
        template = self.images[:1].expand(_RANDOM_STARTS, -1, -1, -1)
        accepted = []
        for position, row in enumerate(rows.tolist()):
            candidates = (noise.uniform(template, row) + 1) / 2
            positions = torch.full((len(candidates),), position, device=candidates.device)
            accepted.append(bool(decide(candidates, positions).any()))
        return torch.tensor(accepted, dtype=torch.bool, device=self.images.device)

    def decide(self, wanted: Callable[[Tensor, Tensor], Tensor]) -> Decide:
        """`(images, rows) → (b,) bool`: not flagged and predicted as `wanted(predicted, rows)`, by a small lead."""
        return self.system.decide(wanted, lead=self._lead)

    def hop_skip_jump_options(self, seed: int) -> dict[str, Any]:
        """Keyword arguments of `black_box` and `find_features`."""
        return {
            "steps": self.budgets.iterations,
            "max_queries": self.budgets.evaluations,
            "first_queries": min(self.budgets.first_evaluations, self.budgets.evaluations),
            "total_queries": self.budgets.queries,
            "seed": seed,
        }

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """An array as a tensor on the system's device."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.system.device)

    def distances(self, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """L∞ and L2 distances ``(N,)`` of the images from the natural ones."""
        linf, l2 = perturbation_norms(self.images, images)
        return linf.cpu().numpy(), l2.cpu().numpy()
