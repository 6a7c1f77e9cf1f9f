"""Train on the two-dimensional data set at full size: tables 19 to 22, paths and outliers.

    python -m benchmarks geometry.circles [--instances 20]
    python -m benchmarks geometry.circles --moons

The figures go to benchmarks/results/circles.json, the pictures to docs/images. No data is needed. With --moons, the
points are two moons, and only the tables are made, for benchmarks/results/moons.json.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, write_result
from models.files import write_atomically
from service.geometry.circles.cases import CASES, WIDTH, run_case
from service.geometry.circles.experiment import run_circles
from service.report.figures.svg import as_png
from service.requests.geometry import CirclesRequest

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def moons(instances: int, epochs: int, seed: int, tables: Sequence[int] = tuple(CASES)) -> dict[str, Any]:
    """The tables on two moons, as JSON values.

    Args:
        instances: of data and weights.
        epochs: of training.
        seed: of the first instance.
        tables: numbers of the thesis's tables.
    """
    cases = [run_case(n, instances=instances, epochs=epochs, seed=seed, moons=True, progress=True) for n in tables]
    return {"n": instances, "seed": seed, "epochs": epochs, "width": WIDTH, "tables": cases}


def main() -> None:
    """Train and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results; no pictures")
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--moons", action="store_true", help="two moons instead of two circles; tables only")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.moons:
        print(write_result("moons", moons(options.instances, options.epochs, options.seed), options.out))
        return
    request = CirclesRequest(out=RESULTS, instances=options.instances, epochs=options.epochs, seed=options.seed)
    found, pictures = run_circles(request, progress=True)
    print(write_result("circles", found, options.out))
    if options.out is None:
        for name, picture in pictures.items():
            write_atomically(IMAGES / f"circles-{name}.png", as_png(picture))


if __name__ == "__main__":
    main()
