"""Write a fitted pipeline as an artifact."""

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
from torch import nn

from detector.artifact.engine import engine_entry
from detector.artifact.manifest import COMPANION, FILES, GRAPH, MANIFEST, read_key, require_unicode, sealed
from detector.artifact.parts import (
    branch_entries,
    probe_arrays,
    probe_features,
    require_matching_companion,
    require_matching_parts,
)
from detector.common.arrays import flatten
from detector.pipeline import Pipeline
from models.errors import InputError
from models.files import write_folder
from models.images.policy import POLICY
from models.images.preprocessing import Preprocessing
from models.loading import NetworkSpec

__all__ = ["check_destination", "save_artifact"]


def save_artifact(
    folder: Path | str,
    pipeline: Pipeline,
    *,
    spec: NetworkSpec,
    preprocessing: Preprocessing,
    provenance: Mapping[str, Any],
    sign_key: Path | str | None = None,
    companion_spec: NetworkSpec | None = None,
) -> str:
    """The digest of the artifact written to `folder`.

    The artifact is written to a temporary folder and then renamed to `folder`, so that `folder` is never incomplete. An
    existing artifact is replaced by two renames; between them, `folder` does not exist. See `write_folder`.

    Args:
        provenance: recipe, data set, seeds and versions, as JSON values.
        sign_key: a file of at least 32 bytes; the manifest is then signed with it (HMAC-SHA256).
        companion_spec: how the companion is built, for a pipeline with one.

    Raises:
        InputError: `folder` exists and is not an artifact or cannot be written, the parts do not match, the provenance
            is not JSON, a class name is not Unicode, or the key file cannot be used.
    """
    folder = Path(folder)
    key = check_destination(folder, sign_key)
    NetworkSpec.from_json(spec.to_json())  # as `load_artifact` does
    if (companion_spec is None) != (pipeline.companion is None):
        raise InputError("expected a companion_spec for a pipeline with a companion, and for no other")
    if pipeline.image_shape != spec.image_shape:
        raise InputError(f"expected images of the network's shape {spec.image_shape}, got {pipeline.image_shape}")
    require_unicode(pipeline.classes)
    require_matching_parts(pipeline.classes, spec, preprocessing)
    contents = {
        "network.safetensors": _weights(pipeline.network),
        "detector.safetensors": safetensors_numpy.save(
            {name: np.ascontiguousarray(array) for name, array in pipeline.detector.state().items()}
        ),
        "calibration.safetensors": safetensors_numpy.save(_calibration_arrays(pipeline)),
    }
    engine = pipeline.engine
    if engine is not None and engine.graph is not None:
        contents[GRAPH] = engine.graph
    companion: dict[str, Any] = {}
    if companion_spec is not None and pipeline.companion is not None:
        require_matching_companion(spec, NetworkSpec.from_json(companion_spec.to_json()))
        companion = {"companion": companion_spec.to_json()}
        contents[COMPANION] = _weights(pipeline.companion)
    fields = {
        "versions": _versions(),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "network": spec.to_json(),
        "decoding": POLICY,
        "preprocessing": preprocessing.to_json(),
        "classes": list(pipeline.classes),
        "detector": {"name": pipeline.detector.name, "parameters": pipeline.detector.parameters()},
        "measure": pipeline.statistics_spec.to_json(),
        "branches": branch_entries(pipeline.discovery),
        "calibration": {
            "count": len(pipeline.calibration.scores),
            "fpr": pipeline.calibration.fpr,
            "threshold": pipeline.calibration.threshold,
        },
        "provenance": dict(provenance),
        **({} if pipeline.discovery.blocks is None else {"blocks": pipeline.discovery.blocks}),
        **engine_entry(engine),
        **companion,
    }
    contents[MANIFEST], digest = sealed(fields, key)
    write_folder(folder, contents)
    return digest


def check_destination(folder: Path | str, sign_key: Path | str | None = None) -> bytes | None:
    """Check that an artifact can be written to `folder`, for use before long work; the signing key, if any.

    Raises:
        InputError: `folder` exists and is not an artifact, or the key file cannot be used.
    """
    _require_replaceable(Path(folder))
    return None if sign_key is None else read_key(Path(sign_key))


def _calibration_arrays(pipeline: Pipeline) -> dict[str, np.ndarray]:
    predicted = pipeline.calibration.predicted
    return {
        **({} if predicted is None else {"predicted": np.ascontiguousarray(predicted)}),
        "scores": np.ascontiguousarray(pipeline.calibration.scores),
        **flatten({"part": pipeline.calibration.parts}),
        "band": np.ascontiguousarray(pipeline.band),
        **probe_arrays(probe_features(pipeline)),
    }


def _weights(network: nn.Module) -> bytes:
    tensors = network.state_dict().items()
    content: bytes = safetensors_torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors}
    )
    return content


def _versions() -> dict[str, str]:
    try:
        own = metadata.version("plumbline")
    except metadata.PackageNotFoundError:  # not installed: run from a checkout
        own = "unknown"
    return {
        "plumbline": own, "python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__,
        "scikit-learn": metadata.version("scikit-learn"), "safetensors": safetensors.__version__,
    }  # fmt: skip


def _require_replaceable(folder: Path) -> None:
    """Raise InputError unless `folder` is free, empty, or an artifact."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"expected a folder to write the artifact to, got a file or link at {folder}; choose another name"
        )
    if folder.is_dir():
        found = {path.name for path in folder.iterdir()}
        if found and not (MANIFEST in found and found <= {MANIFEST, *FILES, GRAPH, COMPANION}):
            raise InputError(
                f"expected {folder} to be new, empty or an artifact, got a folder with {sorted(found)[:5]}; "
                "choose another name: only artifacts are overwritten"
            )
