"""The page of decoded blocks."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from service.formatting import percent
from service.report.figures.svg import inline_svg
from service.report.html.elements import Drawing, Row, Section, Table, name_cell
from service.report.html.rendering import render

__all__ = ["decodings_page"]

_CAPTIONS = {
    "decodings": "Held-out images, the autoencoder's reconstruction (ae), and the decoded output of each block "
    "(b1, b2, …).",
    "changes": "Distance of decodings and embeddings to those of the autoencoder, block by block: means over all "
    "held-out images.",
}
_HEADERS = ("objective", "accuracy", "transport cost", "change of decodings", "change of embeddings")


def decodings_page(report: dict[str, Any], pictures: Mapping[str, Figure]) -> str:
    """The report as one HTML page: no script, nothing from other sites.

    Args:
        report: JSON values of the experiment.
        pictures: by name, "decodings" and "changes".
    """
    rows = [
        Row(
            [
                name_cell(each["objective"]),
                percent(each["accuracy"]),
                f"{each['transport_cost']:.3g}",
                *(f"{each[key][-1]:.3g}" for key in ("decoding_distance", "embedding_distance")),
            ]
        )
        for each in report["networks"]
    ]
    drawings = [
        Drawing(inline_svg(picture, prefix=name, alt=_CAPTIONS[name]), _CAPTIONS[name])
        for name, picture in pictures.items()
    ]
    networks = {"table": Table("networks", _HEADERS, rows), "report": report}
    provenance = {"entries": {key: value for key, value in report.items() if key != "networks"}, "page": ""}
    return render(
        "geometry/decodings.html.jinja",
        title="decodings",
        question="How does each block change an image?",
        dataset=report["dataset"],
        sections=[
            Section("networks", "Networks", "geometry/decodings-networks.html.jinja", networks),
            Section("pictures", "Decodings", "drawings.html.jinja", {"drawings": drawings, "wide": True}),
            Section("provenance", "Provenance", "provenance.html.jinja", provenance),
        ],
    )
