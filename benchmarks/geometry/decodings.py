"""Decode the output of every block on real images.

    python -m benchmarks geometry.decodings --dataset npz:FILE

The figures go to benchmarks/results/NAME.json, the pictures to docs/images. The default objective is that of MNIST
(appendix F.2); that of CIFAR-10 is least_action:initial_weight=10:increase=0.1:update_every=50.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.common import RESULTS, write_result
from models.files import write_atomically
from service.geometry.decodings.experiment import run_decodings
from service.report.figures.svg import as_png
from service.requests.geometry import DecodingsRequest

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def main() -> None:
    """Run the experiment and write its figures."""
    default = DecodingsRequest(out=RESULTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default.out, help="folder of the JSON; another one: no pictures")
    parser.add_argument("--name", default="decodings", help="of the files (default: %(default)s)")
    parser.add_argument("--dataset", default=default.dataset)
    parser.add_argument("--objective", default=default.objective)
    for name in ("limit", "epochs", "autoencoder_epochs", "batch_size", "channels", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    options = vars(parser.parse_args())
    torch.set_num_threads(options.pop("threads"))
    name = options.pop("name")
    request = DecodingsRequest(**options)
    report, pictures = run_decodings(request, progress=True)
    print(write_result(name, report, request.out / f"{name}.json"))
    if request.out == RESULTS:
        for kind, picture in pictures.items():
            write_atomically(IMAGES / f"{name}-{kind}.png", as_png(picture))


if __name__ == "__main__":
    main()
