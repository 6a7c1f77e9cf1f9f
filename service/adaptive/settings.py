"""Settings of an evaluation with adaptive attacks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detector.calibration import Calibration
from models.errors import InputError
from models.options import check_count
from service.adaptive.budgets import Budgets
from service.adaptive.system import Decision

__all__ = ["ADAPTIVE_ATTACKS", "AdaptiveSettings"]

# The order enters the seeds of the attacks.
ADAPTIVE_ATTACKS = (
    "black_box",
    "feature_matching",
    "selective",
    "orthogonal",
    "whole_system",
    "joint",
    "joint_carlini_wagner",
    "network",
)


@dataclass(frozen=True, kw_only=True)
class AdaptiveSettings:
    """Which adaptive attacks run, with which budgets, against which decision of the detector.

    Args:
        attacks: names out of `ADAPTIVE_ATTACKS`, in any order; by default all but the comparison `network`.
        budgets: by default the thesis's.
        decision, ensemble, calibration: how an image is flagged; see `System`.
        cache: folder for finished shards; None disables the cache.
        batch_size: images in one forward pass; on CPUs larger batches are slower.
        shard_size: images per shard; an interruption costs at most one shard.
        seed: of everything random.

    Raises:
        InputError: an unknown attack, or a number out of range.
    """

    attacks: Sequence[str] = tuple(name for name in ADAPTIVE_ATTACKS if name != "network")
    budgets: Budgets = field(default_factory=Budgets)
    decision: Decision = "calibrated"
    ensemble: bool = True
    calibration: Calibration | None = None
    cache: Path | None = None
    batch_size: int = 128
    shard_size: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [name for name in self.attacks if name not in ADAPTIVE_ATTACKS]:
            raise InputError(
                f"expected adaptive attacks out of {', '.join(ADAPTIVE_ATTACKS)}, got {', '.join(unknown)}"
            )
        check_count("shard_size", self.shard_size)
        check_count("seed", self.seed, least=0, most=2**63 - 1)
