"""The specification of a network, as JSON in checkpoints and artifacts; every field is checked when it is read."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.errors import InputError
from models.loading.network_options import NETWORK_OPTIONS, Argument, check_network_option

__all__ = ["NetworkSpec"]

# The only constructor arguments that are ever written. Torchvision's constructors have others, some of which start a
# download or fill the memory.
_ARGUMENTS = frozenset({"num_classes"})
_OPTIONAL: dict[str, Any] = {"stop": None, "grey": False}  # with their defaults
_MAX_CLASSES = 1_000_000
_MAX_SIDE = 4096
_MAX_BOUNDARIES = 100_000


@dataclass(frozen=True)
class NetworkSpec:
    """How to build a network, without its weights.

    Args:
        source: "plumbline" (a name in `models/networks`), "torchvision", or "file" (a callable in a user's file).
        name: the network's name there; for a file, the callable's.
        arguments: keyword arguments of the constructor: num_classes and, for our own networks, `NETWORK_OPTIONS`.
        num_classes: K, the number of logits.
        image_shape: (3, H, W) in pixels.
        mean, std: normalisation per channel, in units of pixels in [0, 1].
        source_sha256: of the user's file; None for the other sources.
        stop: the number of the boundary (`models.splitting`) after which an auxiliary classifier replaces the rest of
            the network; None for whole networks.
        grey: the network takes one channel (`models.normalization.Normalized`).
    """

    source: Literal["plumbline", "torchvision", "file"]
    name: str
    arguments: dict[str, Argument]
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_sha256: str | None = None
    stop: int | None = None
    grey: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fields, for a manifest; those in `_OPTIONAL` only if they are not the default."""
        return {name: value for name, value in asdict(self).items() if value != _OPTIONAL.get(name, ...)}

    @classmethod
    def from_json(cls, fields: Any) -> "NetworkSpec":
        """The specification from the fields of `to_json`, every one of them checked.

        Raises:
            InputError: a field is missing, unknown, or outside its type or range.
        """
        expected = cls.__dataclass_fields__.keys() - _OPTIONAL.keys()
        if not isinstance(fields, dict) or fields.keys() - _OPTIONAL.keys() != expected:
            raise InputError(f"expected a network specification with {sorted(expected)}, got {fields!r}")
        if fields["source"] not in ("plumbline", "torchvision", "file"):
            raise InputError(f"expected the source plumbline, torchvision or file, got {fields['source']!r}")
        if not isinstance(fields["name"], str) or not fields["name"].isidentifier():
            raise InputError(f"expected an identifier as the network's name, got {fields['name']!r}")
        arguments, shape = fields["arguments"], fields["image_shape"]
        known = _ARGUMENTS | set(NETWORK_OPTIONS) if fields["source"] == "plumbline" else _ARGUMENTS
        if not isinstance(arguments, dict) or not set(arguments) <= known:
            raise InputError(f"expected only {sorted(known)} as the network's arguments, got {arguments!r:.200}")
        for option in set(arguments) - _ARGUMENTS:
            check_network_option(option, arguments[option])
        if not _is_count(fields["num_classes"], _MAX_CLASSES):
            raise InputError(f"expected a positive number of classes, got {fields['num_classes']!r:.200}")
        requested = arguments.get("num_classes", fields["num_classes"])
        if not _is_count(requested, _MAX_CLASSES) or requested != fields["num_classes"]:
            raise InputError(
                f"expected num_classes in the arguments to be {fields['num_classes']}, got {requested!r:.200}"
            )
        sides = shape if isinstance(shape, list | tuple) and all(_is_count(n, _MAX_SIDE) for n in shape) else ()
        if len(sides) != 3 or sides[0] != 3:
            raise InputError(f"expected an image shape (3, H, W) of at most {_MAX_SIDE} pixels, got {shape!r:.200}")
        digest = fields["source_sha256"]
        if (fields["source"] == "file") != (isinstance(digest, str) and bool(re.fullmatch("[0-9a-f]{64}", digest))):
            raise InputError(f"expected a SHA-256 for a network from a file and for no other, got {digest!r}")
        stop = fields.get("stop")
        if stop is not None and not (_is_count(stop, _MAX_BOUNDARIES) or (stop == 0 and type(stop) is int)):
            raise InputError(f"expected the number of a boundary as stop, or none at all, got {stop!r:.200}")
        if not isinstance(fields.get("grey", False), bool):
            raise InputError(f"expected grey as true or false, got {fields['grey']!r:.200}")
        numbers = {name: _float_tuple(name, fields[name]) for name in ("mean", "std")}
        if min(numbers["std"]) <= 0:
            raise InputError(f"expected positive numbers as std, got {numbers['std']!r}")
        return cls(**{**fields, **numbers, "image_shape": tuple(shape)})


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _float_tuple(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_finite, values)):
        raise InputError(f"expected three finite numbers as {name}, got {values!r:.200}")
    return tuple(float(value) for value in values)


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, float | int):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer larger than every float
        return False
