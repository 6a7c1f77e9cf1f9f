"""A fitted pipeline as a folder: written whole or not at all, and believed only after every byte was checked.

    manifest.json             what everything is; ends in a digest of itself, optionally signed
    network.safetensors       the network's state dictionary
    detector.safetensors      what the detector learnt, as plain arrays
    calibration.safetensors   sorted natural scores, the natural band, and what the probe image gives

Loading takes these steps, and raises `ArtifactError` at the first that fails, before anything is served:

1. The folder holds these four ordinary files, no other, and none above its size limit.
2. The manifest is JSON of this protocol, in the very bytes that it would be written in again, and its digest is right.
3. With a key given, its signature is right.
4. Each file has the SHA-256 that the manifest states.
5. The network is built by name (no code comes from an artifact), and its tensors match one by one.
6. Its branches are found again and are the ones in the manifest.
7. The detector's arrays are checked one by one, and the threshold follows from the calibration scores.
8. A fixed probe image gives the logits and statistics that it gave when the artifact was written.

Hashes find damage and mix-ups. Only a signature finds a forger, who can compute hashes too.
"""

import hashlib
import hmac
import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors
import sklearn
import torch
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
from torch import Tensor

from detector.arrays import require_array, require_keys
from detector.calibration import Calibration
from detector.detectors.base import Detector
from detector.verdict import Pipeline
from models.discovery import Discovery, discover
from models.errors import ArtifactError, InputError, NetworkError, PlumblineError
from models.features import Features
from models.files import write_atomically
from models.loading import NetworkSpec, build_network
from models.normalization import Normalized
from models.preprocessing import Preprocessing
from models.registry import DETECTORS
from models.residues import Measure

__all__ = ["PROTOCOL", "Artifact", "load_artifact", "save_artifact"]

PROTOCOL = 1

# File names and their size limits in bytes: the only names that are ever opened, whatever a manifest says.
_MANIFEST = "manifest.json"
_LIMITS = {
    "network.safetensors": 8 * 2**30,
    "detector.safetensors": 4 * 2**30,
    "calibration.safetensors": 2**30,
}
_MANIFEST_LIMIT = 16 * 2**20
_KEY_BYTES = (32, 4096)

# A probe image's logits and statistics may differ between machines and devices by rounding; another network's differ
# by as much as they are large.
_PROBE_TOLERANCE = 0.02

_FIELDS = {
    "protocol", "versions", "files", "network", "preprocessing", "classes", "detector", "measure", "branches", "calibration",
    "provenance", "digest", "signature",
}  # fmt: skip


@dataclass(frozen=True)
class Artifact:
    """A checked artifact, ready to judge.

    Args:
        pipeline: network, detector and threshold.
        spec: how the network is built.
        preprocessing: from a decoded image to the pixels that the network takes.
        manifest: everything that was recorded, provenance included.
        digest: SHA-256 over the manifest's content, which names every other file's: the artifact's identity.
    """

    pipeline: Pipeline
    spec: NetworkSpec
    preprocessing: Preprocessing
    manifest: dict[str, Any]
    digest: str


