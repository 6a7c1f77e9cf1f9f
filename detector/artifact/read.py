"""Read an artifact: a fitted pipeline as a folder, written atomically and verified before use.

    manifest.json             description of all parts, with a digest of itself, optionally signed
    network.safetensors       the network's state dictionary
    detector.safetensors      what the detector learned, as plain arrays
    calibration.safetensors   sorted natural scores, the natural band, and the networks' output for the probe image
    engine.onnx               the network as a graph, if the artifact's engine needs one
    companion.safetensors     the state dictionary of a second network, if the detector compares with one

Loading takes these steps, and raises `ArtifactError` at the first that fails, before anything is served:

1. The folder contains these ordinary files, no other, and none above its size limit.
2. The manifest is JSON of a known protocol in canonical form, and its digest is correct.
3. If a key is given, the signature is correct.
4. Each file has the SHA-256 that the manifest states.
5. This version decodes images by the policy in the manifest. After its sizes are checked, the network is built by name
   (an artifact contains no code), and its tensors match one by one; so is the companion.
6. The branches of the network are found again and are equal to those in the manifest.
7. The detector's arrays are checked one by one, and the threshold follows from the calibration scores.
8. The graph of an engine is in one file, has standard operators only, and the network's inputs and outputs.
9. For a fixed probe image, the networks return the stored logits and statistics, up to rounding. The results of a graph
   are also those of the network's weights.

Hashes detect damage and mix-ups. An attacker can compute hashes too; only a signature detects that.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
from torch import Tensor

from detector.artifact.engine import read_engine, require_agreement
from detector.artifact.manifest import COMPANION, FILES, GRAPH, MANIFEST, read_checked, read_key, read_manifest
from detector.artifact.migration import migrated_parameters, migrated_state
from detector.artifact.parts import (
    branch_entries,
    probe_arrays,
    probe_features,
    require_matching_companion,
    require_matching_parts,
)
from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.common.arrays import require_array, require_keys
from detector.pipeline import Pipeline
from models.engines import EngineSource
from models.engines.agreement import TOLERANCES, relative_error
from models.errors import ArtifactError, InputError, NetworkError, PlumblineError
from models.features import needs_of
from models.images.policy import POLICY, require_policy
from models.images.preprocessing import Preprocessing
from models.loading import NetworkSpec, build_network
from models.normalization import Normalized
from models.registry import DETECTORS
from models.residuals import BlockTensor, Discovery, StatisticsSpec, discover

__all__ = ["Artifact", "load_artifact"]

# Logits and statistics of the probe image may differ between machines and devices by rounding. Those of another network
# differ by their own order of magnitude.
_PROBE_TOLERANCES = {"float32": 0.02, "bfloat16": TOLERANCES["bfloat16"]}


@dataclass(frozen=True)
class Artifact:
    """A verified artifact.

    Args:
        pipeline: network, detector and threshold.
        spec: how the network is built.
        preprocessing: from a decoded image to the pixels that the network takes.
        manifest: all recorded fields, provenance included.
        digest: SHA-256 of the manifest, which contains the SHA-256 of every other file: the identity of the artifact.
    """

    pipeline: Pipeline
    spec: NetworkSpec
    preprocessing: Preprocessing
    manifest: dict[str, Any]
    digest: str


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
        verify_key: key file of the signature; an unsigned artifact is then refused.

    Raises:
        ArtifactError: the artifact is damaged, was tampered with or has another protocol, or the folder is no artifact.
        InputError: the key file cannot be used, or `network_file` is missing or differs from that of the fit.
    """
    folder = Path(folder)
    key = None if verify_key is None else read_key(Path(verify_key))
    _require_files(folder, {MANIFEST, *FILES}, {GRAPH, COMPANION})
    manifest = read_manifest(folder, key)
    _require_files(folder, {MANIFEST, *manifest["files"]})
    contents = {name: read_checked(folder / name, entry) for name, entry in manifest["files"].items()}
    try:
        spec = NetworkSpec.from_json(manifest["network"])
        require_policy(manifest.get("decoding", POLICY))
        preprocessing = Preprocessing.from_json(manifest["preprocessing"])
        # Before the network is built or run: both need memory in proportion to these sizes.
        require_matching_parts(manifest["classes"], spec, preprocessing)
        statistics_spec = _measure(manifest["measure"])
        state = _arrays(folder, "detector.safetensors", contents)
        detector = _detector(manifest["detector"], state, manifest["protocol"])
    except (InputError, NetworkError) as exc:
        raise ArtifactError(f"{folder}: {exc}") from exc
    tensors = _tensors(folder, "network.safetensors", contents)
    _require_logits(spec, tensors, folder)
    network = _network(spec, network_file, folder)
    _fill(network, tensors, folder)
    try:
        companion = _companion(manifest, contents, spec, network_file, folder)
        discovery = discover(network, spec.image_shape, manifest.get("blocks"))
        if branch_entries(discovery) != manifest["branches"]:
            raise ArtifactError(
                f"expected the {len(manifest['branches'])} branches that the detector was fitted on, found "
                f"{len(discovery.branches)} in the network, or others; fit again with this version"
            )
        pipeline = _pipeline(
            network, discovery, statistics_spec, detector, manifest, spec, device,
            _arrays(folder, "calibration.safetensors", contents), contents.get(GRAPH), companion,
        )  # fmt: skip
    except PlumblineError as exc:
        raise ArtifactError(f"{folder}: {exc}") from exc
    return Artifact(pipeline, spec, preprocessing, manifest, manifest["digest"])


