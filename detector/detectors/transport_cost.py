"""Deviation of the transport cost from natural images of the predicted class; needs no attacked images."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from detector.base.detector import Detector
from detector.common.arrays import require_array, require_keys
from detector.common.result import ComponentInfo, ScoreResult
from detector.features.statistics import by_block
from models.errors import InputError
from models.features import Features

__all__ = ["TransportCost"]

_THESIS_QUANTILE = 0.02


class TransportCost(Detector):
    """Score: distance of log transport cost from the median of the predicted class, in half-widths of the natural band.

    The score is 1 at the lower and at the upper natural quantile of the predicted class, and grows without bound
    outside. It is two-sided: an attack can shorten or lengthen the path. Components: "too_low" and "too_high", of which
    the score is the larger.

    The transport cost is Σ_m ‖r_m‖², the kinetic energy of the path. The statistics are ‖r_m‖²/d_m, and the detector
    does not know d_m. Without `block_sizes`, the sum is of these means, which gives every block the same weight; in the
    true cost, the wide early blocks have most of the weight. If all residues of a network have one size, both differ by
    a constant factor and the score is the same. For the true cost, give the products of the branches' shapes.

    Args:
        block_sizes: d_m of every block, in order; None sums mean squares.
        columns_per_block: 2 plus the number of further directions of the measure.
        quantile: the natural share below the band, and the share above it, per class; in (0, 0.5).
        minimum_per_class: a predicted class with fewer natural images than this uses the quantiles of all natural
            images.
        rule: "per_class", or "thesis": the quantiles 0.02 and 0.98 of the natural images of all classes (Figure 21),
            with which `quantile` and `minimum_per_class` have no effect. An image outside them has a score above 1.
    """

    def __init__(
        self,
        *,
        block_sizes: Sequence[int] | None = None,
        columns_per_block: int = 2,
        quantile: float = 0.05,
        minimum_per_class: int = 20,
        rule: Literal["per_class", "thesis"] = "per_class",
    ) -> None:
        self.block_sizes = block_sizes
        self.columns_per_block = columns_per_block
        self.quantile = quantile
        self.minimum_per_class = minimum_per_class
        self.rule = rule

    def _unused_options(self) -> tuple[str, ...]:
        return ("quantile", "minimum_per_class") if self.rule == "thesis" else ()

    def _check_parameters(self) -> None:
        sizes = self.block_sizes
        if sizes is not None and (
            not isinstance(sizes, list | tuple) or not sizes or not all(_is_count(size) for size in sizes)
        ):
            raise InputError(f"expected a list of positive whole numbers as block_sizes, got {sizes!r:.200}")
        if not (isinstance(self.quantile, float) and 0 < self.quantile < 0.5):
            raise InputError(f"expected a quantile between 0 and 0.5, such as 0.05, got {self.quantile!r}")
        if self.rule not in ("per_class", "thesis"):
            raise InputError(f"expected the rule per_class or thesis, got {self.rule!r:.200}")
        for name, value in (
            ("columns_per_block", self.columns_per_block),
            ("minimum_per_class", self.minimum_per_class),
        ):
            if not _is_count(value):
                raise InputError(f"expected a positive whole number as {name}, got {value!r:.200}")

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        costs, predicted, classes = self._log_costs(natural), natural.predicted, natural.logits.shape[1]
        background = self._band(costs)
        own = [self.rule == "per_class" and np.sum(predicted == k) >= self.minimum_per_class for k in range(classes)]
        self.bands_ = np.stack([self._band(costs[predicted == k]) if has else background for k, has in enumerate(own)])

    def _band(self, costs: np.ndarray) -> np.ndarray:
        """(low, median, high) of some log costs."""
        share = _THESIS_QUANTILE if self.rule == "thesis" else self.quantile
        band: np.ndarray = np.quantile(costs, (share, 0.5, 1 - share))
        return band

    def _log_costs(self, features: Features) -> np.ndarray:
        """log Σ_m w_m ‖r_m‖²/d_m float64 ``(N,)``, with w_m = d_m where that is known."""
        squares = by_block(features.statistics, self.columns_per_block)[:, :, 0].astype(np.float64)
        if self.block_sizes is not None:
            if len(self.block_sizes) != squares.shape[1]:
                raise InputError(
                    f"expected one size per block, {squares.shape[1]}, got {len(self.block_sizes)} block_sizes"
                )
            squares = squares * np.asarray(self.block_sizes, dtype=np.float64)
        cost = squares.sum(axis=1)
        logs: np.ndarray = np.log(np.maximum(cost, np.finfo(np.float64).tiny))  # a path of zeros has cost 0
        return logs

    def component_info(self) -> Mapping[str, ComponentInfo]:
        """Title and description of both sides of the band."""
        return {
            "too_low": ComponentInfo("Short path", "the path is shorter than natural paths of the predicted class"),
            "too_high": ComponentInfo("Long path", "the path is longer than natural paths of the predicted class"),
        }

    def _score(self, features: Features) -> ScoreResult:
        costs = self._log_costs(features)
        low, median, high = self.bands_[features.predicted].T
        # Avoid division by zero for a class whose natural costs are all equal.
        too_low = (median - costs) / np.maximum(median - low, 1e-12)
        too_high = (costs - median) / np.maximum(high - median, 1e-12)
        return ScoreResult(np.maximum(too_low, too_high), {"too_low": too_low, "too_high": too_high})

    def _state(self) -> dict[str, np.ndarray]:
        return {"bands": self.bands_}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        require_keys(state, {"bands"})
        bands = require_array(state, "bands", np.float64, (self.num_classes_, 3))
        if not (np.diff(bands, axis=1) >= 0).all():
            raise InputError("expected each class's quantiles in ascending order, got others; the state is damaged")
        blocks = by_block(np.empty((1, self.num_columns_)), self.columns_per_block).shape[1]
        if self.block_sizes is not None and len(self.block_sizes) != blocks:
            raise InputError(f"expected {blocks} block_sizes, one per block, got {len(self.block_sizes)}")
        self.bands_ = bands


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**63
