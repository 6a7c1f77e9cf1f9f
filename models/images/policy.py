"""How files become pixels, as a statement: an artifact carries it, and is refused where another one holds.

What a detector was fitted on and what it is served must have become pixels in the same way. Any change of `POLICY`
therefore makes artifacts written before it unusable. Limits of size do not change what an image means, so they are
settings of the server and not here.
"""

from typing import Any

from models.errors import InputError

__all__ = ["ALPHA_ON", "FORMATS", "POLICY", "require_policy"]

FORMATS = ("JPEG", "PNG", "WEBP")
ALPHA_ON = (255, 255, 255)

POLICY: dict[str, Any] = {
    "formats": list(FORMATS),
    "frames": 1,
    "bits_per_channel": 8,
    "truncated": "refused",
    "alpha_on": list(ALPHA_ON),
    "orientation": "exif",
    "cmyk": "(255 - C)(255 - K) / 255",
    "colour_profiles": "ignored",
}


def require_policy(fields: Any) -> None:
    """Check that `fields` state the policy that is in force here.

    Raises:
        InputError: they state another one, or none that can be read.
    """
    if not isinstance(fields, dict) or set(fields) != set(POLICY):
        raise InputError(f"expected a decoding policy with the fields {sorted(POLICY)}, got {fields!r:.200}")
    for name, value in POLICY.items():
        # 1 and 1.0 and true are equal in Python, and different statements in JSON.
        if repr(fields[name]) != repr(value):
            raise InputError(
                f"expected images to be decoded with {name} {value!r}, as this version of Plumbline does, got "
                f"{fields[name]!r:.200}; use the version that wrote the artifact, or fit again"
            )
