"""An attack that a runner executes shard by shard, into a folder, when the attacked images are read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attacks.common.base import Attack
from attacks.generation.attacked_set import AttackedSet
from attacks.generation.folder import SHARD_SIZE, AttackedFolder, attack_into
from models.images.stored import StoredImages
from models.runners import Runner

__all__ = ["ShardedAttack"]


@dataclass(frozen=True, eq=False)
class ShardedAttack:
    """Attack with `attack_into`, then read with `AttackedFolder`; intact shards in the folder are kept.

    Args:
        folder: of the shards, created if missing; it must be the same folder for every process of the runner.
        network: takes images in [0, 1], returns logits.
        attack: with its seed.
        runner: where the shards are attacked.
        shard_size: images per shard.
        metadata: JSON values that are added to the record of every new shard.
    """

    folder: Path
    network: nn.Module
    attack: Attack
    runner: Runner
    shard_size: int = SHARD_SIZE
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> dict[str, Any]:
        """The settings other than the attack that determine the attacked images, as JSON values."""
        return {"shard_size": self.shard_size}

    def read(
        self, images: NDArray[np.uint8] | StoredImages, labels: NDArray[np.int64], *, progress: bool = True
    ) -> AttackedSet:
        """The attacked images of these natural images; an image on which the attack fails is unchanged.

        Args:
            images: ``(N, 3, H, W)`` uint8.
            labels: ``(N,)`` int64, the true classes.
            progress: whether to show progress bars.

        Raises:
            AttackError, InputError, RunnerError: see `attack_into`.
        """
        records = attack_into(
            self.folder, self.network, self.attack, images, labels, runner=self.runner,
            shard_size=self.shard_size, metadata=self.metadata, progress=progress,
        )  # fmt: skip
        shards = {str(record["shard"]) for record in records}
        return AttackedFolder(self.folder, self.network, self.attack, shards=shards).read(
            images, labels, progress=progress
        )
