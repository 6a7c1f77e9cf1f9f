"""`plumbline score --dataset`: an artifact and a data set → a Parquet file with a row per image."""

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.artifact import Artifact, load_artifact
from detector.pipeline import Verdict
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.extras import import_optional
from models.files import replacing
from models.progress import progress_bar
from models.runners import build_runner
from service.inputs import label, load_for_artifact
from service.provenance import provenance
from service.requests.options import ArtifactOptions
from service.requests.serving import ScoreRequest

__all__ = ["ScoreOutcome", "score_dataset"]

_SHARD = 256  # images in memory of a process
_ROW_GROUP = 4096  # rows
_BATCH = 64
_SCHEMA = 2  # in the file's metadata; increase it when a column changes its name or meaning


@dataclass(frozen=True)
class ScoreOutcome:
    """Number of images in the file, and how many of them are flagged."""

    images: int
    flagged: int


@dataclass(frozen=True)
class _Score:
    """Scores the shards of a data set, for a runner: (first row, images uint8) → (first row, verdicts)."""

    artifact: ArtifactOptions
    digest: str

    def __call__(self, shard: tuple[int, NDArray[np.uint8]]) -> tuple[int, list[Verdict]]:
        first, images = shard
        artifact = _loaded(self.artifact)
        if artifact.digest != self.digest:
            raise InputError(
                f"{self.artifact.artifact} is another artifact on the machine of a worker; copy the same folder to all "
                "machines"
            )
        return first, artifact.pipeline.score_in_batches(images, _BATCH)


@functools.lru_cache(maxsize=1)
def _loaded(options: ArtifactOptions) -> Artifact:
    return load_artifact(
        options.artifact, network_file=options.network, device=options.device, verify_key=options.verify_key
    )


def score_dataset(request: ScoreRequest, *, progress: bool = True) -> ScoreOutcome:
    """Score the data set into the file `request.parquet`, which is written completely or not at all.

    Raises:
        InputError: images that the artifact does not take, or a file that cannot be written.
        ArtifactError: an artifact that is refused.
        RunnerError: a process died.
    """
    assert request.dataset is not None
    assert request.parquet is not None
    options = _absolute(request.artifact)
    runner = build_runner(request.runner, workers=request.workers, device=options.device)
    # The machine of the command may have no GPU, unlike those of a Ray cluster.
    artifact = _loaded(replace(options, device="cpu") if request.runner == "ray" else options)
    data = load_for_artifact(request.dataset, request.images, artifact).limited(request.images.limit)
    metadata = {
        "schema": _SCHEMA, "artifact": artifact.digest, "dataset": label(data.name),
        "dataset_sha256": data.fingerprint(), "images": len(data), "skipped": dict(data.skipped),
        "fpr": artifact.pipeline.calibration.fpr, **provenance(),
    }  # fmt: skip
    shards = ((first, np.asarray(data.images[first : first + _SHARD])) for first in range(0, len(data), _SHARD))
    results = runner.run(_Score(options, artifact.digest), shards)
    with progress_bar(total=len(data), what="score", unit="image", show=progress) as bar:
        return _write(request.parquet, _in_order(results, bar), data, metadata)


def _absolute(options: ArtifactOptions) -> ArtifactOptions:
    """The options for a process in another working folder, as the actors of a Ray cluster are."""
    key, network = options.verify_key, options.network
    return replace(
        options, artifact=options.artifact.absolute(), verify_key=None if key is None else key.absolute(),
        network=None if network is None else str(Path(network).absolute()),
    )  # fmt: skip


def _in_order(results: Iterable[tuple[int, list[Verdict]]], bar: Any) -> Iterator[Verdict]:
    """The verdicts by row; those of shards that finish early wait in memory."""
    waiting, row = dict[int, list[Verdict]](), 0
    for first, verdicts in results:
        waiting[first] = verdicts
        bar.update(len(verdicts))
        while row in waiting:
            ready = waiting.pop(row)
            row += len(ready)
            yield from ready


def _write(path: Path, verdicts: Iterator[Verdict], data: ImageDataset, metadata: dict[str, Any]) -> ScoreOutcome:
    """Write the rows in groups, so that few are in memory."""
    pyarrow, parquet = import_optional("pyarrow"), import_optional("pyarrow.parquet")
    positions = np.arange(len(data)) if data.positions is None else data.positions
    writer, rows, count, flagged = None, list[dict[str, Any]](), 0, 0
    with replacing(path) as partial:
        try:
            for verdict, index, true_label in zip(verdicts, positions.tolist(), data.labels.tolist(), strict=True):
                rows.append({"index": index, "true_class": data.classes[true_label], **_row(verdict)})
                count, flagged = count + 1, flagged + verdict.flagged
                if len(rows) < _ROW_GROUP and count < len(data):
                    continue
                if writer is None:
                    schema = _schema(pyarrow, verdict).with_metadata({"plumbline": json.dumps(metadata)})
                    writer = parquet.ParquetWriter(partial, schema)
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=writer.schema))
                rows.clear()
        finally:
            if writer is not None:
                writer.close()
    return ScoreOutcome(count, flagged)


def _row(verdict: Verdict) -> dict[str, Any]:
    names = ("label", "class_name", "probability", "score", "p_value", "flagged", "main_component", "main_part")
    return {
        **{name: getattr(verdict, name) for name in names},
        **{f"component.{name}": value for name, value in verdict.components.items()},
        **{f"p_value.{name}": value for name, value in verdict.part_p_values.items()},
    }


def _schema(pyarrow: Any, verdict: Verdict) -> Any:
    number, text = pyarrow.float64(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    fixed = {
        "index": pyarrow.int64(), "true_class": text, "label": pyarrow.int32(), "class_name": text,
        "probability": number, "score": number, "p_value": number, "flagged": pyarrow.bool_(),
        "main_component": text, "main_part": text,
    }  # fmt: skip
    return pyarrow.schema([(name, fixed.get(name, number)) for name in ("index", "true_class", *_row(verdict))])
