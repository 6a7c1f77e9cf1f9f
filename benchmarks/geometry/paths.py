"""The geometry of networks' paths on natural images, side by side: the example of docs/geometry.md.

    python -m benchmarks.geometry.paths --dataset npz:cifar10-test.npz --network pretrained:cifar10-resnet20

Give --network several times to compare. Writes benchmarks/results/geometry.json (the figures of `plumbline geometry`,
in five digits), the table of docs/geometry.md and, from the same run, docs/images/geometry-*.png.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.common import write_result
from models.datasets.base import DatasetRequest, load_dataset
from models.files import write_atomically
from models.loading.references import load_network
from service.geometry.drawing import draw_costs, draw_overview, draw_paths
from service.geometry.measuring import Measured
from service.geometry.overview import as_table
from service.geometry.settings import Disturbance, GeometrySettings
from service.geometry.writing import SCHEMA
from service.jobs.geometry import measure_all
from service.jsonable import as_json

__all__ = ["PAGE", "with_table"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "geometry.md"
IMAGES = ROOT / "docs" / "images"
START, END = "<!-- table: benchmarks/geometry.py -->\n", "<!-- end of the table -->"


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
    parser.add_argument("--out", type=Path, help="write the JSON here, and neither page nor pictures")
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
    measured, facts = measure_all(networks, data, settings)
    told, _ = as_json({"schema": SCHEMA, **facts, "networks": [each.figures for each in measured]})
    payload = {"n": len(data), "seed": options.seed, **_rounded(told)}
    payload.pop("provenance")  # write_result has it
    print(as_table(payload["networks"]))
    print(write_result("geometry", payload, options.out))
    if options.out is None:
        write_atomically(PAGE, with_table(PAGE.read_text(encoding="utf-8"), payload["networks"]).encode())
        _save_pictures(measured)


def with_table(text: str, networks: list[dict[str, Any]]) -> str:
    """The page with the table of these networks between its two marks."""
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    assert end, f"expected {START.strip()} and {END} in the page"
    return f"{before}{START}```\n{as_table(networks)}\n```\n{END}{after}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return {key: _rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


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