def save_artifact(
    folder: Path | str,
    pipeline: Pipeline,
    *,
    spec: NetworkSpec,
    preprocessing: Preprocessing,
    provenance: Mapping[str, Any],
    sign_key: Path | str | None = None,
) -> str:
    """The digest of the artifact written to `folder`.

    It is written beside `folder` and then renamed, so that nothing half-written is ever under that name. An artifact that
    is there already is replaced, by two renames: for an instant the name is free.

    Args:
        provenance: recipe, data set, seeds and whatever else tells how this came about, as JSON values.
        sign_key: a file of at least 32 bytes; the manifest is then signed with it (HMAC-SHA256).

    Raises:
        InputError: `folder` exists and is not an artifact, the parts do not belong together, the provenance is not JSON,
            or the key file cannot be used.
    """
    folder = Path(folder)
    key = None if sign_key is None else _key(Path(sign_key))
    _require_replaceable(folder)
    _require_together(pipeline, spec, preprocessing)
    contents = {
        "network.safetensors": safetensors_torch.save(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in pipeline.network.state_dict().items()}
        ),
        "detector.safetensors": safetensors_numpy.save(
            {name: np.ascontiguousarray(array) for name, array in pipeline.detector.state().items()}
        ),
        "calibration.safetensors": safetensors_numpy.save(_calibration_arrays(pipeline)),
    }
    manifest: dict[str, Any] = {
        "protocol": PROTOCOL,
        "versions": _versions(),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "network": spec.to_json(),
        "preprocessing": preprocessing.to_json(),
        "classes": list(pipeline.classes),
        "detector": {"name": pipeline.detector.name, "parameters": pipeline.detector.parameters()},
        "measure": {"of": pipeline.measure.of, "directions": pipeline.measure.directions},
        "branches": _branches(pipeline.discovery),
        "calibration": {
            "count": len(pipeline.calibration.scores),
            "fpr": pipeline.calibration.fpr,
            "threshold": pipeline.calibration.threshold,
        },
        "provenance": dict(provenance),
    }
    try:
        digest = manifest["digest"] = hashlib.sha256(_canonical(manifest)).hexdigest()
        manifest["signature"] = None if key is None else _signature(key, digest)
        contents[_MANIFEST] = _canonical(manifest)
    except (TypeError, ValueError) as exc:
        raise InputError(f"expected provenance and parameters as JSON values, without NaN, got: {exc}") from exc
    _write_folder(folder, contents)
    return digest


def load_artifact(
    folder: Path | str,
    *,
    network_file: str | Path | None = None,
    device: str | torch.device = "cpu",
    verify_key: Path | str | None = None,
) -> Artifact:
    """The artifact in `folder`, after all the checks that the module's docstring lists.

    Args:
        network_file: the user's file, for a network that came from one.
        device: where the network will run.
        verify_key: the file that the artifact was signed with; an unsigned artifact is then refused.

    Raises:
        ArtifactError: the artifact is damaged, was tampered with, is of another protocol, or is not one.
        InputError: the key file cannot be used, or `network_file` is missing or is not the one it was fitted with.
    """
    folder = Path(folder)
    key = None if verify_key is None else _key(Path(verify_key))
    _require_exact_files(folder)
    manifest = _read_manifest(folder, key)
    contents = {name: _read_checked(folder / name, manifest["files"][name]) for name in _LIMITS}
    try:
        spec = NetworkSpec.from_json(manifest["network"])
        preprocessing = Preprocessing.from_json(manifest["preprocessing"])
        measure = _measure(manifest["measure"])
        detector = _detector(manifest["detector"], _arrays(folder, "detector.safetensors", contents))
    except (InputError, NetworkError) as exc:
        raise ArtifactError(f"{folder}: {exc}") from exc
    # A missing or different user's file is the caller's to mend, so that error passes as it is.
    network = build_network(spec, network_file=network_file)
    _fill(network, _tensors(folder, "network.safetensors", contents), folder)
    try:
        discovery = discover(network, spec.image_shape)
        if _branches(discovery) != manifest["branches"]:
            raise ArtifactError(
                f"expected the {len(manifest['branches'])} branches that the detector was fitted on, found "
                f"{len(discovery.branches)} in the network, or others; fit again with this version"
            )
        pipeline = _pipeline(
            network, discovery, measure, detector, manifest, spec, device,
            _arrays(folder, "calibration.safetensors", contents),
        )  # fmt: skip
        _require_together(pipeline, spec, preprocessing)
    except PlumblineError as exc:
        raise ArtifactError(f"{folder}: {exc}") from exc
    return Artifact(pipeline, spec, preprocessing, manifest, manifest["digest"])


# --- reading


def _require_exact_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: expected an artifact, a folder that `plumbline fit` wrote; there is no folder")
    found, wanted = set(os.listdir(folder)), {_MANIFEST, *_LIMITS}
    if found != wanted:
        raise ArtifactError(
            f"{folder}: expected exactly the files {sorted(wanted)}; missing {sorted(wanted - found)}, "
            f"not an artifact's own {sorted(found - wanted)}; copy the artifact again, whole and alone"
        )


