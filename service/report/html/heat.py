"""Colours of a heat map's cells, in hues that colour-blind readers can distinguish.

Steps run from 0 (orange) over 10 (the page's ground) to 20 (blue); `.h0` to `.h20` in the style sheet. An area under a
curve uses all steps, with 0.5 (guessing) as the ground; a share uses the upper half. Every cell also prints its number.
"""

from typing import NamedTuple

__all__ = ["Shade", "area_step", "shades", "share_step"]

_STEPS = 20
_MIDDLE = 10
# Ground, end for the best, end for the worst.
_LIGHT = ((255, 255, 255), (11, 107, 179), (190, 80, 12))
_DARK = ((28, 32, 38), (98, 180, 244), (240, 140, 75))


class Shade(NamedTuple):
    """A ground and the text on it, #rrggbb each."""

    ground: str
    text: str


def area_step(value: float) -> int:
    """The step of an area under a curve."""
    return round(_STEPS * min(1.0, max(0.0, value)))


def share_step(value: float) -> int:
    """The step of a share of images, where more is better."""
    return _MIDDLE + round((_STEPS - _MIDDLE) * min(1.0, max(0.0, value)))


def shades(dark: bool) -> list[Shade]:
    """One shade per step; the contrast of text and ground is at least 4.5."""
    ground, best, worst = _DARK if dark else _LIGHT
    result = []
    for step in range(_STEPS + 1):
        share = abs(step - _MIDDLE) / _MIDDLE
        end = best if step >= _MIDDLE else worst
        mixed = [round(low + share * (high - low)) for low, high in zip(ground, end, strict=True)]
        result.append(Shade(_hex(mixed), "#000000" if _luminance(mixed) > 0.179 else "#ffffff"))
    return result


def _hex(colour: list[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _luminance(colour: list[int]) -> float:
    """Relative luminance (WCAG 2); black and white text have equal contrast at 0.179."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
