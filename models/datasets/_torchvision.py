"""What the torchvision data sets have in common: one call, clear errors, arrays out."""

from collections.abc import Callable
from typing import Any

from models.datasets.base import DatasetRequest
from models.errors import DatasetError

__all__ = ["fetch"]


def fetch(name: str, constructor: Callable[..., Any], request: DatasetRequest, **options: object) -> Any:
    """The torchvision data set, from `request.root`, downloaded there when `request.download`.

    Raises:
        DatasetError: it is not there, is damaged, or could not be downloaded.
    """
    if request.argument:
        raise DatasetError(f"expected the data set {name!r} without an argument, got '{name}:{request.argument}'")
    try:
        return constructor(root=str(request.root), download=request.download, **options)
    except (RuntimeError, OSError, ValueError) as exc:
        cure = "check the connection" if request.download else "pass --download to fetch it, or --data-root DIR"
        raise DatasetError(f"expected {name} under {request.root}, could not load it ({exc}); {cure}") from exc
