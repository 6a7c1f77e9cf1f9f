"""Measure the geometry of the paths of natural images through several networks: the example of docs/geometry.md.

    python -m benchmarks geometry.paths --dataset npz:cifar10-test.npz --network pretrained:cifar10-resnet20

Repeat --network to compare networks. The figures of `plumbline geometry` go to benchmarks/results/geometry.json, the
pictures to docs/images/geometry-*.png.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from benchmarks.common import write_result
from models.datasets.base import DatasetRequest, load_dataset
from models.loading import load_network
from service.geometry.networks.block_figures import draw_overview
from service.geometry.networks.figures import draw_costs, draw_paths
from service.geometry.networks.measuring import Measured
from service.geometry.networks.overview import as_table
from service.geometry.networks.page import SCHEMA
from service.geometry.networks.settings import Disturbance, GeometrySettings
from service.jobs.geometry import measure_all
from service.jsonable import as_json

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def main(argv: list[str] | None = None) -> None:
    """Measure the networks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="test images, such as npz:cifar10-test.npz")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--network", action="append", help="default: pretrained:cifar10-resnet20")
    parser.add_argument("--limit", type=int, default=1000, help="images (default: %(default)s)")
    parser.add_argument("--transport-images", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--out", type=Path, help="write the JSON here and no pictures")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_dataset(options.dataset, DatasetRequest(root=options.data_root)).limited(options.limit, options.seed)
    networks = [
        load_network(reference, num_classes=len(data.classes), image_shape=data.image_shape)
        for reference in options.network or ["pretrained:cifar10-resnet20"]
    ]
    settings = GeometrySettings(
        disturbances=(
            *(Disturbance("fgm", size) for size in (0.01, 0.03, 0.1)),
            *(Disturbance("noise", size) for size in (0.03, 0.1)),
        ),
        transport_images=options.transport_images, seed=options.seed, device=options.device,
    )  # fmt: skip
    measured, provenance = measure_all(networks, data, settings)
    figures, _ = as_json({"schema": SCHEMA, **provenance, "networks": [each.figures for each in measured]})
    figures.pop("provenance")  # write_result adds it
    payload = {"n": len(data), "seed": options.seed, **figures}
    print(as_table(payload["networks"]))
    print(write_result("geometry", payload, options.out))
    if options.out is None:
        _save_pictures(measured)


def _save_pictures(measured: list[Measured]) -> None:
    IMAGES.mkdir(exist_ok=True)
    draw_overview(measured).savefig(IMAGES / "geometry-blocks.png", dpi=110)
    for name, draw, beside in (("costs", draw_costs, True), ("paths", draw_paths, False)):
        parts = []
        for number, each in enumerate(measured):
            part = IMAGES / f".geometry-{name}-{number}.png"
            draw(each).savefig(part, dpi=110)
            with Image.open(part) as image:
                parts.append(image.convert("RGB"))
            part.unlink()
        widths, heights = [part.width for part in parts], [part.height for part in parts]
        size = (sum(widths), max(heights)) if beside else (max(widths), sum(heights))
        whole = Image.new("RGB", size, "white")
        for number, part in enumerate(parts):
            whole.paste(part, (sum(widths[:number]), 0) if beside else (0, sum(heights[:number])))
        whole.save(IMAGES / f"geometry-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
