"""From the word NETWORK on a command line to a network that takes images in [0, 1].

A reference is one of

    RUN                                a folder that `plumbline train` wrote
    pretrained:NAME                    a checkpoint that comes with Plumbline, such as pretrained:cifar10-resnet20
    torchvision:NAME[:WEIGHTS]         a torchvision constructor; WEIGHTS is one of its own ("DEFAULT") or a file
    PATH.py:CALLABLE[:WEIGHTS]         a function in the user's file; returns a module, normalised images to logits;
                                       WEIGHTS is a file, or a folder that `plumbline train` wrote for that network
    NAME[:OPTION=VALUE...]             one of our own networks, untrained, such as resnet20:batch_normalization=false

Weight files are .safetensors, or .pt, .pth or .th state dictionaries, which torch reads with `weights_only=True`: no
code in them is run. A user's .py file *is* run, as the user asked; it is named by its SHA-256 afterwards.
"""

import hashlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import CheckpointError, InputError, NetworkError, UnknownNameError
from models.files import sha256_of
from models.loading.network_options import Argument, parse_network_options
from models.loading.specification import NetworkSpec
from models.normalization import Normalized
from models.registry import NETWORKS
from models.splitting.early_exit import EarlyExitNetwork

__all__ = ["LoadedNetwork", "NetworkSpec", "build_network", "load_network", "load_state", "preset_size"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".th"})
PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


@dataclass(frozen=True)
class LoadedNetwork:
    """A network ready to be watched: in eval mode, without gradients on its parameters.

    Args:
        network: takes images in [0, 1].
        spec: how to build it again.
        reference: the word it was loaded by.
        classes: names of the classes where the source knows them.
        provenance: how it was trained, where that is known.
        trained: False when no weights were given, so that a caller can say so.
    """

    network: Normalized
    spec: NetworkSpec
    reference: str
    classes: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    trained: bool = True


def load_network(
    reference: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    num_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> LoadedNetwork:
    """The network that `reference` names (see the module's docstring), in eval mode.

    Args:
        mean, std: normalisation, for networks whose source does not state one; defaults to ImageNet's for torchvision,
            and to none (mean 0, std 1) for a user's file, whose module may well normalise by itself.
        num_classes: asked of constructors that take it, where no checkpoint settles it.
        image_shape: (3, H, W) of the images to come; defaults to the source's own.

    Raises:
        UnknownNameError, InputError: the reference names nothing that exists.
        NetworkError: it exists but cannot be built, or does not turn images into logits (B, K).
    """
    from models.loading.checkpoint import load_checkpoint

    head, _, rest = reference.partition(":")
    if head == "pretrained":
        folder = PRETRAINED / rest
        known = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir()) if PRETRAINED.is_dir() else []
        if rest not in known:
            raise UnknownNameError(f"expected a pretrained network, got {rest!r}; known: {', '.join(known) or 'none'}")
        return _with_shape(replace(load_checkpoint(folder), reference=reference), image_shape)
    if head == "torchvision":
        return _torchvision_network(reference, mean, std, num_classes, image_shape)
    if re.search(r"\.py(:|$)", reference):
        return _file_network(reference, mean, std, num_classes, image_shape)
    if Path(reference).is_dir():
        return _with_shape(replace(load_checkpoint(Path(reference)), reference=reference), image_shape)
    if head not in NETWORKS.names():
        raise UnknownNameError(
            f"expected a network, got {reference!r}: no folder of that name, and none of the known forms: "
            f"RUN, pretrained:NAME, torchvision:NAME[:WEIGHTS], PATH.py:CALLABLE[:WEIGHTS], or, with options as "
            f"NAME:OPTION=VALUE, one of {', '.join(NETWORKS.names())}"
        )
    options = parse_network_options(head, NETWORKS.load(head), rest.split(":") if rest else [])
    spec = NetworkSpec(
        "plumbline", head, {"num_classes": num_classes or 10, **options}, num_classes or 10,
        image_shape or (3, 32, 32), tuple(mean or (0.0,) * 3), tuple(std or (1.0,) * 3),
    )  # fmt: skip
    return _loaded(build_network(spec), spec, reference, trained=False)


