"""A trained network as a folder with ``network.safetensors`` and ``network.json``, neither of which contains code.

The JSON file has an integer protocol, the SHA-256 of the weights, the specification of the network, the class names,
and the provenance: recipe, data set, seed, versions and accuracy.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from models.errors import CheckpointError, InputError
from models.files import json_bytes, placeholder, sha256_of, write_files
from models.loading.build import build_network
from models.loading.loaded import LoadedNetwork
from models.loading.specification import NetworkSpec

__all__ = ["load_checkpoint", "rounded_to_half", "save_checkpoint"]

PROTOCOL = 1


def save_checkpoint(
    folder: Path, network: nn.Module, spec: NetworkSpec, classes: tuple[str, ...], provenance: dict[str, Any], *,
    half: bool = False,
) -> None:  # fmt: skip
    """Write `network` (images in [0, 1] → logits) to `folder`.

    Args:
        folder: is made if it does not exist.
        network: the trained network.
        spec: its specification.
        classes: names of the classes.
        provenance: JSON values.
        half: store matrices and kernels in half precision, for half the size; they are read as float32.
    """
    weights = save(_storable(network, half=half))
    header = {
        "protocol": PROTOCOL, "sha256": hashlib.sha256(weights).hexdigest(), "spec": spec.to_json(),
        "classes": list(classes), "provenance": provenance,
    }  # fmt: skip
    write_files(folder, {"network.safetensors": weights, "network.json": json_bytes(header)})


def load_checkpoint(folder: Path, *, network_file: str | Path | None = None) -> LoadedNetwork:
    """The network in `folder`, in eval mode.

    Args:
        folder: the checkpoint.
        network_file: see `build_network`.

    Raises:
        CheckpointError: a file is missing, damaged or of another protocol, or the weights belong to another network.
    """
    header_path, weights_path = folder / "network.json", folder / "network.safetensors"
    if not header_path.is_file() or not weights_path.is_file():
        raise CheckpointError(
            f"{folder}: expected network.json and network.safetensors, as `plumbline train` writes them"
        )
    for path in (header_path, weights_path):
        if fault := placeholder(path):
            raise CheckpointError(f"{path}: {fault}")
    try:
        header = json.loads(header_path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise CheckpointError(f"{header_path}: the file is not JSON: {exc}") from exc
    if not isinstance(header, dict) or header.get("protocol") != PROTOCOL:
        got = header.get("protocol") if isinstance(header, dict) else type(header).__name__
        raise CheckpointError(
            f"{header_path}: expected checkpoint protocol {PROTOCOL}, got {got!r}; use the version that wrote it"
        )
    content = weights_path.read_bytes()
    if (digest := sha256_of(weights_path)) != header.get("sha256"):
        raise CheckpointError(
            f"{weights_path}: expected SHA-256 {header.get('sha256')}, got {digest}; the file was changed"
        )
    classes = header.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{header_path}: expected class names, got {classes!r}")
    try:
        spec = NetworkSpec.from_json(header.get("spec"))
        if spec.source == "file" and network_file is None:
            raise InputError(f"its network comes from a user's file; pass PATH.py:{spec.name}:{folder}")
        network = build_network(spec, network_file=network_file)
        state = {name: t.float() if t.is_floating_point() else t for name, t in load(content).items()}
        network.load_state_dict(state, strict=True)
    except (RuntimeError, InputError) as exc:
        raise CheckpointError(f"{folder}: the checkpoint cannot be used: {exc}") from exc
    return LoadedNetwork(network, spec, str(folder), tuple(classes), provenance=dict(header.get("provenance") or {}))


def rounded_to_half(network: nn.Module) -> None:
    """Round the weights in place as `save_checkpoint` does with `half`, to evaluate the network before it is stored."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())


def _storable(network: nn.Module, *, half: bool) -> dict[str, torch.Tensor]:
    """The state by name, contiguous and on the CPU; biases, normalisations and buffers stay in full precision."""
    # Shared blocks and tied weights have several names; safetensors requires a copy for each.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    if half:
        state |= {name: state[name].half() for name, parameter in network.named_parameters() if parameter.ndim > 1}
    return state
