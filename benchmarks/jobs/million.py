"""Calculation, not a measurement: hours and cost of PGD-20 on a million photos with ResNet-50, by number of GPUs.

Every input is an option and is part of the result. The attack computes 20 gradients. Each is a forward pass and a
backward pass to the image, which costs as much as a forward pass. Two further forward passes predict the classes. There
are two layouts:

    one sender    one process decodes all photos, then sends them to the GPUs (runner ray)
    own files     each GPU has a process of its own with a file of the photos, which it decodes first (a job array)

After decoding, three steps overlap, and the slowest is the bottleneck: all GPUs attack, the sender sends 8 bits per
value, and all GPUs write 32 bits per value to one shared folder. The time of one shard is added, because the last shard
cannot be divided among GPUs, and the time in which a process starts and loads its network.
"""

import argparse
from typing import Any

from benchmarks.common import write_result

FORWARDS = 20 * 2 + 2
GPUS = (8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--values", type=int, default=3 * 224 * 224, help="of an image (default: %(default)s)")
    parser.add_argument("--shard-size", type=int, default=256, help="images (default: %(default)s)")
    parser.add_argument("--gflop", type=float, default=8.2, help="of a forward pass (default: %(default)s)")
    parser.add_argument("--tflops", type=float, default=20.0, help="that a GPU reaches in float32 (default: 20)")
    parser.add_argument("--price", type=float, default=2.5, help="of a GPU per hour, in dollars (default: %(default)s)")
    parser.add_argument("--decoded", type=float, default=800.0, help="photos per second and process (default: 800)")
    parser.add_argument("--gbit", type=float, default=10.0, help="per second, of the sender (default: %(default)s)")
    parser.add_argument("--storage", type=float, default=2.0, help="GB per second that the folder takes (default: 2)")
    parser.add_argument("--start-s", type=float, default=60.0, help="of a process (default: %(default)s)")
    options = parser.parse_args()
    rows = [estimate(gpus, options) for gpus in GPUS]
    traffic = {
        "sent_gb": options.images * options.values / 1e9,
        "written_gb": 4 * options.images * options.values / 1e9,
    }
    payload = {"n": options.images, "seed": 0, "inputs": vars(options), "traffic": traffic, "rows": rows}
    print(write_result("million_images", payload))


def estimate(gpus: int, inputs: argparse.Namespace) -> dict[str, Any]:
    """Minutes of each step, and minutes, cost and bottleneck of both layouts, for this number of GPUs."""
    image_s = FORWARDS * inputs.gflop / (1000 * inputs.tflops)  # of one GPU
    gigabytes = inputs.images * inputs.values / 1e9
    steps = {
        "attack": inputs.images * image_s / gpus / 60,
        "write": 4 * gigabytes / inputs.storage / 60,
        "send": 8 * gigabytes / inputs.gbit / 60,
    }
    rest = (inputs.shard_size * image_s + inputs.start_s) / 60
    decode = inputs.images / inputs.decoded / 60
    layouts = {}
    for name, decoding, overlapping in (
        ("one_sender", decode, steps),
        ("own_files", decode / gpus, {step: steps[step] for step in ("attack", "write")}),
    ):
        whole = decoding + max(overlapping.values()) + rest
        longest = {"decode": decoding, **overlapping}
        layouts[name] = {
            "decode": decoding, "minutes": whole, "dollars": whole / 60 * gpus * inputs.price,
            "bottleneck": max(longest, key=lambda step: longest[step]),
        }  # fmt: skip
    return {"gpus": gpus, "minutes": steps, **layouts}


if __name__ == "__main__":
    main()
