"""Duration of a forward pass with statistics, beside a plain pass and a loop over images.

Ratios of durations; 1.05 means 5 % more than the plain forward pass of the same batch:

    recorder        eager forward pass under record_residues ÷ eager forward pass
    module          eager WithStatistics ÷ eager forward pass
    per_image_loop  one reduction per image and block, in Python ÷ eager forward pass
    compiled        compiled WithStatistics ÷ compiled forward pass (with --compile)

The result also has the largest relative error of the statistics against float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Paired, arguments, paired, write_result
from models.networks.resnet import resnet20, resnet56
from models.normalization import Normalized
from models.residuals import Discovery, StatisticsSpec, WithStatistics, discover, record_residues

NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet20": resnet20, "resnet56": resnet56}


def build(name: str, seed: int, device: str, channels_last: bool) -> nn.Module:
    torch.manual_seed(seed)
    network = Normalized(NETWORKS[name](), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False).to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def waiting(function: Callable[[], Any], device: str) -> Callable[[], None]:
    """The function without gradients; on a GPU it waits for the end of the work."""

    def run() -> None:
        with torch.inference_mode():
            function()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def recorded(network: nn.Module, images: Tensor, discovery: Discovery, statistics_spec: StatisticsSpec) -> Tensor:
    with record_residues(network, discovery, statistics_spec=statistics_spec) as recording:
        network(images)
    return recording.statistics


def per_image_loop(network: nn.Module, images: Tensor, discovery: Discovery) -> list[list[float]]:
    """Statistics as in published scripts: from whole residues, image by image and block by block."""
    rows = []
    with record_residues(network, discovery, keep=True) as recording:
        network(images)
    for image in range(len(images)):
        row = []
        for residue in recording.residues:
            flat = residue[image].flatten()
            row.append(float((flat**2).mean()))
            row.append(float(torch.nn.functional.cosine_similarity(flat, torch.ones_like(flat), dim=0)))
        rows.append(row)
    return rows


def relative_error(network: nn.Module, images: Tensor, discovery: Discovery) -> float:
    """The largest |got − reference| / max(|reference|, 0.01), against residues reduced in float64."""
    with torch.inference_mode(), record_residues(network, discovery, keep=True) as recording:
        network(images)
    columns = []
    for residue in recording.residues:
        flat = residue.flatten(1).double()
        size = flat.square().sum(1)
        columns += [size / flat.shape[1], flat.sum(1) / (flat.shape[1] * size).sqrt()]
    reference = torch.stack(columns, dim=1)
    # A cosine of 1e-8 has no meaningful relative error.
    return float(((recording.statistics.double() - reference).abs() / reference.abs().clamp_min(0.01)).max())


def measure_network(
    name: str, batch: int, channels_last: bool, rounds: int, seed: int, device: str, compiled: bool
) -> dict[str, Any]:
    network = build(name, seed, device, channels_last)
    images = torch.rand((batch, 3, 32, 32), generator=torch.Generator().manual_seed(seed)).to(device)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    discovery = discover(network)
    module = WithStatistics(network, discovery)
    plain = waiting(lambda: network(images), device)
    ratios: dict[str, Paired] = {
        "recorder": paired(
            plain, waiting(lambda: recorded(network, images, discovery, StatisticsSpec()), device), rounds
        ),
        "recorder_4_directions": paired(
            plain, waiting(lambda: recorded(network, images, discovery, StatisticsSpec(directions=4)), device), rounds
        ),
        "module": paired(plain, waiting(lambda: module(images), device), rounds),
        "per_image_loop": paired(
            plain, waiting(lambda: per_image_loop(network, images, discovery), device), max(3, rounds // 4)
        ),
    }
    if compiled:
        # Each of the two is compiled once; the first calls in `paired` are the compilation.
        one, other = torch.compile(network), torch.compile(module)
        ratios["compiled"] = paired(
            waiting(lambda: one(images), device), waiting(lambda: other(images), device), rounds
        )
        ratios["compiled_to_eager"] = paired(plain, waiting(lambda: one(images), device), rounds)
    return {
        "network": name,
        "batch": batch,
        "memory_format": "channels_last" if channels_last else "contiguous",
        "blocks": len(discovery.branches),
        "relative_error_to_float64": relative_error(network, images, discovery),
        "ratios": {key: value.to_json() for key, value in ratios.items()},
    }


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images per pass (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="also compiled; needs a C++ compiler on CPU")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = []
    for name in NETWORKS:
        for channels_last in (False, True):
            case = measure_network(
                name, options.batch, channels_last, options.rounds, options.seed, options.device, options.compile
            )
            cases.append(case)
            shown = ", ".join(f"{key} {value['ratio']:.3f}" for key, value in case["ratios"].items())
            print(f"{name} {case['memory_format']}: {shown}", flush=True)
    payload = {
        "n": options.batch,
        "seed": options.seed,
        "device": options.device,
        "unit": "duration ÷ duration of the plain forward pass; medians over paired rounds",
        "cases": cases,
    }
    print(write_result("extraction", payload, options.out))


if __name__ == "__main__":
    main()
