"""Networks from their specifications, without trained weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import InputError, NetworkError
from models.files import sha256_of
from models.loading.network_options import Argument
from models.loading.specification import NetworkSpec
from models.loading.timm_models import timm_constructor
from models.loading.torchvision_presets import torchvision_constructor
from models.loading.transformers_models import build_classifier
from models.loading.user_file import load_user_file, without_package
from models.normalization import Normalized
from models.registry import NETWORKS
from models.splitting.early_exit import EarlyExitNetwork

__all__ = ["build_network", "construct", "frozen"]


def build_network(spec: NetworkSpec, *, network_file: str | Path | None = None) -> Normalized:
    """The architecture of `spec` with fresh weights, in eval mode.

    Args:
        spec: the specification.
        network_file: the user's file for a spec of source "file", optionally followed by ``:CALLABLE``. Its SHA-256
            must be the one in the spec.

    Raises:
        InputError: the file is missing, its SHA-256 differs, or a file is given for a network that comes from none.
        NetworkError: the constructor fails.
    """
    if network_file is not None and spec.source != "file":
        raise InputError(
            f"the network is {spec.name}, which is built by name and not from {network_file}; leave that file out"
        )
    if spec.source == "file":
        network = _from_file(spec, network_file)
    elif spec.source == "timm":
        network = construct(timm_constructor(spec.name), spec.arguments, f"timm:{spec.name}")
    elif spec.source == "hf":
        network = build_classifier(spec.configuration, spec.num_classes)
    elif spec.source == "torchvision":
        network = construct(torchvision_constructor(spec.name), spec.arguments, f"torchvision:{spec.name}")
    else:
        network = construct(NETWORKS.load(spec.name), spec.arguments, spec.name)
    if spec.stop is not None:
        channels, height, width = spec.image_shape
        inner_shape = (1 if spec.grey else channels, height, width)
        network = EarlyExitNetwork(network, inner_shape, boundary=spec.stop, num_classes=spec.num_classes)
    return frozen(Normalized(network, spec.mean, spec.std, grey=spec.grey))


def construct(constructor: Callable[..., Any], arguments: Mapping[str, Argument], reference: str) -> nn.Module:
    """The network that a constructor returns.

    Raises:
        NetworkError: the constructor raises an exception, or returns something else than a module.
    """
    try:
        network = constructor(**arguments)
    except Exception as exc:  # a user's callable may raise anything
        raise NetworkError(
            f"{reference}: the constructor failed with {type(exc).__name__}: {without_package(exc)}"
        ) from exc
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{reference}: expected a torch.nn.Module, got {type(network).__name__}")
    if isinstance(network, torch.jit.ScriptModule):
        raise NetworkError(f"{reference}: a TorchScript program cannot be observed; return the Python module")
    return network


def frozen(network: Normalized) -> Normalized:
    """The network in float32 and eval mode, without gradients on its parameters."""
    # Convolutions are faster with channels last, on CPUs and on GPUs; the logits are the same except for rounding.
    network.float().to(memory_format=torch.channels_last)
    return network.requires_grad_(False).eval()


def _from_file(spec: NetworkSpec, network_file: str | Path | None) -> nn.Module:
    if network_file is None:
        raise InputError(
            f"this network comes from a user's file, and an artifact contains no code; pass --network "
            f"PATH.py:{spec.name}"
        )
    path = Path(str(network_file).partition(".py:")[0].removesuffix(".py") + ".py")
    if not path.is_file():
        raise InputError(f"expected --network to name an existing file, got {path}")
    # Checked before any code in the files runs, and again on the bytes that ran.
    expected = {path.name: spec.source_sha256, **(spec.source_files or {})}
    for name, digest in expected.items():
        _require_digest(path.parent / name, digest)
    user = load_user_file(path)
    network = construct(user.function(spec.name), spec.arguments, f"{path}:{spec.name}")
    ran = {path.name: user.sha256, **user.imported()}
    if changed := [name for name, digest in ran.items() if expected.get(name, digest) != digest]:
        raise InputError(f"{path.parent / changed[0]} changed while it was read; try again")
    if spec.source_files is not None and (added := sorted(ran.keys() - expected.keys())):
        raise InputError(
            f"{path.parent / added[0]} was not imported when the network was fitted; remove it, or fit again"
        )
    return network


def _require_digest(path: Path, expected: str | None) -> None:
    got = sha256_of(path) if path.is_file() else "no file"
    if got != expected:
        raise InputError(
            f"expected {path} with the SHA-256 {expected}, got {got}; pass the file that the network was fitted with, "
            "and beside it the files that it imports, or fit again"
        )
