"""`plumbline attack`: a network and natural images → a folder of attacked images, shard by shard."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.generation.folder import attack_into
from models.datasets.base import EmptyPartError, ImageDataset, Part, load_dataset
from models.loading import load_network
from models.options import check_count
from models.runners import build_runner
from service.formatting import percent
from service.inputs import attack_of, dataset_request, distinct_images, label, refuse_unusable, say, with_labels_of
from service.provenance import provenance
from service.requests.attack import AttackRequest

__all__ = ["AttackOutcome", "attack"]

_MAX_SHARD_SIZE = 4096  # images; a lost process loses its shard


@dataclass(frozen=True)
class AttackOutcome:
    """Counts of one run of the job: of its part, or of all shards.

    Args:
        out: the folder.
        shards, kept: number of shards, and of those that an earlier run wrote.
        images, natural_correct, successes: number of images, of those classified correctly before the attack, and of
            these, those misclassified after it.
        quarantined: number of images on which the attack failed.
    """

    out: Path
    shards: int
    kept: int
    images: int
    natural_correct: int
    successes: int
    quarantined: int

    def summary(self) -> str:
        """The counts as text for the terminal."""
        rate = percent(self.successes / self.natural_correct) if self.natural_correct else "unknown"
        lines = [
            f"{self.images} images in {self.shards} shards, {self.kept} of them from earlier runs; success rate {rate}",
            f"attacked images in {self.out}",
        ]
        if self.quarantined:
            lines.insert(1, f"the attack failed on {self.quarantined} images; reasons: `quarantined` in the JSON files")
        return "\n".join(lines)


def attack(request: AttackRequest, *, progress: bool = True) -> AttackOutcome:
    """Attack as requested.

    Raises:
        InputError: images or options that cannot be used.
        AttackError, NetworkError, RunnerError: see attacks and models.
    """
    network = request.network
    check_count("--shard-size", request.shard_size, most=_MAX_SHARD_SIZE)
    made = attack_of(request.attack, epsilon=request.epsilon, seed=request.seed)
    runner = build_runner(request.runner, workers=request.workers, device=request.device)
    try:
        data, positions = _images(request)
    except EmptyPartError as exc:
        say(str(exc))
        return AttackOutcome(request.out, 0, 0, 0, 0, 0, 0)
    loaded = load_network(
        network.network, mean=network.mean, std=network.std, num_classes=len(data.classes),
        image_shape=data.image_shape,
    )  # fmt: skip
    data = with_labels_of(data, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    refuse_unusable(loaded.network, data, "cpu")
    records = attack_into(
        request.out.absolute(), loaded.network, made, data.images, data.labels, runner=runner,
        shard_size=request.shard_size, positions=positions, metadata={"provenance": provenance()}, progress=progress,
    )  # fmt: skip
    return AttackOutcome(
        out=request.out, shards=len(records), kept=_total(records, "kept"), images=_total(records, "n"),
        natural_correct=_total(records, "natural_correct"), successes=_total(records, "successes"),
        quarantined=sum(len(record["quarantined"]) for record in records),
    )  # fmt: skip


def _images(request: AttackRequest) -> tuple[ImageDataset, NDArray[np.int64] | None]:
    """The images of the data set or of a part, and their positions in the source, which determine their shards.

    A sample requires all images in memory, since copies are left out first, as in other commands. Its shards do not
    depend on the positions in the source; they are None.
    """
    images = request.images
    part = None if request.shard is None else Part(*request.shard, request.shard_size)
    wanted = dataset_request(images, request.network.network)
    if images.limit is None:
        data = load_dataset(images.dataset, replace(wanted, part=part))
        return data, data.positions
    data = distinct_images(load_dataset(images.dataset, wanted)).limited(images.limit, request.seed)
    return data if part is None else data.take(np.array(part.rows(len(data)))), None


def _total(records: list[dict[str, Any]], name: str) -> int:
    return sum(int(record[name]) for record in records)
