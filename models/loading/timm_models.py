"""Constructors of timm, and what timm states about its networks. The package is optional."""

import difflib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from models.errors import NetworkError, UnknownNameError
from models.extras import import_optional

__all__ = ["PRETRAINED_WEIGHTS", "TimmConfig", "pretrained_timm", "timm_classes", "timm_config", "timm_constructor"]

PRETRAINED_WEIGHTS = "pretrained"


@dataclass(frozen=True)
class TimmConfig:
    """How timm prepares images for a network.

    Args:
        image_shape: (3, H, W) in pixels.
        resize: pixels of the shorter side before the central crop to the image's shape.
        mean, std: normalisation per channel, in units of pixels in [0, 1].
    """

    image_shape: tuple[int, int, int]
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def timm_constructor(name: str) -> Callable[..., nn.Module]:
    """The constructor of an untrained timm classifier; `name` may end in ``.TAG``, which names weights.

    Raises:
        UnknownNameError: timm has no such network.
        MissingExtraError: timm is not installed.
    """
    timm = import_optional("timm")
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownNameError(f"expected a network of timm, got {name!r}{hint}")
    make: Callable[..., nn.Module] = functools.partial(timm.create_model, architecture, pretrained=False)
    return make


def timm_config(name: str) -> TimmConfig:
    """How timm prepares images for the network and the weights of its tag, or else of the default tag.

    Raises:
        UnknownNameError, MissingExtraError: see `timm_constructor`.
    """
    timm_constructor(name)
    timm = import_optional("timm")
    stated = timm.get_pretrained_cfg(name)
    config = timm.data.resolve_data_config(pretrained_cfg=stated.to_dict() if stated else {"input_size": (3, 224, 224)})
    channels, height, width = config["input_size"]
    resize = math.floor(min(height, width) / config["crop_pct"])
    return TimmConfig((channels, height, width), resize, tuple(config["mean"]), tuple(config["std"]))


def pretrained_timm(name: str) -> nn.Module:
    """The network with timm's own weights, which are downloaded unless they are in its cache.

    Raises:
        NetworkError: timm has no such weights, or they cannot be downloaded.
        UnknownNameError, MissingExtraError: see `timm_constructor`.
    """
    timm_constructor(name)
    try:
        network: nn.Module = import_optional("timm").create_model(name, pretrained=True)
    except Exception as exc:  # timm and the libraries that download raise many kinds
        raise NetworkError(
            f"timm:{name}: timm's weights could not be loaded ({type(exc).__name__}: {exc}); pass a weight file "
            f"instead: timm:{name}:FILE"
        ) from exc
    return network


def timm_classes(network: nn.Module) -> tuple[str, ...] | None:
    """Names of the classes of a network with timm's own weights; None if timm states none."""
    data = import_optional("timm").data
    subset = data.infer_imagenet_subset(network)
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    return tuple(str(info.index_to_description(index)) for index in range(info.num_classes()))
