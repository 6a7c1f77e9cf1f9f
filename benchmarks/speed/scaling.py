"""Time and memory of statistics against depth, image size and number of images.

Memory is the peak of all tensors during one pass, above the memory before it: for the plain forward pass, with
statistics, and with whole residues. Statistics should add a few bytes per image and block, whole residues an amount
that grows with depth. Time is one pass with statistics ÷ one without, in paired rounds, and the duration per image.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import arguments, paired, write_result
from models.features import extract_features
from models.networks.resnet import resnet8, resnet20, resnet32, resnet56, resnet110
from models.normalization import Normalized
from models.residuals import Discovery, discover, record_residues

NETWORKS: dict[int, Callable[[], nn.Module]] = {
    8: resnet8,
    20: resnet20,
    32: resnet32,
    56: resnet56,
    110: resnet110,
}
SIZES = (16, 32, 64, 96)
COUNTS = (64, 256, 1024)
KIBIBYTE = 1024

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


# --- memory


def peak_memory(network: nn.Module, images: Tensor, discovery: Discovery, kind: Kind) -> int:
    """Bytes of tensors at the peak of one forward pass, above those before it."""
    forward(network, images, discovery, kind)  # allocations of the first pass do not count
    if images.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        forward(network, images, discovery, kind)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        forward(network, images, discovery, kind)
    # The events are exact; the size of the process changes in pages that are kept for reuse.
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def peaks(depth: int, size: int, batch: int, seed: int, device: str) -> dict[str, float]:
    """KiB at the peak of a plain pass, and the additional ones with statistics and with whole residues."""
    network = build(depth, seed, device)
    discovery = discover(network)
    images = noise(batch, size, seed, device)
    plain, with_statistics, kept = (
        peak_memory(network, images, discovery, kind) / KIBIBYTE for kind in ("plain", "statistics", "kept")
    )
    return {
        "plain_KiB": plain,
        "added_by_statistics_KiB": with_statistics - plain,
        "added_by_keeping_KiB": kept - plain,
    }


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
    """Duration of `extract_features` by number of images, beside the smallest number in the same rounds."""
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
    options = parser.parse_args(argv)
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
        "unit": "ratio: duration with statistics ÷ plain; memory: KiB above the memory before the pass",
        **cases,
        "images": many_images(tuple(sorted(options.counts)), options.batch, *common),
    }
    print(write_result("scaling", payload, options.out))


if __name__ == "__main__":
    main()
