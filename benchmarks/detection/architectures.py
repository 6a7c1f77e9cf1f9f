"""`plumbline check` on public architectures.

    python -m benchmarks detection.architectures

The networks have random weights, except pretrained:cifar10-resnet20, and get noise images. What is checked does not
depend on training: outputs, determinism, independence of the batch, residual branches and memory.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.common import arguments, write_result
from service.jobs.check import check
from service.requests.inspection import CheckRequest

_FILE = Path(__file__).resolve().parents[1] / "networks" / "public_networks.py"
_TORCHVISION = (
    "resnet18", "resnet50", "regnet_y_400mf", "densenet121", "efficientnet_b0", "mobilenet_v3_small",
    "shufflenet_v2_x1_0", "convnext_tiny", "swin_t",
)  # fmt: skip
_IN_FILE = ("vit_b_16", "vit_tiny", "mixer_s16", "convit_tiny", "poolformer_s12", "mobilevit_xxs")
REFERENCES = (
    "pretrained:cifar10-resnet20",
    *(f"torchvision:{name}" for name in _TORCHVISION),
    *(f"{_FILE}:{name}" for name in _IN_FILE),
)


def main() -> None:
    """Check the networks that the command line names."""
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", default=REFERENCES, help="references (default: those of the page)")
    parser.add_argument("--size", type=int, default=64, help="pixels, unless pretrained (default: %(default)s)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    for reference in options.networks:
        rows.append(_row(reference, options.size, options.seed))
        print(rows[-1], flush=True)
    payload = {"n": len(rows), "seed": options.seed, "size": options.size, "rows": rows}
    print(f"written to {write_result('architectures', payload, options.out)}")


def _row(reference: str, size: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    own_size = reference.startswith("pretrained:")
    report = check(CheckRequest(reference, image_size=None if own_size else (size, size), seed=seed))
    results = {each.name: each for each in report.results}
    branches, cost = results["residual branches"].values, results["cost"].values
    return {
        "network": report.network,
        "branches": len(branches.get("branches", ())),
        "kinds": sorted({each["kind"] for each in branches.get("branches", ())}),
        "skipped": len(branches.get("skipped", ())),
        "why_not_rewritten": branches.get("why_not_rewritten"),
        "forward_bytes": cost.get("forward_bytes"),
        "gradient_bytes": cost.get("gradient_bytes"),
        "statuses": {name: each.status for name, each in results.items()},
        "messages": [each.message for each in report.results if each.status != "pass"],
    }


if __name__ == "__main__":
    main()
