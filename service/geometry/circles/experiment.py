"""`plumbline geometry circles`: tables 19 to 22 of the thesis, paths and outliers of two circles of points."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from service.geometry.circles.cases import SOURCE, WIDTH, run_case
from service.geometry.circles.figures import draw_clouds, draw_every_block, draw_transports
from service.geometry.circles.page import circles_page
from service.geometry.circles.paths import outlier_figures, trained_paths, transport_figures
from service.geometry.files import write_report
from service.jsonable import as_json
from service.provenance import provenance
from service.requests.geometry import CirclesRequest

__all__ = ["run_circles", "write_circles"]


def write_circles(request: CirclesRequest, *, progress: bool = True) -> Path:
    """Run the experiment and write report.json, report.html and a PNG file of each picture; the path of the page.

    Raises:
        InputError: the folder is not writable.
    """
    report, pictures = run_circles(request, progress=progress)
    write_report(request.out, report, circles_page(report, pictures), pictures)
    return request.out / "report.html"


def run_circles(request: CirclesRequest, *, progress: bool = False) -> tuple[dict[str, Any], dict[str, Figure]]:
    """The figures of the whole experiment, as strict JSON values, and the pictures by name."""
    settings: dict[str, Any] = {"instances": request.instances, "epochs": request.epochs, "seed": request.seed}
    cases = [run_case(table, **settings, progress=progress) for table in dict.fromkeys(request.tables)]
    paths = trained_paths(**settings, progress=progress)
    transports = {name: transport_figures(paths[name]) for name in ("plain", "multipliers")}
    figures = {
        "n": request.instances,
        "seed": request.seed,
        "epochs": request.epochs,
        "width": WIDTH,
        "published": SOURCE,
        "tables": cases,
        "accuracy": {name: float(each.accuracy.mean()) for name, each in paths.items()},
        "transport": transports,
        "outliers": {name: list(outlier_figures(paths[name])) for name in ("plain", "fixed", "multipliers")},
        **provenance(),
    }
    pictures = {
        "figure-12": draw_clouds([paths[name] for name in ("plain", "large", "large-fixed")], (0, 1, 5, 9)),
        "figure-22": draw_clouds([paths[name] for name in ("plain", "multipliers")], (0, 6, 9), outliers=True),
        "figure-37": draw_transports([(paths[name].title, each) for name, each in transports.items()]),
        "figure-38": draw_every_block(paths["fixed"]),
        "figure-39": draw_every_block(paths["large-bare"]),
        "figure-40": draw_every_block(paths["large"]),
        "figure-41": draw_every_block(paths["large-fixed"]),
    }
    report, _ = as_json(figures, "circles")
    return report, pictures
