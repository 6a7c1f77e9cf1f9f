"""The words of `plumbline geometry` and its experiments as requests."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from service.requests.geometry import TABLES, CirclesRequest, DecodingsRequest, GeometryRequest

__all__ = ["add_circles", "add_decodings", "run_circles", "run_decodings", "run_geometry"]


def add_circles(parser: ArgumentParser) -> None:
    """The options of `plumbline geometry circles`."""
    parser.add_argument("--tables", type=_tables, metavar="T,T", default=TABLES, help="of the thesis")
    _add(parser, CirclesRequest, {"instances", "epochs", "seed"})


def add_decodings(parser: ArgumentParser) -> None:
    """The options of `plumbline geometry decodings`."""
    parser.add_argument("--download", action="store_true")
    _add(parser, DecodingsRequest, {each.name for each in fields(DecodingsRequest)} - {"out", "download"})


def _add(parser: ArgumentParser, request: Any, names: set[str]) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder of report.json and .html")
    for each in fields(request):
        if each.name in names:
            kind = int if each.default is None else type(each.default)
            parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default)
    parser.set_defaults(resumes=False)


def _tables(text: str) -> tuple[int, ...]:
    chosen = text.split(",")
    if not set(chosen) <= {str(number) for number in TABLES}:
        raise ArgumentTypeError(f"expected some of {', '.join(map(str, TABLES))}, with commas; got {text!r}")
    return tuple(map(int, chosen))


def _request(kind: Any, options: Namespace, **given: Any) -> Any:
    values = {each.name: getattr(options, each.name, each.default) for each in fields(kind)} | given
    return kind(**{name: value for name, value in values.items() if value is not MISSING})


def run_geometry(options: Namespace) -> None:
    """Measure networks."""
    from service.jobs.geometry import write_geometry

    print(write_geometry(_request(GeometryRequest, options, networks=tuple(options.network))).summary())


def run_circles(options: Namespace) -> None:
    """Run the two-dimensional experiment."""
    from service.geometry.circles.experiment import write_circles

    print(write_circles(_request(CirclesRequest, options)))


def run_decodings(options: Namespace) -> None:
    """Decode blocks."""
    from service.geometry.decodings.experiment import write_decodings

    print(write_decodings(_request(DecodingsRequest, options)))