def _read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of an ordinary file, which is no link, and no larger than `limit`."""
    try:
        # NOFOLLOW: a link could name any file of this machine. NONBLOCK: a pipe would hang us.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        raise ArtifactError(f"{path}: expected a readable ordinary file, not a link: {exc}") from exc
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path}: expected an ordinary file, got something else")
        if status.st_size > limit:
            raise ArtifactError(f"{path}: expected at most {limit} bytes, got {status.st_size}")
        return file.read(limit + 1)


def _read_manifest(folder: Path, key: bytes | None) -> dict[str, Any]:
    path = folder / _MANIFEST
    content = _read_bounded(path, _MANIFEST_LIMIT)
    try:
        manifest = json.loads(content.decode("ascii"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(
            f"{path}: expected JSON, could not read it: {exc}; the file was changed or cut off"
        ) from exc
    if not isinstance(manifest, dict) or type(manifest.get("protocol")) is not int or manifest["protocol"] != PROTOCOL:
        got = manifest.get("protocol") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(
            f"{path}: expected artifact protocol {PROTOCOL}, got {got!r}; use the version of Plumbline that wrote it, "
            "or fit again"
        )
    if set(manifest) != _FIELDS:
        raise ArtifactError(f"{path}: expected the fields {sorted(_FIELDS)}, got {sorted(manifest)}")
    signed = {name: value for name, value in manifest.items() if name not in ("digest", "signature")}
    digest = hashlib.sha256(_canonical(signed)).hexdigest()
    # The digest leaves spaces and the order of keys open; comparing the bytes as written does not.
    if manifest["digest"] != digest or _canonical(manifest) != content:
        raise ArtifactError(
            f"{path}: expected the digest {digest}, got {manifest['digest']!r}; the manifest was changed"
        )
    _check_signature(path, manifest, key)
    _check_manifest_types(path, manifest)
    return manifest


def _check_signature(path: Path, manifest: Mapping[str, Any], key: bytes | None) -> None:
    signature = manifest["signature"]
    if signature is not None and not isinstance(signature, str):
        raise ArtifactError(f"{path}: expected a signature or none, got {type(signature).__name__}")
    if key is None:
        return
    if signature is None:
        raise ArtifactError(f"{path}: expected a signed artifact since a key was given, got an unsigned one; sign it")
    # Compared as bytes: compare_digest refuses strings with other than ASCII characters.
    if not hmac.compare_digest(signature.encode(), _signature(key, manifest["digest"]).encode()):
        raise ArtifactError(f"{path}: expected a signature by the given key, got another; do not serve this artifact")


def _check_manifest_types(path: Path, manifest: Mapping[str, Any]) -> None:
    """The fields that nothing below checks by itself."""
    files, classes, calibration = manifest["files"], manifest["classes"], manifest["calibration"]
    if not isinstance(files, dict) or set(files) != set(_LIMITS):
        raise ArtifactError(f"{path}: expected hashes of {sorted(_LIMITS)}, got {files!r:.200}")
    for entry in files.values():
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise ArtifactError(f"{path}: expected bytes and sha256 of each file, got {entry!r:.200}")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ArtifactError(f"{path}: expected class names, got {classes!r:.200}")
    if not isinstance(calibration, dict) or set(calibration) != {"count", "fpr", "threshold"}:
        raise ArtifactError(f"{path}: expected count, fpr and threshold of the calibration, got {calibration!r:.200}")
    if not isinstance(calibration["fpr"], float):
        raise ArtifactError(f"{path}: expected a false-positive rate, got {calibration['fpr']!r:.200}")
    if not isinstance(manifest["branches"], list) or not isinstance(manifest["provenance"], dict):
        raise ArtifactError(f"{path}: expected a list of branches and a provenance, got other types")


def _read_checked(path: Path, entry: Mapping[str, Any]) -> bytes:
    content = _read_bounded(path, _LIMITS[path.name])
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != entry["bytes"] or digest != entry["sha256"]:
        raise ArtifactError(
            f"{path}: expected {entry['bytes']} bytes with SHA-256 {entry['sha256']}, got {len(content)} bytes with "
            f"{digest}; the file was changed, cut off, or is another artifact's"
        )
    return content


def _arrays(folder: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    try:
        arrays: dict[str, np.ndarray] = safetensors_numpy.load(contents[name])
    except Exception as exc:  # safetensors raises many kinds for damaged files
        raise ArtifactError(f"{folder / name}: expected readable arrays, got: {exc}") from exc
    return arrays


def _tensors(folder: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors_torch.load(contents[name])
    except Exception as exc:  # safetensors raises many kinds for damaged files
        raise ArtifactError(f"{folder / name}: expected readable tensors, got: {exc}") from exc
    return tensors


# --- building


def _measure(fields: Any) -> Measure:
    if not isinstance(fields, dict) or set(fields) != {"of", "directions"} or type(fields["directions"]) is not int:
        raise InputError(f"expected a measure with of and directions, got {fields!r:.200}")
    if not isinstance(fields["of"], str) or fields["directions"] > 1000:
        raise InputError(f"expected a measure of residues or embeddings with few directions, got {fields!r:.200}")
    return Measure(**fields)


def _detector(fields: Any, state: Mapping[str, np.ndarray]) -> Detector:
    if not isinstance(fields, dict) or set(fields) != {"name", "parameters"} or not isinstance(fields["name"], str):
        raise InputError(f"expected a detector's name and parameters, got {fields!r:.200}")
    if not isinstance(fields["parameters"], dict):
        raise InputError(f"expected the detector's parameters by name, got {fields['parameters']!r:.200}")
    kind: type[Detector] = DETECTORS.load(fields["name"])
    return kind.from_state(fields["parameters"], state)


def _fill(network: Normalized, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Loads `tensors` into the network after comparing every name, shape, type and the normalisation."""
    expected = network.state_dict()
    if missing_or_extra := set(expected) ^ set(tensors):
        raise ArtifactError(
            f"{folder}: expected the {len(expected)} tensors of the network that the manifest names, got {len(tensors)}; "
            f"they differ in {sorted(missing_or_extra)[:5]}: these are another network's weights"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ArtifactError(
                f"{folder}: expected {name!r} to be {expected[name].dtype} {tuple(expected[name].shape)}, got "
                f"{tensor.dtype} {tuple(tensor.shape)}; these are another network's weights"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{folder}: expected finite weights, got NaN or infinity in {name!r}")
        if name in ("mean", "std") and not torch.equal(tensor, expected[name]):
            raise ArtifactError(f"{folder}: expected the normalisation of the manifest, got another {name}")
    network.load_state_dict(dict(tensors), strict=True)


def _pipeline(
    network: Normalized,
    discovery: Discovery,
    measure: Measure,
    detector: Detector,
    manifest: Mapping[str, Any],
    spec: NetworkSpec,
    device: str | torch.device,
    arrays: Mapping[str, np.ndarray],
) -> Pipeline:
    require_keys(arrays, {"scores", "band", "probe_logits", "probe_statistics"})
    calibration = Calibration(require_array(arrays, "scores", np.float64, (None,)), manifest["calibration"]["fpr"])
    stated = manifest["calibration"]
    if (stated["threshold"], stated["count"]) != (calibration.threshold, len(calibration.scores)):
        raise ArtifactError(
            f"expected the threshold {calibration.threshold} that follows from {len(calibration.scores)} calibration scores, "
            f"got {stated['threshold']!r} of {stated['count']!r}"
        )
    pipeline = Pipeline(
        network=network, discovery=discovery, measure=measure, detector=detector, calibration=calibration,
        classes=tuple(manifest["classes"]), band=require_array(arrays, "band", np.float32, (3, None)),
        image_shape=spec.image_shape, device=device,
    )  # fmt: skip
    probe = _probe_features(pipeline)
    for name, got in (("logits", probe.logits), ("statistics", probe.statistics)):
        expected = require_array(arrays, f"probe_{name}", np.float32, got.shape)
        error = np.abs(got - expected) / (np.abs(expected) + np.abs(expected).mean() + 1e-6)
        if error.max() > _PROBE_TOLERANCE:
            raise ArtifactError(
                f"expected the network to give the probe image the {name} it gave when fitted, got some that differ by "
                f"{error.max():.0%}; these are another network's weights, or this device computes otherwise"
            )
    return pipeline


def _require_together(pipeline: Pipeline, spec: NetworkSpec, preprocessing: Preprocessing) -> None:
    """Raises InputError where the parts contradict one another."""
    if pipeline.image_shape != spec.image_shape:
        raise InputError(f"expected images of the network's shape {spec.image_shape}, got {pipeline.image_shape}")
    if (preprocessing.height, preprocessing.width) != spec.image_shape[1:]:
        raise InputError(
            f"expected preprocessing to {spec.image_shape[1]}×{spec.image_shape[2]} pixels, as the network takes, got "
            f"{preprocessing.height}×{preprocessing.width}; give --resize and --crop that match"
        )
    if len(pipeline.classes) != spec.num_classes:
        raise InputError(f"expected {spec.num_classes} class names, got {len(pipeline.classes)}")


# --- writing


def _calibration_arrays(pipeline: Pipeline) -> dict[str, np.ndarray]:
    probe = _probe_features(pipeline)
    return {
        "scores": np.ascontiguousarray(pipeline.calibration.scores),
        "band": np.ascontiguousarray(pipeline.band),
        "probe_logits": probe.logits,
        "probe_statistics": probe.statistics,
    }


def _probe_features(pipeline: Pipeline) -> Features:
    """What the network says of one fixed image: a smooth wave per channel, which excites every layer."""
    _, height, width = pipeline.image_shape
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
    channels = [0.5 + 0.45 * torch.sin(2 * torch.pi * (k * down + (4 - k) * across)) for k in (1, 2, 3)]
    return pipeline.features(torch.stack(channels)[None].to(torch.float32))


def _branches(discovery: Discovery) -> list[dict[str, Any]]:
    return [{"name": b.name, "shape": list(b.shape), "kind": b.kind} for b in discovery.branches]


def _versions() -> dict[str, str]:
    from importlib import metadata

    try:
        own = metadata.version("plumbline")
    except metadata.PackageNotFoundError:  # run from a bare checkout
        own = "unknown"
    return {
        "plumbline": own, "python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__,
        "scikit-learn": sklearn.__version__, "safetensors": safetensors.__version__,
    }  # fmt: skip


def _canonical(value: Any) -> bytes:
    """The one way a manifest is written: ASCII JSON with sorted keys."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _signature(key: bytes, digest: str) -> str:
    return hmac.new(key, digest.encode("ascii"), hashlib.sha256).hexdigest()


def _key(path: Path) -> bytes:
    least, most = _KEY_BYTES
    try:
        with path.open("rb") as file:
            key = file.read(most + 1)
    except OSError as exc:
        raise InputError(f"expected a readable key file, got {path}: {exc}") from exc
    if not least <= len(key) <= most:
        raise InputError(
            f"expected a key file of {least} to {most} bytes, got {path} with {'more' if len(key) > most else len(key)}; "
            f"make one with: head -c {least} /dev/urandom > {path.name}"
        )
    return key


def _require_replaceable(folder: Path) -> None:
    """Raises InputError unless `folder` is free, empty, or an artifact."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"expected a folder to write the artifact to, got a file or link at {folder}; choose another name"
        )
    if folder.is_dir():
        found = set(os.listdir(folder))
        if found and not (_MANIFEST in found and found <= {_MANIFEST, *_LIMITS}):
            raise InputError(
                f"expected {folder} to be new, empty or an artifact, got a folder with {sorted(found)[:5]}; "
                "choose another name: nothing of yours is overwritten"
            )


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        new, old = staging / "new", staging / "old"
        new.mkdir()
        for name, content in contents.items():
            write_atomically(new / name, content)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(staging)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