def build_network(spec: NetworkSpec, *, network_file: str | Path | None = None) -> Normalized:
    """The architecture of `spec` with fresh weights, in eval mode.

    Args:
        network_file: the user's file for a spec of source "file", optionally followed by ``:CALLABLE``. Its SHA-256
            must be the one in the spec.

    Raises:
        InputError: the file is missing, or not the one that the spec names.
        NetworkError: the constructor fails.
    """
    if spec.source == "file":
        if network_file is None:
            raise InputError(
                f"expected --network PATH.py:{spec.name}, since this network comes from a user's file and no code is "
                "taken from an artifact; got none"
            )
        path = Path(str(network_file).partition(".py:")[0].removesuffix(".py") + ".py")
        if not path.is_file():
            raise InputError(f"expected --network to name an existing file, got {path}")
        # Checked before anything in the file is run, and again on the bytes that were.
        if (digest := sha256_of(path)) != spec.source_sha256:
            raise InputError(
                f"expected the file with SHA-256 {spec.source_sha256}, got {path} with {digest}; pass the very file "
                "that the network was fitted with, or fit again"
            )
        function, run_digest = _callable_in(path, spec.name)
        if run_digest != spec.source_sha256:
            raise InputError(f"{path} changed while it was read; try again")
        network = _construct(function, spec.arguments, f"{path}:{spec.name}")
    elif spec.source == "torchvision":
        network = _construct(_torchvision_constructor(spec.name), spec.arguments, f"torchvision:{spec.name}")
    else:
        network = _construct(NETWORKS.load(spec.name), spec.arguments, spec.name)
    if spec.stop is not None:
        network = EarlyExitNetwork(network, spec.image_shape, boundary=spec.stop, num_classes=spec.num_classes)
    return _frozen(Normalized(network, spec.mean, spec.std))


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU; a `state_dict` key and `module.` prefixes are taken off.

    Raises:
        InputError: no such file.
        CheckpointError: it is damaged or holds something other than tensors.
    """
    if not path.is_file():
        raise InputError(f"expected an existing weight file, got {path}")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        elif path.suffix in _WEIGHT_SUFFIXES:
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise InputError(f"expected weights in .safetensors, .pt, .pth or .th, got {path.name}")
    except InputError:
        raise
    except Exception as exc:  # torch and safetensors raise many kinds for damaged files
        raise CheckpointError(f"{path}: expected a readable state dictionary, got: {exc}") from exc
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise CheckpointError(f"{path}: expected a dictionary of tensors; save network.state_dict() and nothing else")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def preset_size(reference: str) -> tuple[int | None, int | None]:
    """Resize and crop in pixels that torchvision states for its own weights; (None, None) for other references."""
    entry = _preset(reference)
    if entry is None:
        return None, None
    transform = entry.transforms()
    return transform.resize_size[0], transform.crop_size[0]


def _preset(reference: str) -> Any:
    """The torchvision weights that ``torchvision:NAME:WEIGHTS`` names, None where WEIGHTS is a file or absent."""
    head, _, rest = reference.partition(":")
    name, _, weights = rest.partition(":")
    if head != "torchvision" or not weights or Path(weights).suffix in _WEIGHT_SUFFIXES:
        return None
    from torchvision.models import get_model_weights

    _torchvision_constructor(name)
    known = get_model_weights(name).__members__
    if weights not in known:
        raise UnknownNameError(f"expected weights of {name}, got {weights!r}; known: {', '.join(known)}, or a file")
    return known[weights]


def _torchvision_network(
    reference: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    num_classes: int | None,
    image_shape: tuple[int, int, int] | None,
) -> LoadedNetwork:
    name, _, weights = reference.partition(":")[2].partition(":")
    constructor = _torchvision_constructor(name)
    if (entry := _preset(reference)) is not None:
        try:
            network = constructor(weights=entry)
        except OSError as exc:
            raise NetworkError(
                f"{reference}: the weights could not be downloaded ({exc}); give a weight file instead"
            ) from exc
        transform = entry.transforms()
        mean, std = tuple(mean or transform.mean), tuple(std or transform.std)
        spec = NetworkSpec("torchvision", name, {}, 0, image_shape or (3, *transform.crop_size * 2), mean, std)
        loaded = _loaded(Normalized(network, mean, std), spec, reference)
        _check_rebuilt(loaded)
        return replace(loaded, classes=tuple(entry.meta["categories"]))
    arguments: dict[str, Argument] = {"num_classes": num_classes} if num_classes else {}
    network = _construct(constructor, arguments, reference)
    if weights:
        _fill(network, load_state(Path(weights)), reference)
    mean, std = tuple(mean or IMAGENET_MEAN), tuple(std or IMAGENET_STD)
    spec = NetworkSpec("torchvision", name, arguments, 0, image_shape or (3, 224, 224), mean, std)
    return _loaded(Normalized(network, mean, std), spec, reference, trained=bool(weights))


def _check_rebuilt(loaded: LoadedNetwork) -> None:
    """Some presets change more than weights (heads, transforms, sizes), and no artifact of theirs could be loaded.

    Raises:
        NetworkError: the network built from the specification is another one.
    """
    noise = torch.rand(2, *loaded.spec.image_shape, generator=torch.Generator().manual_seed(0))
    try:
        again = build_network(loaded.spec)
        again.load_state_dict(loaded.network.state_dict(), strict=True)
        with torch.inference_mode():
            same = torch.allclose(again(noise), loaded.network(noise), rtol=1e-3, atol=1e-3)
    except RuntimeError as exc:
        raise NetworkError(
            f"{loaded.reference}: these weights are for a variant that torchvision's constructor does not build by "
            f"name ({exc}); write a function that builds it into a file, and give PATH.py:CALLABLE"
        ) from exc
    if not same:
        raise NetworkError(
            f"{loaded.reference}: the network that is built by name computes other logits with these weights; write a "
            "function that builds the variant into a file, and give PATH.py:CALLABLE"
        )


def _file_network(
    reference: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    num_classes: int | None,
    image_shape: tuple[int, int, int] | None,
) -> LoadedNetwork:
    match = re.fullmatch(r"(?P<path>.+?\.py):(?P<callable>[A-Za-z_]\w*)(:(?P<weights>.+))?", reference)
    if match is None:
        raise InputError(f"expected PATH.py:CALLABLE or PATH.py:CALLABLE:WEIGHTS, got {reference!r}")
    path = Path(match["path"])
    if not path.is_file():
        raise InputError(f"expected an existing Python file, got {path}")
    if match["weights"] and Path(match["weights"]).is_dir():
        from models.loading.checkpoint import load_checkpoint

        loaded = load_checkpoint(Path(match["weights"]), network_file=f"{path}:{match['callable']}")
        return _with_shape(replace(loaded, reference=reference), image_shape)
    function, digest = _callable_in(path, match["callable"])
    takes_classes = "num_classes" in inspect.signature(function).parameters
    arguments: dict[str, Argument] = {"num_classes": num_classes} if takes_classes and num_classes else {}
    network = _construct(function, arguments, reference)
    if match["weights"]:
        _fill(network, load_state(Path(match["weights"])), reference)
    normalisation = tuple(mean or (0.0,) * 3), tuple(std or (1.0,) * 3)
    spec = NetworkSpec(
        "file",
        match["callable"],
        arguments,
        0,
        image_shape or (3, 32, 32),
        *normalisation,
        source_sha256=digest,
    )
    return _loaded(Normalized(network, *normalisation), spec, reference)


def _loaded(network: Normalized, spec: NetworkSpec, reference: str, *, trained: bool = True) -> LoadedNetwork:
    """Freeze the network and find K by one forward pass."""
    _frozen(network)
    logits = _logits_of_blank(network, spec.image_shape, reference)
    asked, got = spec.arguments.get("num_classes", logits.shape[1]), logits.shape[1]
    if asked != got:
        raise NetworkError(
            f"{reference}: expected {asked} logits, as num_classes asked for, got {got}; let the function heed "
            "num_classes, or leave that parameter out"
        )
    return LoadedNetwork(network, replace(spec, num_classes=logits.shape[1]), reference, trained=trained)


def _with_shape(loaded: LoadedNetwork, image_shape: tuple[int, int, int] | None) -> LoadedNetwork:
    if image_shape is None or image_shape == loaded.spec.image_shape:
        return loaded
    _logits_of_blank(loaded.network, image_shape, loaded.reference)
    return replace(loaded, spec=replace(loaded.spec, image_shape=image_shape))


def _logits_of_blank(network: Normalized, shape: tuple[int, int, int], reference: str) -> Tensor:
    try:
        with torch.inference_mode():
            logits = network(torch.full((2, *shape), 0.5))
    except Exception as exc:  # a user's network may raise anything
        raise NetworkError(
            f"{reference}: expected logits for images {shape} (channels, height, width), the forward pass failed: "
            f"{exc}; give the size that the network was made for"
        ) from exc
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NetworkError(f"{reference}: expected logits (B, K) with K ≥ 2 for B = 2 images, got {got}")
    return logits


def _construct(constructor: Callable[..., Any], arguments: Mapping[str, Argument], reference: str) -> nn.Module:
    try:
        network = constructor(**arguments)
    except Exception as exc:  # a user's callable may raise anything
        raise NetworkError(f"{reference}: the constructor failed with {type(exc).__name__}: {exc}") from exc
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{reference}: expected a torch.nn.Module, got {type(network).__name__}")
    return network


def _torchvision_constructor(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UnknownNameError(f"expected a torchvision classifier, got {name!r}; known: {', '.join(known)}")
    constructor: Callable[..., nn.Module] = models.get_model_builder(name)
    return constructor


def _callable_in(path: Path, name: str) -> tuple[Callable[..., Any], str]:
    """The callable `name` of a Python file, and the SHA-256 of the very bytes that were run.

    The file is run as a module of its own, never from a byte-code cache; its folder is importable while it runs. Files
    that it imports are not covered by the SHA-256.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    module = types.ModuleType(f"plumbline_user_{digest[:16]}")
    module.__file__ = str(path)
    # Registered, since dataclasses and pickle (worker processes) look a class's module up by name.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as exc:  # a user's file may raise anything
        raise NetworkError(f"{path}: the file failed with {type(exc).__name__}: {exc}") from exc
    finally:
        sys.path.remove(str(path.resolve().parent))
    function = getattr(module, name, None)
    if not callable(function):
        public = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise InputError(
            f"{path}: expected a callable {name!r}, got none; the file has {', '.join(public) or 'no callables'}"
        )
    return function, digest


def _fill(network: nn.Module, state: dict[str, Tensor], reference: str) -> None:
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as exc:
        raise NetworkError(f"{reference}: the weights do not fit the network: {exc}") from exc


def _frozen(network: Normalized) -> Normalized:
    # Convolutions are faster with channels last, on CPUs as well as on GPUs; the logits are the same but for rounding.
    network.to(memory_format=torch.channels_last)
    return network.requires_grad_(False).eval()
