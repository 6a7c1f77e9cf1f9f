"""The decoding policy: how image files become pixels, as JSON values in an artifact.

Images to fit on and images to score must be decoded in the same way, so an artifact with another policy is refused. Any
change of `POLICY` makes earlier artifacts unusable. Limits on size do not change pixels, so they are an option of each
command instead.
"""

from typing import Any

from models.errors import InputError

__all__ = ["ALPHA_ON", "FORMATS", "MAX_PIXELS", "POLICY", "require_policy"]

FORMATS = ("JPEG", "PNG", "WEBP")
ALPHA_ON = (255, 255, 255)
MAX_PIXELS = 65_000_000  # the default limit: photos of 64-megapixel sensors have 64.1 million

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
    """Check that `fields` are equal to `POLICY`.

    Raises:
        InputError: they are another policy, or have another structure.
    """
    if not isinstance(fields, dict) or set(fields) != set(POLICY):
        raise InputError(f"expected a decoding policy with the fields {sorted(POLICY)}, got {fields!r:.200}")
    for name, value in POLICY.items():
        # 1, 1.0 and true are equal in Python, but not in JSON.
        if repr(fields[name]) != repr(value):
            raise InputError(
                f"expected images to be decoded with {name} {value!r}, as this version of Plumbline does, got "
                f"{fields[name]!r:.200}; use the version that wrote the artifact, or fit again"
            )
