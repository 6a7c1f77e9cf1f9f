"""PGD with gradients in bfloat16 beside PGD in float32: time, success and size of the perturbations.

    python -m benchmarks speed.attack_precision --cifar10 npz:cifar10-test.npz --photos images:FOLDER --threads 1

ResNet-20 on CIFAR-10 with its own weights, and ResNet-18 at 224 px with random weights. Labels are the predictions of
the network, so that an attack succeeds when it changes the class. Success and norms come from float32, over all images.
The ratio of durations, float32 ÷ bfloat16, comes from the first batch, as the median over rounds in one process.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attacks.pgd import PGD
from benchmarks.common import Paired, arguments, attack_outcome, paired, write_result
from models.datasets.base import DatasetRequest, load_dataset
from models.loading import load_network
from models.memory import keep_freed_memory
from models.normalization import Normalized

BAR = 1.8
STEPS = 10


def main(argv: list[str] | None = None) -> None:
    """All networks."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--cifar10", required=True, help="reference to the test images of CIFAR-10")
    parser.add_argument("--photos", required=True, help="reference to photos, cropped to 224 px")
    parser.add_argument("--small-images", type=int, default=256, help="of CIFAR-10 (default: %(default)s)")
    parser.add_argument("--photo-images", type=int, default=32, help="photos (default: %(default)s)")
    options = parser.parse_args(argv)
    keep_freed_memory()  # the jobs that attack do the same
    if options.threads:
        torch.set_num_threads(options.threads)
    small = _images(options.cifar10, DatasetRequest(), options.small_images, options.seed)
    photos = _images(options.photos, DatasetRequest(resize=224, crop=224), options.photo_images, options.seed)
    torch.manual_seed(options.seed)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    networks = {
        "ResNet-20": (load_network("pretrained:cifar10-resnet20").network, small, 1 / 255, 128),
        "ResNet-18": (Normalized(load_network("torchvision:resnet18").network, *imagenet), photos, 1 / 255, 8),
    }
    cases = []
    for name, (network, images, epsilon, batch_size) in networks.items():
        case = _compare(network.eval(), images, epsilon, batch_size, options.rounds)
        cases.append({"network": name, "size": images.shape[-1], "bar": BAR, **case})
        print(f"{name}: {case['ratio']['ratio']:.2f} × (bar {BAR}), {case['float32']}, {case['bfloat16']}", flush=True)
    payload = {
        "n": len(small),
        "seed": options.seed,
        "attack": {"name": "pgd", "steps": STEPS},
        "unit": "duration in float32 ÷ duration in bfloat16, on the same images; medians over paired rounds",
        "cases": cases,
    }
    print(write_result("attack_precision", payload, options.out))


def _images(reference: str, request: DatasetRequest, count: int, seed: int) -> Tensor:
    return load_dataset(reference, request).limited(count, seed).tensor()


def _compare(network: nn.Module, images: Tensor, epsilon: float, batch_size: int, rounds: int) -> dict[str, Any]:
    """Ratio of the durations on the first batch, and the outcomes of both on all images."""
    network.requires_grad_(False)
    with torch.no_grad():
        labels = torch.cat([network(batch).argmax(1) for batch in torch.split(images, batch_size)])
    options: dict[str, Any] = {"epsilon": epsilon, "steps": STEPS, "batch_size": batch_size}
    float32, bfloat16 = PGD(**options), PGD(precision="bfloat16", **options)
    first, its_labels = images[:batch_size], labels[:batch_size]

    def run_float32() -> Tensor:
        return float32(network, first, its_labels)

    ratio: Paired = paired(lambda: bfloat16(network, first, its_labels), run_float32, rounds, warmup=1)
    return {
        "n": len(images),
        "epsilon": epsilon,
        "batch_size": batch_size,
        "ratio": ratio.to_json(),
        "float32": attack_outcome(network, images, labels, float32(network, images, labels)),
        "bfloat16": attack_outcome(network, images, labels, bfloat16(network, images, labels)),
    }


if __name__ == "__main__":
    main()
