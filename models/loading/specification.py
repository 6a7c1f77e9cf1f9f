"""The specification of a network, as JSON in checkpoints and artifacts; every field is checked when it is read."""

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from models.errors import InputError
from models.loading.network_options import NETWORK_OPTIONS, Argument, check_network_option
from models.loading.transformers_models import check_configuration

__all__ = ["NetworkSpec"]

# The only constructor arguments that are ever written. Torchvision's constructors have others, some of which start a
# download or fill the memory.
_ARGUMENTS = frozenset({"num_classes"})
_OPTIONAL: dict[str, Any] = {
    "stop": None,
    "grey": False,
    "source_files": None,
    "configuration": {},
}  # with their defaults
_MAX_CLASSES = 1_000_000
_MAX_SIDE = 4096
_MAX_BOUNDARIES = 100_000
_MAX_FILES = 10_000


@dataclass(frozen=True)
class NetworkSpec:
    """How to build a network, without its weights.

    Args:
        source: "plumbline" (a name in `models/networks`), "torchvision", "timm", "hf" (an image classifier of the
            package transformers), or "file" (a callable in a user's file).
        name: the network's name there; for a file, the callable's; for "hf", the model_type.
        arguments: keyword arguments of the constructor: num_classes and, for our own networks, `NETWORK_OPTIONS`.
        num_classes: K, the number of logits.
        image_shape: (3, H, W) in pixels.
        mean, std: normalisation per channel, in units of pixels in [0, 1].
        source_sha256: of the user's file; None for the other sources.
        configuration: of a network of source "hf", as `check_configuration` accepts it.
        source_files: SHA-256 of the user's other files that the file imports, by path relative to the file's folder;
            None if they were not recorded, as in earlier artifacts.
        stop: the number of the boundary (`models.splitting`) after which an auxiliary classifier replaces the rest of
            the network; None for whole networks.
        grey: the network takes one channel (`models.normalization.Normalized`).
    """

    source: Literal["plumbline", "torchvision", "timm", "hf", "file"]
    name: str
    arguments: dict[str, Argument]
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_sha256: str | None = None
    stop: int | None = None
    grey: bool = False
    source_files: dict[str, str] | None = None
    configuration: dict[str, Any] = field(default_factory=dict)

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
        if fields["source"] not in get_args(cls.__annotations__["source"]):
            raise InputError(f"expected a known source of a network, got {fields['source']!r:.200}")
        if not isinstance(fields["name"], str) or not fields["name"].replace("-", "_").isidentifier():
            raise InputError(f"expected an identifier as the network's name, got {fields['name']!r:.200}")
        configuration = fields.get("configuration", {})
        if fields["source"] == "hf":
            check_configuration(configuration)
        if configuration != {} and (fields["source"] != "hf" or configuration["model_type"] != fields["name"]):
            raise InputError(f"expected the configuration of the network {fields['name']}, got {configuration!r:.200}")
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
        if (fields["source"] == "file") != (_is_sha256(digest)):
            raise InputError(f"expected a SHA-256 for a network from a file and for no other, got {digest!r}")
        files = fields.get("source_files")
        if files is not None and (not isinstance(files, dict) or len(files) > _MAX_FILES or digest is None):
            raise InputError(f"expected at most {_MAX_FILES} files that a user's file imports, got {files!r:.200}")
        for name, sha256 in (files or {}).items():
            if not _is_python_file(name) or not _is_sha256(sha256):
                raise InputError(
                    f"expected the SHA-256 of a Python file by its path, got {name!r:.200}: {sha256!r:.200}"
                )
        stop = fields.get("stop")
        if stop is not None and not (_is_count(stop, _MAX_BOUNDARIES) or (stop == 0 and type(stop) is int)):
            raise InputError(f"expected the number of a boundary as stop, or none at all, got {stop!r:.200}")
        if not isinstance(fields.get("grey", False), bool):
            raise InputError(f"expected grey as true or false, got {fields['grey']!r:.200}")
        numbers = {name: _float_tuple(name, fields[name]) for name in ("mean", "std")}
        if min(numbers["std"]) <= 0:
            raise InputError(f"expected positive numbers as std, got {numbers['std']!r}")
        return cls(**{**fields, **numbers, "image_shape": tuple(shape)})


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_python_file(name: Any) -> bool:
    """Whether `name` is a relative path with forward slashes, with ".." at its beginning only."""
    if not isinstance(name, str) or len(name) > 1000 or not name.endswith(".py") or "\0" in name:
        return False
    parts = name.split("/")
    return all(part not in ("", ".") for part in parts) and ".." not in parts[parts.count("..") :]


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
