"""HopSkipJump and Boundary beside ART's, on the same network, images and starts, with as many queries.

    python -m benchmarks speed.black_box --dataset npz:cifar10-test.npz

Queries are images that the network receives. ART's attack runs first in every round; ours gets as many queries per
image as ART's used on average. ART gets our starts, since its own ignore the seed. Each case has, for both: seconds,
queries per image, success, median and mean L2 of the successes; and

    ratio             ART's duration ÷ ours, the median over rounds in which both run, one after the other
    to_their_median   ours with fewer queries: the fewest of the tried numbers that reach ART's median L2, and ART's
                      duration ÷ that of this run; null where none does
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import Attack
from attacks.boundary import Boundary
from attacks.hop_skip_jump import HopSkipJump
from attacks.libraries.art import art_version
from benchmarks.common import arguments, right_images, write_result
from models.datasets.base import DatasetRequest, load_dataset
from models.loading import load_network
from models.memory import keep_freed_memory

BARS = {"hop_skip_jump": 3.0, "boundary": None}
SHARES = (0.25, 0.5, 0.75)  # of the queries, to reach ART's median


def main(argv: list[str] | None = None) -> None:
    """Both attacks."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--dataset", required=True, help="reference such as npz:FILE or cifar10")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--network", default="pretrained:cifar10-resnet20")
    parser.add_argument("--images", type=int, default=6, help="attacked by both (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of HopSkipJump, both (default: %(default)s)")
    parser.add_argument("--art-boundary-steps", type=int, default=100, help="of ART's Boundary (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options = parser.parse_args(argv)
    keep_freed_memory()  # the jobs that attack do the same
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    network = load_network(options.network).network.eval().requires_grad_(False).to(device)
    data = load_dataset(options.dataset, DatasetRequest(root=options.data_root))
    images, labels = right_images(
        network, data, options.images, drawn=4 * options.images, seed=options.seed, device=device
    )
    run = _Run(network, images, labels)

    def hop_skip_jump(queries: int) -> Attack:
        return HopSkipJump(steps=options.steps, total_queries=queries, seed=options.seed)

    def boundary(queries: int) -> Attack:
        return Boundary(steps=queries, total_queries=queries, seed=options.seed)

    theirs = {
        "hop_skip_jump": HopSkipJump(steps=options.steps, engine="art", seed=options.seed),
        "boundary": Boundary(steps=options.art_boundary_steps, engine="art", seed=options.seed),
    }
    cases = []
    for name, ours in {"hop_skip_jump": hop_skip_jump, "boundary": boundary}.items():
        case = {"attack": name, "bar": BARS[name]} | _case(run, ours, theirs[name], options.rounds)
        cases.append(case)
        print(f"{name}: {case['ratio']['ratio']:.2f} ×, ours {case['ours']}, theirs {case['theirs']}", flush=True)
        print(f"    to ART's median: {case['to_their_median']}", flush=True)
    payload = {
        "n": options.images,
        "seed": options.seed,
        "device": options.device,
        "network": options.network,
        "dataset": data.name.rpartition("/")[2],  # without local folders
        "dataset_sha256": data.fingerprint(),
        "libraries": art_version(),
        "unit": "duration of ART's ÷ duration of ours, on the same images with as many queries",
        "cases": cases,
    }
    print(write_result("black_box", payload, options.out))


class _Run:
    """Attacks on one network and one set of images, with their cost and success."""

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.network, self.images, self.labels = network, images, labels

    def __call__(self, attack: Attack, count: int | None = None) -> dict[str, Any]:
        """Run an attack on the first `count` images in one batch."""
        given = 0

        def counted(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            nonlocal given
            given += len(arguments[0])

        images, labels = self.images[:count], self.labels[:count]
        hook = self.network.register_forward_pre_hook(counted)
        try:
            begun = time.perf_counter()
            attacked = attack(self.network, images, labels)
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            seconds = time.perf_counter() - begun
        finally:
            hook.remove()
        with torch.no_grad():
            success = self.network(attacked).argmax(1) != labels
        l2 = (attacked - images).flatten(1).double().norm(dim=1)[success]
        return {
            "seconds": seconds,
            "queries_per_image": given / len(images),
            "success_rate": success.double().mean().item(),
            "l2_median": l2.quantile(0.5).item() if len(l2) else None,
            "l2_mean": l2.mean().item() if len(l2) else None,
            "parameters": attack.parameters(),
        }


def _case(run: _Run, ours: Callable[[int], Attack], theirs: Attack, rounds: int) -> dict[str, Any]:
    for attack in (theirs, ours(200)):  # imports and first allocations
        run(type(attack)(**attack.parameters() | {"steps": 1}), 1)
    ratios, found = [], dict[str, dict[str, Any]]()
    for _ in range(rounds):  # both attacks follow the seed, so all rounds make the same images
        found["theirs"] = run(theirs)
        queries = int(found["theirs"]["queries_per_image"])
        found["ours"] = run(ours(queries))
        ratios.append(found["theirs"]["seconds"] / found["ours"]["seconds"])
    less = [run(ours(int(share * queries))) for share in SHARES]
    return {
        "ratio": {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "rounds": rounds},
        **found,
        "ours_with_less": less,
        "to_their_median": _to_their_median([*less, found["ours"]], found["theirs"]),
    }


def _to_their_median(runs: Sequence[dict[str, Any]], theirs: dict[str, Any]) -> dict[str, float] | None:
    for run in runs:
        enough = run["success_rate"] >= theirs["success_rate"]
        if enough and None not in (run["l2_median"], theirs["l2_median"]) and run["l2_median"] <= theirs["l2_median"]:
            return {
                "queries": run["queries_per_image"] / theirs["queries_per_image"],
                "ratio": theirs["seconds"] / run["seconds"],
            }
    return None


if __name__ == "__main__":
    main()