def _require_files(folder: Path, wanted: Set[str], allowed: Set[str] = frozenset()) -> None:
    """Raise ArtifactError unless the folder has the wanted files, and no other but those allowed."""
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder}; give an artifact, a folder that `plumbline fit` wrote")
    found = {path.name for path in folder.iterdir()}
    if not wanted <= found <= wanted | allowed:
        raise ArtifactError(
            f"{folder}: expected exactly the files {sorted(wanted)}; missing {sorted(wanted - found)}, "
            f"not an artifact's own {sorted(found - wanted)}; copy the artifact again, whole and alone"
        )


def _arrays(folder: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    try:
        arrays: dict[str, np.ndarray] = safetensors_numpy.load(contents[name])
    except Exception as exc:  # safetensors raises many kinds for damaged files
        raise ArtifactError(f"{folder / name}: the arrays cannot be read: {exc}") from exc
    return arrays


def _tensors(folder: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors_torch.load(contents[name])
    except Exception as exc:  # safetensors raises many kinds for damaged files
        raise ArtifactError(f"{folder / name}: the tensors cannot be read: {exc}") from exc
    return tensors


def _measure(fields: Any) -> StatisticsSpec:
    if not isinstance(fields, dict) or set(fields) != {"of", "directions"} or type(fields["directions"]) is not int:
        raise InputError(f"expected a measure with of and directions, got {fields!r:.200}")
    if fields["of"] not in get_args(BlockTensor) or fields["directions"] > 1000:
        raise InputError(f"expected a measure of residues or embeddings with few directions, got {fields!r:.200}")
    return StatisticsSpec(quantity=fields["of"], directions=fields["directions"])


def _detector(fields: Any, state: Mapping[str, np.ndarray], protocol: int) -> Detector:
    if not isinstance(fields, dict) or set(fields) != {"name", "parameters"} or not isinstance(fields["name"], str):
        raise InputError(f"expected a detector's name and parameters, got {fields!r:.200}")
    if not isinstance(fields["parameters"], dict):
        raise InputError(f"expected the detector's parameters by name, got {fields['parameters']!r:.200}")
    kind: type[Detector] = DETECTORS.load(fields["name"])
    name = fields["name"]
    return kind.from_state(migrated_parameters(name, fields["parameters"]), migrated_state(name, state, protocol))


def _require_logits(spec: NetworkSpec, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise ArtifactError if the manifest has more classes than the weights."""
    if "num_classes" not in spec.arguments:
        return
    count = spec.num_classes
    # A user's network may have any head; all other networks end in a layer with one row per class.
    enough = (
        sum(tensor.numel() for tensor in tensors.values()) >= count
        if spec.source == "file"
        else any(tensor.ndim and tensor.shape[0] == count and tensor.numel() for tensor in tensors.values())
    )
    if not enough:
        raise ArtifactError(
            f"{folder}: expected weights for {count} classes, as in the manifest, got none; these are another "
            "network's weights"
        )


def _network(spec: NetworkSpec, network_file: str | Path | None, folder: Path) -> Normalized:
    try:
        return build_network(spec, network_file=network_file)
    except (InputError, NetworkError) as exc:
        # The caller can correct a missing, different or unused user's file, so that error is raised unchanged.
        if spec.source == "file" or network_file is not None:
            raise
        raise ArtifactError(f"{folder}: the network cannot be built: {exc}") from exc


def _companion(
    manifest: Mapping[str, Any],
    contents: Mapping[str, bytes],
    spec: NetworkSpec,
    network_file: str | Path | None,
    folder: Path,
) -> Normalized | None:
    """The companion with its weights; None without one. Raises as the functions for the network do."""
    if "companion" not in manifest:
        return None
    companion_spec = NetworkSpec.from_json(manifest["companion"])
    require_matching_companion(spec, companion_spec)
    tensors = _tensors(folder, COMPANION, contents)
    _require_logits(companion_spec, tensors, folder)
    # From the file of the network, if from any.
    companion = _network(companion_spec, network_file if companion_spec.source == "file" else None, folder)
    _fill(companion, tensors, folder)
    return companion


def _fill(network: Normalized, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Load `tensors` into the network after a comparison of every name, shape and type, and of the normalisation."""
    expected = network.state_dict()
    if missing_or_extra := set(expected) ^ set(tensors):
        raise ArtifactError(
            f"{folder}: expected the {len(expected)} tensors of the network that the manifest names, got "
            f"{len(tensors)}; they differ in {sorted(missing_or_extra)[:5]}: these are another network's weights"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ArtifactError(
                f"{folder}: expected {name!r} to be {expected[name].dtype} {tuple(expected[name].shape)}, got "
                f"{tensor.dtype} {tuple(tensor.shape)}; these are another network's weights"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{folder}: expected finite weights, got NaN or infinity in {name!r}")
        # Weights that were stored in half precision have a rounded normalisation.
        if name in ("mean", "std") and not torch.allclose(tensor, expected[name], rtol=2e-3):
            raise ArtifactError(f"{folder}: expected the normalisation of the manifest, got another {name}")
    network.load_state_dict(dict(tensors), strict=True)


def _pipeline(
    network: Normalized,
    discovery: Discovery,
    statistics_spec: StatisticsSpec,
    detector: Detector,
    manifest: Mapping[str, Any],
    spec: NetworkSpec,
    device: str | torch.device,
    arrays: Mapping[str, np.ndarray],
    graph: bytes | None,
    companion: Normalized | None,
) -> Pipeline:
    with_classes = {"predicted"} & arrays.keys()  # artifacts of earlier versions have none
    calibration = Calibration(
        require_array(arrays, "scores", np.float64, (None,)),
        manifest["calibration"]["fpr"],
        require_array(arrays, "predicted", np.int64, (None,)) if with_classes else None,
        {name: require_array(arrays, f"part.{name}", np.float64, (None,)) for name in detector.part_names()},
    )
    stated = manifest["calibration"]
    if (stated["threshold"], stated["count"]) != (calibration.threshold, len(calibration.scores)):
        raise ArtifactError(
            f"expected the threshold {calibration.threshold} that follows from {len(calibration.scores)} calibration "
            f"scores, got {stated['threshold']!r} of {stated['count']!r}"
        )
    needs = needs_of(detector.feature_requests())
    source = EngineSource(
        network=network, discovery=discovery, statistics_spec=statistics_spec, image_shape=spec.image_shape,
        pooled=needs.pooled, graph=graph,
    )  # fmt: skip
    engine = read_engine(manifest.get("engine"), source, classes=len(manifest["classes"]))
    if engine is not None and not needs.engine_suffices:
        raise ArtifactError(f"the detector's features need the network in torch, got the engine {engine.name}")
    pipeline = Pipeline(
        network=network, discovery=discovery, statistics_spec=statistics_spec, detector=detector,
        calibration=calibration,
        classes=tuple(manifest["classes"]), band=require_array(arrays, "band", np.float32, (3, None)),
        image_shape=spec.image_shape, device=device, engine=engine,
        companion=companion,
    )  # fmt: skip
    try:
        probe = probe_features(pipeline)
    except RuntimeError as exc:
        raise ArtifactError(f"the network cannot be run: {exc!s:.500}") from exc
    probed = probe_arrays(probe)
    parts = {f"part.{name}" for name in calibration.parts}
    require_keys(arrays, {"scores", "band", *with_classes, *parts, *probed})
    for name, got in probed.items():
        expected = require_array(arrays, name, np.float32, got.shape)
        error = relative_error(got, expected)
        if not error <= _PROBE_TOLERANCES["float32" if engine is None else engine.precision]:
            raise ArtifactError(
                f"the network's {name.removeprefix('probe_')} for the probe image differ by {error:.0%} from those of "
                "the fit; these are another network's weights, or this device computes differently"
            )
    require_agreement(pipeline)
    return pipeline
