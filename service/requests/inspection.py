"""The requests of `plumbline inspect`, `plumbline check` and `plumbline list`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from models.errors import InputError
from service.requests.options import Flag, LoadingOptions, NormalizationOptions, Seed

__all__ = ["CheckRequest", "InspectRequest", "ListRequest"]


def _size(_hint: Any, tokens: Sequence[Token]) -> tuple[int, int]:
    text = tokens[-1].value
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError as exc:
        raise ValueError(f"expected H or HxW in pixels, got {text!r}") from exc
    if min(size) < 1:
        raise ValueError(f"expected a positive size, got {text!r}")
    return size


ImageSize = Annotated[tuple[int, int], Parameter(converter=_size, n_tokens=1, negative=(), metavar="PX")]


@dataclass(frozen=True)
class InspectRequest:
    """List the residual branches of a network, and the candidates that are skipped.

    Args:
        network: RUN, pretrained:NAME, torchvision:NAME[:WEIGHTS], timm:NAME[:WEIGHTS], hf:FOLDER,
            PATH.py:CALLABLE[:WEIGHTS], or a name from `plumbline list networks`.
        normalization: of the network.
        blocks: names of the modules that are the blocks, such as "blocks.*".
        image_size: H[xW] in pixels [default: the network's own].
        json: print JSON.
    """

    network: str
    _: KW_ONLY
    normalization: NormalizationOptions = field(default_factory=NormalizationOptions)
    blocks: str | None = None
    image_size: ImageSize | None = None
    json: Flag = False


@dataclass(frozen=True)
class CheckRequest:
    """Check a network, and images for it, before anything expensive.

    Args:
        network: RUN, pretrained:NAME, torchvision:NAME[:WEIGHTS], timm:NAME[:WEIGHTS], hf:FOLDER,
            PATH.py:CALLABLE[:WEIGHTS], or a name from `plumbline list networks`.
        normalization: of the network.
        dataset: labelled images for it: a data set of `plumbline list datasets`, such as images:FOLDER [default:
            noise, without checks of images and accuracy].
        images: how they are loaded.
        image_size: H[xW] in pixels, without a data set [default: the network's own].
        device: cpu or cuda.
        seed: seed of the sample of images.
        json: print JSON.

    Raises:
        InputError: an option that has no effect with, or without, a data set.
    """

    network: str
    _: KW_ONLY
    normalization: NormalizationOptions = field(default_factory=NormalizationOptions)
    dataset: str | None = None
    images: LoadingOptions = field(default_factory=LoadingOptions)
    image_size: ImageSize | None = None
    device: str = "cpu"
    seed: Seed = 0
    json: Flag = False

    def __post_init__(self) -> None:
        if self.dataset is not None:
            if self.image_size is not None:
                raise InputError("--image-size has no effect beside --dataset; give --resize and --crop")
            return
        for option in ("download", "resize", "crop", "limit", "strict"):
            if getattr(self.images, option) not in (None, False):
                raise InputError(f"--{option} has no effect without --dataset; add it")


@dataclass(frozen=True)
class ListRequest:
    """List the networks, data sets, attacks, detectors, objectives and engines.

    Args:
        kind: list this kind only.
        json: print JSON: {kind: {name: summary}}.
    """

    kind: Literal["networks", "datasets", "attacks", "detectors", "objectives", "engines"] | None = None
    _: KW_ONLY
    json: Flag = False
