"""What is needed to build a network again, as JSON: written into checkpoints and artifacts, checked when it is read."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.errors import InputError

__all__ = ["NetworkSpec"]


@dataclass(frozen=True)
class NetworkSpec:
    """What is needed to build a network again; the weights come from elsewhere.

    Args:
        source: "plumbline" (a name in `models/networks`), "torchvision", or "file" (a callable in a user's file).
        name: the network's name there; for a file, the callable's.
        arguments: keyword arguments of the constructor.
        num_classes: K, the number of logits.
        image_shape: (3, H, W) in pixels.
        mean, std: normalisation per channel, in units of pixels in [0, 1].
        source_sha256: of the user's file; None for the other sources.
    """

    source: Literal["plumbline", "torchvision", "file"]
    name: str
    arguments: dict[str, int]
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields, for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> "NetworkSpec":
        """The specification that `to_json` described, every field checked.

        Raises:
            InputError: a field is missing, unknown, or of another type or range than expected.
        """
        expected = set(cls.__dataclass_fields__)
        if not isinstance(fields, dict) or set(fields) != expected:
            raise InputError(f"expected a network specification with {sorted(expected)}, got {fields!r}")
        if fields["source"] not in ("plumbline", "torchvision", "file"):
            raise InputError(f"expected the source plumbline, torchvision or file, got {fields['source']!r}")
        if not isinstance(fields["name"], str) or not fields["name"].isidentifier():
            raise InputError(f"expected an identifier as the network's name, got {fields['name']!r}")
        arguments, shape = fields["arguments"], fields["image_shape"]
        if not isinstance(arguments, dict) or not all(k.isidentifier() and _is_count(v) for k, v in arguments.items()):
            raise InputError(f"expected whole numbers as the network's arguments, got {arguments!r}")
        if not _is_count(fields["num_classes"]):
            raise InputError(f"expected a positive number of classes, got {fields['num_classes']!r}")
        if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(map(_is_count, shape)) or shape[0] != 3:
            raise InputError(f"expected an image shape (3, H, W), got {shape!r}")
        digest = fields["source_sha256"]
        if (fields["source"] == "file") != (isinstance(digest, str) and bool(re.fullmatch("[0-9a-f]{64}", digest))):
            raise InputError(f"expected a SHA-256 for a network from a file and for no other, got {digest!r}")
        numbers = {name: _float_tuple(name, fields[name]) for name in ("mean", "std")}
        return cls(**{**fields, **numbers, "image_shape": tuple(shape)})


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000


def _float_tuple(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(v, float | int) for v in values) or len(values) != 3:
        raise InputError(f"expected three numbers as {name}, got {values!r}")
    return tuple(float(value) for value in values)
