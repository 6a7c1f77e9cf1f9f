"""How the time and the memory of taking statistics grow with depth, image size and the number of images.

Each case runs in a process of its own and reports the peak of the process's memory above what it held before the pass:
for the plain forward pass, with statistics, and with whole residues kept. Statistics should add the same few bytes at
any depth, kept residues an amount that grows with depth. Time is one pass with statistics over one without, in paired
rounds, and the duration per image.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.common import arguments, paired, write_result
from models.discovery import Discovery, discover
from models.features import extract_features
from models.networks.resnet import resnet8, resnet20, resnet32, resnet56, resnet110
from models.normalization import Normalized
from models.residues import record_residues

NETWORKS: dict[int, Callable[[], nn.Module]] = {
    8: resnet8,
    20: resnet20,
    32: resnet32,
    56: resnet56,
    110: resnet110,
}
SIZES = (16, 32, 64, 96)
COUNTS = (64, 256, 1024)
MEBIBYTE = 1024**2

Kind = Literal["plain", "statistics", "kept"]


def build(depth: int, seed: int, device: str) -> nn.Module:
    torch.manual_seed(seed)
    return Normalized(NETWORKS[depth](), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False).to(device)


def noise(count: int, size: int, seed: int, device: str) -> Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(device)


def forward(network: nn.Module, images: Tensor, discovery: Discovery, kind: Kind) -> None:
    with torch.inference_mode():
        if kind == "plain":
            network(images)
            return
        with record_residues(network, discovery, keep=kind == "kept") as recording:
            network(images)
        _ = recording.statistics


# --- memory, in a process of its own


def peak_memory(depth: int, size: int, batch: int, kind: Kind, seed: int, threads: int, device: str) -> int:
    """Bytes that one forward pass needs at its peak, above what is held before it."""
    torch.set_num_threads(threads)
    network = build(depth, seed, device)
    discovery = discover(network)
    images = noise(batch, size, seed, device)
    forward(network, images[:1], discovery, kind)  # what is set up once does not count
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        forward(network, images, discovery, kind)
        return torch.cuda.max_memory_allocated() - before
    # Linux: sets the high-water mark back to the present.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_status("VmHWM")
    forward(network, images, discovery, kind)
    return _memory_status("VmHWM") - before


def _memory_status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"expected {field} in /proc/self/status, as on Linux; run this benchmark on Linux, or with cuda")


def peaks(depth: int, size: int, batch: int, seed: int, device: str) -> dict[str, float]:
    """MiB at the peak of a plain pass, one with statistics and one with kept residues, each in a new process."""
    result = {}
    for kind in ("plain", "statistics", "kept"):
        case = [depth, size, batch, kind, seed, torch.get_num_threads(), device]
        command = [sys.executable, "-m", "benchmarks.scaling", "--measure", json.dumps(case)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        result[f"{kind}_MiB"] = round(int(answer.stdout.split()[-1]) / MEBIBYTE, 2)
    result["added_by_statistics_MiB"] = round(result["statistics_MiB"] - result["plain_MiB"], 2)
    result["added_by_keeping_MiB"] = round(result["kept_MiB"] - result["plain_MiB"], 2)
    return result


# --- time


def durations(depth: int, size: int, batch: int, rounds: int, seed: int, device: str) -> dict[str, Any]:
    network = build(depth, seed, device)
    discovery = discover(network)
    images = noise(batch, size, seed, device)

    def timed(kind: Kind) -> Callable[[], None]:
        def run() -> None:
            forward(network, images, discovery, kind)
            if device != "cpu":
                torch.cuda.synchronize()

        return run

    result = paired(timed("plain"), timed("statistics"), rounds)
    return {"blocks": len(discovery.branches), "ms_per_image": 1e3 * result.second_s / batch, **result.to_json()}


def many_images(counts: tuple[int, ...], batch: int, rounds: int, seed: int, device: str) -> list[dict[str, Any]]:
    """Duration of `extract_features` over more and more images, beside the smallest number in the same rounds."""
    network = build(20, seed, device)
    discovery = discover(network)
    images = noise(max(counts), 32, seed, "cpu")

    def extract(count: int) -> Callable[[], object]:
        return lambda: extract_features(network, images[:count], discovery=discovery, batch_size=batch, device=device)

    cases = []
    for count in counts:
        result = paired(extract(counts[0]), extract(count), max(3, rounds // 3), warmup=1)
        per_image = result.ratio * counts[0] / count
        cases.append({"images": count, "duration_per_image_relative_to_fewest": per_image, **result.to_json()})
        print(f"{count} images: {per_image:.3f} times the duration per image of {counts[0]}", flush=True)
    return cases


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--batch", type=int, default=64, help="images per pass (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--depths", type=int, nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="image sides, for ResNet-20")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers of images")
    parser.add_argument("--measure", help="for the benchmark itself: one case of memory, as JSON")
    options = parser.parse_args(argv)
    if options.measure:
        print(peak_memory(*json.loads(options.measure)))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    common = (options.rounds, options.seed, options.device)
    cases: dict[str, list[dict[str, Any]]] = {"depth": [], "image_size": []}
    for axis, settings in (
        ("depth", [(depth, 32) for depth in options.depths]),
        ("image_size", [(20, size) for size in options.sizes]),
    ):
        for depth, size in settings:
            case = {"depth": depth, "image_size": size, **durations(depth, size, options.batch, *common)}
            case["memory"] = peaks(depth, size, options.batch, options.seed, options.device)
            cases[axis].append(case)
            print(f"ResNet-{depth}, {size}×{size}: ratio {case['ratio']:.3f}, memory {case['memory']}", flush=True)
    payload = {
        "n": options.batch,
        "seed": options.seed,
        "device": options.device,
        "unit": "ratio: duration with statistics ÷ plain; memory: MiB above what is held before the pass",
        **cases,
        "images": many_images(tuple(sorted(options.counts)), options.batch, *common),
    }
    print(write_result("scaling", payload, options.out))


if __name__ == "__main__":
    main()
