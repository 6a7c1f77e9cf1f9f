"""The requests of `plumbline serve` and `plumbline score`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from models.images.policy import MAX_PIXELS
from service.requests.options import ArtifactOptions, Flag, MaxPixels, Memory, Whole

__all__ = ["ScoreRequest", "ServeRequest"]


@dataclass(frozen=True)
class ScoreRequest:
    """Print one JSON line per image file: class, score, p-value, flag.

    Args:
        files: JPEG, PNG or WebP files.
        artifact: the artifact.
        path: add the path of the image and the natural band.
        max_pixels: maximum width × height of an image file.
    """

    files: Annotated[tuple[Path, ...], Parameter(negative=())]
    _: KW_ONLY
    artifact: ArtifactOptions
    path: Flag = False
    max_pixels: MaxPixels = MAX_PIXELS


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
