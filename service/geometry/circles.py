"""`plumbline geometry circles`: the two-dimensional study of the thesis → report.json, report.html and pictures."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.options import check_count
from service.geometry.circles_drawings import draw_clouds, draw_every_block, draw_transports
from service.geometry.circles_page import as_page
from service.geometry.circles_paths import outlier_figures, transport_figures, walk
from service.geometry.circles_tables import CASES, SOURCE, WIDTH, run_case
from service.geometry.writing import write_files
from service.jsonable import as_json
from service.provenance import provenance

__all__ = ["add_arguments", "run", "study"]


def add_arguments(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder of report.json and .html")
    parser.add_argument("--instances", type=int, default=20, metavar="N", help="of data and weights (default: 20)")
    parser.add_argument("--epochs", type=int, default=100, metavar="E", help="default: 100")
    parser.add_argument(
        "--tables", type=_tables, default=tuple(CASES), metavar="T,T", help="of the thesis (default: 19,20,21,22)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.set_defaults(resumes=False)


def _tables(text: str) -> tuple[int, ...]:
    chosen = tuple(dict.fromkeys(text.split(",")))
    if not set(chosen) <= {str(number) for number in CASES}:
        raise ArgumentTypeError(f"expected some of {', '.join(map(str, CASES))}, with commas; got {text!r}")
    return tuple(map(int, chosen))


def run(options: Namespace) -> None:
    """Train, measure and draw, then write `options.out`: report.json, report.html and a PNG file of each picture.

    Raises:
        InputError: a count below its least, or a folder that cannot be written to.
    """
    found, pictures = study(
        tables=options.tables, instances=options.instances, epochs=options.epochs, seed=options.seed, progress=True
    )
    write_files(options.out, found, as_page(found, pictures), pictures)
    print(options.out / "report.html")


def study(
    *, tables: Sequence[int], instances: int, epochs: int, seed: int, progress: bool = False
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """The whole study: what was found, as strict JSON values, and the pictures by name.

    Raises:
        InputError: fewer than two instances, which have no interval, less than one epoch, or a negative seed.
    """
    check_count("instances", instances, least=2)
    check_count("epochs", epochs)
    check_count("seed", seed, least=0, most=2**31 - 1 - instances)
    cases = [run_case(table, instances=instances, epochs=epochs, seed=seed, progress=progress) for table in tables]
    paths = walk(instances=instances, epochs=epochs, seed=seed, progress=progress)
    transports = {name: transport_figures(paths[name]) for name in ("plain", "multipliers")}
    found = {
        "n": instances,
        "seed": seed,
        "epochs": epochs,
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
    plain, _ = as_json(found, "the study")
    return plain, pictures
