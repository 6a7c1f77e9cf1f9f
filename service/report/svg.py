"""A matplotlib figure as an SVG element that sits in an HTML page and follows the page's colours."""

import io
import re
from html import escape
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from service.report.palette import COLOURS

__all__ = ["inline_svg"]

_VARIABLES = {colour.light: f"var(--{name})" for name, colour in COLOURS.items()}
_DROPPED = {"metadata", "style"}  # both would speak for the whole page, or name other sites
_HEX = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(figure: Figure, *, prefix: str, alt: str) -> str:
    """An ``<svg>`` element: no fixed size, no namespaces, ids that start with `prefix`, CSS variables for colours.

    Args:
        prefix: letters and digits; each figure of a page has its own.
        alt: what a reader who does not see the figure is told.
    """
    buffer = io.BytesIO()
    # Text stays text, which is small and can be read out; the salt makes equal figures equal, byte by byte.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plumbline"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root, prefix)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    content = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    box = escape(root.attrib["viewBox"])
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{escape(alt)}">{content}</svg>'


def _strip(element: ElementTree.Element, prefix: str) -> None:
    """Takes namespaces off names, marks ids, and replaces colours, all the way down."""
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
