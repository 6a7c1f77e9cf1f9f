"""A picture as a PNG file."""

import io

from matplotlib.figure import Figure

__all__ = ["as_png"]


def as_png(figure: Figure) -> bytes:
    """The picture without a date or versions in it, so that equal pictures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
