"""The requests of `plumbline inspect` and `plumbline list`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from service.requests.options import Flag

__all__ = ["InspectRequest", "ListRequest"]


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


@dataclass(frozen=True)
class InspectRequest:
    """List the residual branches of a network, and the candidates that are skipped.

    Args:
        network: RUN, pretrained:NAME, torchvision:NAME[:WEIGHTS], timm:NAME[:WEIGHTS], hf:FOLDER,
            PATH.py:CALLABLE[:WEIGHTS], or a name from `plumbline list networks`.
        image_size: H[xW] in pixels [default: the network's own].
        json: print JSON.
    """

    network: str
    _: KW_ONLY
    image_size: Annotated[tuple[int, int] | None, Parameter(converter=_size, n_tokens=1, negative=(), metavar="PX")] = (
        None
    )
    json: Flag = False


@dataclass(frozen=True)
class ListRequest:
    """List the networks, data sets, attacks, detectors and objectives.

    Args:
        kind: list this kind only.
        json: print JSON: {kind: {name: summary}}.
    """

    kind: Literal["networks", "datasets", "attacks", "detectors", "objectives"] | None = None
    _: KW_ONLY
    json: Flag = False
