"""Networks from the references of the command line.

A reference is one of

    RUN                                a folder that `plumbline train` wrote
    pretrained:NAME                    a checkpoint that is part of Plumbline, such as pretrained:cifar10-resnet20
    torchvision:NAME[:WEIGHTS]         a torchvision constructor; WEIGHTS is one of its own ("DEFAULT") or a file
    timm:NAME[.TAG][:WEIGHTS]          a network of timm; WEIGHTS is "pretrained" or a file
    hf:FOLDER, hf:OWNER/NAME           an image classifier of transformers, as `save_pretrained` writes it
    PATH.py:CALLABLE[:WEIGHTS]         a function in a user's file that returns a module from normalised images to
                                       logits; WEIGHTS is a file, or a folder that `plumbline train` wrote for it
    NAME[:OPTION=VALUE...]             one of our own networks, untrained, such as resnet20:batch_normalization=false

No code in weight files runs (`models.loading.state`). A user's .py file *does* run, as requested; it is identified by
its SHA-256 afterwards.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.errors import InputError, NetworkError, UnknownNameError
from models.loading.build import build_network, construct
from models.loading.checkpoint import load_checkpoint
from models.loading.loaded import LoadedNetwork, checked, with_shape
from models.loading.network_options import Argument, parse_network_options
from models.loading.specification import NetworkSpec
from models.loading.state import WeightsMismatchError, load_weights
from models.loading.timm_models import PRETRAINED_WEIGHTS, pretrained_timm, timm_classes, timm_config, timm_constructor
from models.loading.torchvision_presets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    preset,
    torchvision_constructor,
    torchvision_size,
)
from models.loading.transformers_models import read_classifier
from models.loading.user_file import load_user_file
from models.normalization import Normalized, per_channel
from models.progress import say
from models.registry import NETWORKS

__all__ = ["PRETRAINED", "load_network", "preset_size"]

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


@dataclass(frozen=True)
class _Request:
    """A reference, and what the caller states about the network; None for its own or a default."""

    reference: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    num_classes: int | None
    exact_classes: bool
    image_shape: tuple[int, int, int] | None

    @property
    def arguments(self) -> dict[str, Argument]:
        """Arguments of a constructor with a parameter num_classes."""
        return {"num_classes": self.num_classes} if self.num_classes else {}


def load_network(
    reference: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    defaults: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None),
    num_classes: int | None = None,
    exact_classes: bool = False,
    image_shape: tuple[int, int, int] | None = None,
) -> LoadedNetwork:
    """The network that `reference` names (see the module's docstring), in eval mode; its notes are printed.

    Args:
        reference: the reference.
        mean, std: normalisation for pixels in [0, 1], three numbers or one for all channels, for networks whose source
            does not state one. By default that of ImageNet for torchvision, and none (mean 0, std 1) for a user's file,
            whose module may normalise by itself.
        defaults: a mean and a std instead of those defaults; checkpoints keep their own.
        num_classes: for constructors with this parameter, if no checkpoint states it.
        exact_classes: whether a larger default of a user's function is replaced by `num_classes`. A data set may have
            fewer classes than the network, and weights that a function loads itself fit its default.
        image_shape: (3, H, W) of the images; by default that of the source.

    Raises:
        UnknownNameError, InputError: the reference names nothing that exists, or mean and std are not for such pixels
            or differ from those of a checkpoint.
        NetworkError: the network cannot be built, or does not return logits (B, K).
    """
    stated = per_channel(mean, std)
    used = per_channel(mean or defaults[0], std or defaults[1])
    loaded = _loaded(_Request(reference, *used, num_classes, exact_classes, image_shape))
    for given, own in zip(stated, (loaded.spec.mean, loaded.spec.std), strict=True):
        if given is not None and not np.allclose(given, own, atol=1e-4):
            raise InputError(f"{reference} has its own normalisation; leave --mean and --std out")
    for note in loaded.notes:
        say(note)
    return loaded


def _loaded(request: _Request) -> LoadedNetwork:
    reference, image_shape = request.reference, request.image_shape
    head, _, rest = reference.partition(":")
    if head == "pretrained":
        return with_shape(replace(load_checkpoint(_pretrained_folder(rest)), reference=reference), image_shape)
    if head == "torchvision":
        return _torchvision_network(request)
    if head == "timm":
        return _timm_network(request)
    if head == "hf":
        return _hf_network(request)
    if re.search(r"\.py(:|$)", reference):
        return _file_network(request)
    if Path(reference).is_dir():
        return with_shape(replace(load_checkpoint(Path(reference)), reference=reference), image_shape)
    if head in NETWORKS.names():
        return _own_network(request)
    raise UnknownNameError(
        f"expected a network, got {reference!r}: no folder of that name, and none of the known forms: "
        "RUN, pretrained:NAME, torchvision:NAME[:WEIGHTS], timm:NAME[:WEIGHTS], hf:FOLDER, PATH.py:CALLABLE[:WEIGHTS], "
        f"or, with options as NAME:OPTION=VALUE, one of {', '.join(NETWORKS.names())}"
    )


def _pretrained_folder(name: str) -> Path:
    known = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir()) if PRETRAINED.is_dir() else []
    if name not in known:
        raise UnknownNameError(f"expected a pretrained network, got {name!r}; known: {', '.join(known) or 'none'}")
    return PRETRAINED / name


def _own_network(request: _Request) -> LoadedNetwork:
    name, _, words = request.reference.partition(":")
    options = parse_network_options(name, NETWORKS.load(name), words.split(":") if words else [])
    num_classes = request.num_classes or 10
    spec = NetworkSpec(
        "plumbline",
        name,
        {"num_classes": num_classes, **options},
        num_classes,
        request.image_shape or (3, 32, 32),
        request.mean or (0.0,) * 3,
        request.std or (1.0,) * 3,
    )
    return checked(build_network(spec), spec, request.reference, trained=False)


def _torchvision_network(request: _Request) -> LoadedNetwork:
    if preset(request.reference) is not None:
        return _preset_network(request)
    name, _, weights = request.reference.partition(":")[2].partition(":")
    network, arguments, notes = _constructed(request, torchvision_constructor(name), weights)
    mean, std = request.mean or IMAGENET_MEAN, request.std or IMAGENET_STD
    spec = NetworkSpec("torchvision", name, arguments, 0, request.image_shape or (3, 224, 224), mean, std)
    loaded = checked(Normalized(network, mean, std), spec, request.reference, trained=bool(weights))
    return replace(loaded, notes=(*notes, *loaded.notes))


def _constructed(
    request: _Request, constructor: Callable[..., Any], weights: str | None, *, any_classes: bool = True
) -> tuple[nn.Module, dict[str, Argument], tuple[str, ...]]:
    """(the network with the weights, the arguments that it was constructed with, notes for the user).

    A weight file decides on the number of classes, if the constructor has a parameter for it (`any_classes`).
    """
    arguments = request.arguments if any_classes else {}
    network = construct(constructor, arguments, request.reference)
    if not weights:
        return network, arguments, ()
    try:
        return network, arguments, load_weights(network, Path(weights), request.reference)
    except WeightsMismatchError as exc:
        if exc.num_classes is None or not any_classes:
            raise
        arguments = {"num_classes": exc.num_classes}
    network = construct(constructor, arguments, request.reference)
    return network, arguments, load_weights(network, Path(weights), request.reference)


def _preset_network(request: _Request) -> LoadedNetwork:
    """A torchvision network with torchvision's own weights, normalisation, size and class names."""
    name, entry = request.reference.split(":")[1], preset(request.reference)
    try:
        network = torchvision_constructor(name)(weights=entry)
    except OSError as exc:
        raise NetworkError(
            f"{request.reference}: the weights could not be downloaded ({exc}); pass a weight file instead"
        ) from exc
    transform = entry.transforms()
    mean, std = request.mean or tuple(transform.mean), request.std or tuple(transform.std)
    shape = request.image_shape or (3, *transform.crop_size * 2)
    spec = NetworkSpec("torchvision", name, {}, 0, shape, mean, std)
    loaded = checked(Normalized(network, mean, std), spec, request.reference)
    _check_rebuilt(loaded)
    return replace(loaded, classes=tuple(entry.meta["categories"]))


def _timm_network(request: _Request) -> LoadedNetwork:
    name, _, weights = request.reference.partition(":")[2].partition(":")
    config = timm_config(name)
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    if weights == PRETRAINED_WEIGHTS and not Path(weights).is_file():
        network = pretrained_timm(name)
        classes = timm_classes(network) or ()
    else:
        network, _, notes = _constructed(request, timm_constructor(name), weights)
    mean, std = request.mean or config.mean, request.std or config.std
    shape = request.image_shape or config.image_shape
    spec = NetworkSpec("timm", name.partition(".")[0], {}, 0, shape, mean, std)
    loaded = checked(Normalized(network, mean, std), spec, request.reference, trained=bool(weights))
    # The tag, which is not recorded, decides on the number of classes.
    spec = replace(loaded.spec, arguments={"num_classes": loaded.spec.num_classes})
    if classes is not None:
        classes = classes if len(classes) == spec.num_classes else None
        _check_rebuilt(replace(loaded, spec=spec))
    return replace(loaded, spec=spec, notes=(*notes, *loaded.notes), classes=classes)


def _hf_network(request: _Request) -> LoadedNetwork:
    found = read_classifier(request.reference.partition(":")[2])
    mean, std = request.mean or found.mean, request.std or found.std
    if mean is None or std is None:
        raise InputError(
            f"{request.reference}: expected preprocessor_config.json with the normalisation; add it to the folder, or "
            "give --mean and --std"
        )
    network = found.load()
    kind, shape = found.configuration["model_type"], request.image_shape or found.image_shape
    spec = NetworkSpec(
        "hf", kind, {"num_classes": found.num_classes}, found.num_classes, shape, mean, std,
        configuration=found.configuration,
    )  # fmt: skip
    loaded = checked(Normalized(network, mean, std), spec, request.reference)
    _check_rebuilt(loaded)
    return replace(loaded, classes=found.classes)


def preset_size(reference: str) -> tuple[int | None, int | None]:
    """Resize and crop in pixels that belong to the network; (None, None) if its source states none.

    They are those of torchvision's own weights, and of every network of timm and transformers.
    """
    head, _, rest = reference.partition(":")
    if head == "timm":
        config = timm_config(rest.partition(":")[0])
        return config.resize, config.image_shape[1]
    if head == "hf":
        found = read_classifier(rest)
        return found.resize, found.image_shape[1]
    return torchvision_size(reference)


def _check_rebuilt(loaded: LoadedNetwork) -> None:
    """Reject weights that change more than weights (heads, transforms, sizes): their artifacts could not be loaded.

    Raises:
        NetworkError: the network that is built from the specification differs.
    """
    noise = torch.rand(2, *loaded.spec.image_shape, generator=torch.Generator().manual_seed(0))
    try:
        again = build_network(loaded.spec)
        again.load_state_dict(loaded.network.state_dict(), strict=True)
        with torch.inference_mode():
            same = torch.allclose(again(noise), loaded.network(noise), rtol=1e-3, atol=1e-3)
    except RuntimeError as exc:
        raise NetworkError(
            f"{loaded.reference}: these weights are for a variant that its constructor does not build by "
            f"name ({exc}); write a function that builds it into a file, and pass PATH.py:CALLABLE"
        ) from exc
    if not same:
        raise NetworkError(
            f"{loaded.reference}: the network that is built by name computes other logits with these weights; write a "
            "function that builds the variant into a file, and pass PATH.py:CALLABLE"
        )


def _file_network(request: _Request) -> LoadedNetwork:
    reference = request.reference
    match = re.fullmatch(r"(?P<path>.+?\.py):(?P<callable>[A-Za-z_]\w*)(:(?P<weights>.+))?", reference)
    if match is None:
        raise InputError(f"expected PATH.py:CALLABLE or PATH.py:CALLABLE:WEIGHTS, got {reference!r}")
    path, weights = Path(match["path"]), match["weights"]
    if not path.is_file():
        raise InputError(f"expected an existing Python file, got {path}")
    if weights and Path(weights).is_dir():
        loaded = load_checkpoint(Path(weights), network_file=f"{path}:{match['callable']}")
        return with_shape(replace(loaded, reference=reference), request.image_shape)
    user = load_user_file(path)
    function = user.function(match["callable"])
    parameter = inspect.signature(function).parameters.get("num_classes")
    if parameter is not None and not request.exact_classes and _suffices(parameter.default, request.num_classes):
        request = replace(request, num_classes=None)
    network, arguments, notes = _constructed(request, function, weights, any_classes=parameter is not None)
    mean, std = request.mean or (0.0,) * 3, request.std or (1.0,) * 3
    shape = request.image_shape or (3, 32, 32)
    spec = NetworkSpec("file", match["callable"], arguments, 0, shape, mean, std, source_sha256=user.sha256)
    loaded = checked(Normalized(network, mean, std), spec, reference)
    # After the forward pass, in which modules may be imported as well.
    return replace(loaded, spec=replace(loaded.spec, source_files=user.imported()), notes=(*notes, *loaded.notes))


def _suffices(default: object, num_classes: int | None) -> bool:
    """Whether a function's default number of classes includes `num_classes`."""
    return isinstance(default, int) and num_classes is not None and default >= num_classes
