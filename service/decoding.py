"""Where `models.decoding` used to be."""

from models.decoding import DEFAULT_LIMITS, FORMATS, Limits, decode_image, open_rgb

__all__ = ["DEFAULT_LIMITS", "FORMATS", "Limits", "decode_image", "open_rgb"]
