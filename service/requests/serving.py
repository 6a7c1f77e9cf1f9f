"""The requests of `plumbline serve` and `plumbline score`."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from models.errors import InputError
from service.requests.options import ArtifactOptions, Flag, LoadingOptions, MaxPixels, Memory, RunnerName, Whole

__all__ = ["ScoreRequest", "ServeRequest"]


@dataclass(frozen=True)
class ScoreRequest:
    """Print one JSON line per image file, or write a row per image of a data set: class, score, p-value, flag.

    Args:
        files: JPEG, PNG or WebP files.
        artifact: the artifact.
        path: add the path of the image and the natural band.
        dataset: data set to score, of `plumbline list datasets`, such as images:FOLDER or parquet:FILE.
        parquet: Parquet file to write, for `--dataset`.
        images: how images are loaded.
        runner: local: processes of this machine; ray: an existing Ray cluster.
        workers: number of processes [default: 1; ray: one per GPU, or CPU, of the cluster].

    Raises:
        InputError: neither files nor a data set, or both, or an option that has no effect.
    """

    files: Annotated[tuple[Path, ...], Parameter(negative=())] = ()
    _: KW_ONLY
    artifact: ArtifactOptions
    path: Flag = False
    dataset: str | None = None
    parquet: Annotated[Path | None, Parameter(name="--out", metavar="FILE")] = None
    images: LoadingOptions = field(default_factory=LoadingOptions)
    runner: RunnerName = "local"
    workers: Whole | None = None

    def __post_init__(self) -> None:
        if bool(self.files) == (self.dataset is not None):
            raise InputError("expected image files or --dataset, got both or none; give one of them")
        if (self.dataset is None) != (self.parquet is None):
            raise InputError("--dataset needs --out FILE.parquet, and --out needs --dataset; give both or neither")
        if self.dataset is not None and self.path:
            raise InputError("--path has no effect with --dataset; leave it out")
        if self.dataset is None and (self.runner, self.workers) != ("local", None):
            raise InputError("--runner and --workers have no effect without --dataset; leave them out")


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """Serve artifacts over HTTP.

    Args:
        artifact: [NAME=]FOLDER that `plumbline fit` wrote. Repeat it for several models; the default name is the
            folder's.
        network: [NAME=]PATH.py:CALLABLE of a model whose network comes from a user's file.
        verify_key: refuse artifacts that are not signed with the secret in this file.
        host: address to bind [default: 127.0.0.1].
        port: port to bind [default: 8000].
        admin_host: address of metrics and status [default: 127.0.0.1].
        admin_port: port of metrics and status [default: 8001].
        keys: file of API keys, one per line; required beyond loopback.
        admin_keys: file of API keys for metrics and status.
        insecure: serve beyond loopback without keys.
        examples: folder of images that the web page offers.
        state: folder that stores the calibration watch between restarts.
        store: SQLite file of the served verdicts, for reviews.
        keep_flagged: folder that keeps flagged images for reviewers.
        sample_for_review: share of all images in the random sample for review, such as 0.01.
        review_keys: file of API keys for reviewers on the admin port [default: the admin keys].
        sessions_bytes: memory in bytes for the recognition of query attacks; 0: off [default: 268435456].
        max_pixels: maximum width × height of an image [default: 65 million].
        device: cpu or cuda.
        memory: memory that the models may use together, such as 3GB [default: a share of what is free].
    """

    artifact: Annotated[tuple[str, ...], Parameter(negative=())]
    network: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    verify_key: Path | None = None
    host: str | None = None
    port: Whole | None = None
    admin_host: str | None = None
    admin_port: Whole | None = None
    keys: Path | None = None
    admin_keys: Path | None = None
    insecure: Annotated[bool | None, Parameter(negative=())] = None
    examples: Path | None = None
    state: Path | None = None
    store: Path | None = None
    keep_flagged: Path | None = None
    sample_for_review: float | None = None
    review_keys: Path | None = None
    sessions_bytes: Whole | None = None
    max_pixels: MaxPixels | None = None
    device: str = "cpu"
    memory: Memory | None = None
