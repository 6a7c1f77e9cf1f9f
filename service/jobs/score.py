"""`plumbline score`: one JSON line per image file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from detector.artifact import Artifact, load_artifact
from models.errors import ImageError
from models.files import readable
from models.images.decoding import Limits, decode_image
from service.requests.serving import ScoreRequest

__all__ = ["score_files"]


def score_files(request: ScoreRequest) -> Iterator[dict[str, Any]]:
    """A dictionary of JSON values per file, in order: the verdict, or `error` for a file that cannot be read.

    Raises:
        ArtifactError: an artifact that is refused.
    """
    options = request.artifact
    artifact = load_artifact(
        options.artifact, network_file=options.network, device=options.device, verify_key=options.verify_key
    )
    limits = Limits(max_pixels=request.images.max_pixels)
    for file in request.files:
        try:
            values = _score(artifact, file, limits, path=request.path)
        except ImageError as exc:
            values = {"error": readable(str(exc))}
        yield {"file": readable(str(file)), **values}


def _score(artifact: Artifact, file: Path, limits: Limits, *, path: bool) -> dict[str, object]:
    try:
        limits.check_bytes(file.stat().st_size)
        content = file.read_bytes()
    except OSError as exc:
        raise ImageError(f"the file cannot be read: {exc.strerror or exc}") from exc
    pixels = decode_image(content, artifact.preprocessing, limits)
    images = torch.from_numpy(pixels).float().div_(255)[None]
    (verdict,) = artifact.pipeline.score(images, path=path)
    return verdict.to_json()
