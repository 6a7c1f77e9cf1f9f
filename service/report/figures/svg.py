"""A matplotlib figure as an inline SVG element with the page's colours, or as a PNG file."""

import io
import re
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from service.report.html.palette import COLOURS

__all__ = ["as_png", "inline_svg"]

_VARIABLES = {colour.light: f"var(--{name})" for name, colour in COLOURS.items()}
_DROPPED = {"metadata", "style"}  # they would apply to the whole page, or link to other sites
_HEX = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(figure: Figure, *, prefix: str, alt: str) -> Markup:
    """An ``<svg>`` element: no fixed size, no namespaces, ids that start with `prefix`, CSS variables for colours.

    Args:
        figure: to draw.
        prefix: letters and digits; each figure of a page has its own.
        alt: text alternative for screen readers.
    """
    buffer = io.BytesIO()
    # Text is not converted to outlines, for size and screen readers; the salt makes equal figures equal byte by byte.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plumbline"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root, prefix)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    content = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    start = Markup('<svg class="plot" viewBox="{}" role="img" aria-label="{}">').format(root.attrib["viewBox"], alt)
    return start + Markup(content) + Markup("</svg>")  # ElementTree has escaped the content


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file without date or versions: equal figures give equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _strip(element: ElementTree.Element, prefix: str) -> None:
    """Remove namespaces from names, prefix ids and replace colours, recursively."""
    element.tag = _local(element.tag)
    element.text, element.tail = (part if part and part.strip() else None for part in (element.text, element.tail))
    element.attrib = {_local(name): _rewritten(_local(name), value, prefix) for name, value in element.attrib.items()}
    for child in list(element):
        if _local(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _strip(child, prefix)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _rewritten(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href" and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    value = _REFERENCE.sub(lambda match: f"url(#{prefix}-{match[1]})", value)
    return _HEX.sub(lambda match: _VARIABLES.get(match[0], match[0]), value) if name in ("style", "fill") else value
