"""Decodings of every block's output on real images → decodings.json, the picture → docs/images.

`python -m benchmarks.geometry.decodings --dataset npz:FILE`. The objective is that of MNIST (appendix F.2) unless
another is given; every option of `plumbline geometry decodings` is taken.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.common import RESULTS, write_result
from models.files import write_atomically
from service.geometry.decodings import add_arguments, study
from service.geometry.png import as_png

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def main() -> None:
    """Run it and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    for action in parser._actions:
        if action.dest == "out":
            action.required, action.default = False, RESULTS
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found, pictures = study(options, progress=True)
    print(write_result("decodings", found, options.out / "decodings.json"))
    if options.out == RESULTS:
        for name, picture in pictures.items():
            write_atomically(IMAGES / f"decodings-{name}.png", as_png(picture))


if __name__ == "__main__":
    main()
