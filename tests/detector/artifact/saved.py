"""Saved artifacts, and changes to them, for the tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy

from detector.artifact import save_artifact
from detector.artifact.manifest import MANIFEST, sealed
from detector.pipeline import Pipeline
from models.files import sha256_of
from tests.detector.conftest import PREPROCESSING, SPEC

PROVENANCE = {"recipe": {"attack": "noise", "epsilon": 0.2}, "seeds": [0, 1], "note": "Größe ≤ 1"}


def save(folder: Path, pipeline: Pipeline, **options: Any) -> str:
    return save_artifact(folder, pipeline, spec=SPEC, preprocessing=PREPROCESSING, provenance=PROVENANCE, **options)


def reseal(folder: Path, edit: Callable[[dict[str, Any]], None] | None = None, key: bytes | None = None) -> None:
    """Make hashes and digest right again after files were changed, as a forger would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in ("digest", "signature", "protocol"):
        del manifest[name]
    for name in manifest["files"]:
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    if edit is not None:
        edit(manifest)
    (folder / MANIFEST).write_bytes(sealed(manifest, key)[0])


def change_arrays(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    arrays = safetensors_numpy.load((folder / name).read_bytes())
    arrays = {key: array.copy() for key, array in arrays.items()}
    change(arrays)
    (folder / name).write_bytes(safetensors_numpy.save(arrays))
    reseal(folder)
