"""Peak memory of `plumbline evaluate` on photos of 224×224 pixels, and its growth with their number.

    python -m benchmarks speed.evaluation_memory --photos imagenet.npz [--before CHECKOUT]

Part one evaluates EfficientNet-Lite0 under PGD, with the code of this checkout and, in turn, with that of an earlier
one. Part two evaluates a small network under FGM on folders of 200, 1,000 and 2,000 photos: its own cost is small, so
that a peak that grows shows images in memory. Photos beyond those of the file are shifted copies.

Every evaluation is a process with one thread. Its peak is the largest resident memory, and its time is the processor
time, which other processes of the machine disturb less than the elapsed time.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import arguments, write_result
from models.datasets.base import ImageDataset, load_dataset

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ROOT / "benchmarks" / "networks"


def measured(checkout: Path, options: list[str]) -> dict[str, float]:
    """Peak in MiB and processor seconds of an evaluation with the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "service.cli.main", "evaluate", "--out", f"{folder}/report", *options]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        command += ["--cache", f"{folder}/cache", "--resamples", "0", "--runs", "1"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
    return {"peak_mib": usage.ru_maxrss / 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def write_photos(folder: Path, data: ImageDataset, count: int) -> None:
    """`count` JPEG files in one folder per class of ten; shifted copies follow when the data set is used up."""
    for number in range(count):
        pixels = np.roll(data.images[number % len(data)], 8 * (number // len(data)), axis=2)
        path = folder / str(number % 10) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path)


def growth(data: ImageDataset, counts: list[int], attack: str) -> list[dict[str, Any]]:
    """Peaks by number of photos."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_photos(Path(folder), data, count)
            options = ["--network", f"{NETWORKS}/strided.py:strided", "--mean", "0.5", "--std", "0.25"]
            options += ["--dataset", f"images:{folder}", "--test-on", attack, "--detectors", "transport_cost"]
            rows.append({"photos": count, **measured(ROOT, options)})
            print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--photos", required=True, help="npz:FILE or images:FOLDER with photos of 224×224 pixels")
    parser.add_argument("--before", type=Path, help="checkout of earlier code to compare with")
    parser.add_argument("--images", type=int, default=100, help="photos of part one (default: %(default)s)")
    parser.add_argument("--attack", default="pgd:epsilon=2/255:steps=10", help="of part one (default: %(default)s)")
    parser.add_argument("--detector", default="transport_cost", help="of part one (default: %(default)s)")
    parser.add_argument("--counts", default="200,1000,2000", help="photos of part two (default: %(default)s)")
    options = parser.parse_args(argv)
    photos = load_dataset(options.photos)
    given = ["--network", f"{NETWORKS}/efficientnet_lite.py:lite0", "--mean", "0.498", "--std", "0.502"]
    given += ["--dataset", options.photos, "--limit", str(options.images), "--test-on", options.attack]
    given += ["--detectors", options.detector, "--split", "0.5,0.25,0.25"]
    checkouts = {"before": options.before, "now": ROOT}
    runs = {name: measured(path, given) for name, path in checkouts.items() if path is not None}
    print(runs, flush=True)
    payload = {
        "n": options.images, "seed": options.seed, "attack": options.attack, "detector": options.detector,
        "evaluations": runs, "growth": growth(photos, [int(count) for count in options.counts.split(",")], "fgm"),
    }  # fmt: skip
    print(write_result("evaluation_memory", payload, options.out))


if __name__ == "__main__":
    main()
