"""`plumbline score`: a JSON line per image file."""

import json
from argparse import Namespace
from pathlib import Path

import torch

from detector.artifact import Artifact, load_artifact
from models.errors import ImageError, InputError
from models.images.decoding import decode_image

__all__ = ["run"]


def run(options: Namespace) -> None:
    """Print a line per file, in their order; one that cannot be read gets a line with `error`, and the status is 2."""
    artifact = load_artifact(
        options.artifact, network_file=options.network, device=options.device, verify_key=options.verify_key
    )
    failed = 0
    for name in options.files:
        try:
            line = _score(artifact, Path(name), path=options.path)
        except ImageError as exc:
            failed += 1
            line = {"error": str(exc)}
        print(json.dumps({"file": name, **line}), flush=True)
    if failed:
        raise InputError(f"expected readable images, {failed} of {len(options.files)} had an error; see their lines")


def _score(artifact: Artifact, file: Path, *, path: bool) -> dict[str, object]:
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise ImageError(f"expected a readable file, got {exc.strerror or exc}") from exc
    pixels = decode_image(content, artifact.preprocessing)
    images = torch.from_numpy(pixels).float().div_(255)[None]
    (verdict,) = artifact.pipeline.score(images, path=path)
    return verdict.to_json()
