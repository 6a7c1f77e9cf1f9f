"""White-box attacks beside ART's and torchattacks', on the same network, images and number of steps.

    pip install --no-deps torchattacks==3.5.1          # for this benchmark only; its dependencies are not needed
    python -m benchmarks speed.white_box --dataset npz:cifar10-test.npz

DeepFool and Carlini-Wagner are compared with ART's with the options of its manual, but in one batch, which is faster
than its default of single images: seconds, success, median and mean L2 of the successes. BIM, PGD and APGD are compared
with torchattacks': equal steps, start and epsilon; remaining accuracy and loss. The network classifies all images
correctly. A ratio is the library's duration ÷ ours, the median over rounds in one process. The library gets a copy of
the network whose weights need no gradient, as ours does.
"""

import copy
import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import Attack
from attacks.apgd import APGD
from attacks.bim import BIM
from attacks.carlini_wagner import CarliniWagner
from attacks.deepfool import DeepFool
from attacks.pgd import PGD
from benchmarks.common import arguments, attack_outcome, paired, right_images, write_result
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.loading import load_network
from models.memory import keep_freed_memory

BARS = {"deepfool": 20.0, "carlini_wagner": 5.0, "bim": 1.0, "pgd": 1.0, "apgd": 1.0}
EPSILON = 8 / 255
STEPS = 20

Attacked = Callable[[Tensor, Tensor], Tensor]


def main(argv: list[str] | None = None) -> None:
    """All five attacks."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--dataset", required=True, help="reference such as npz:FILE or cifar10")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--network", default="pretrained:cifar10-resnet20")
    parser.add_argument("--deepfool-images", type=int, default=32)
    parser.add_argument("--carlini-wagner-images", type=int, default=8)
    parser.add_argument("--gradient-images", type=int, default=128)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options = parser.parse_args(argv)
    keep_freed_memory()  # the jobs that attack do the same
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    network = load_network(options.network).network.eval().requires_grad_(False).to(device)
    data = load_dataset(options.dataset, DatasetRequest(root=options.data_root))

    def compared(name: str, ours: Attack, theirs: Callable[[int], Attacked], count: int) -> dict[str, Any]:
        # torchattacks' APGD skips misclassified images.
        images, labels = right_images(network, data, count, drawn=2 * count, seed=options.seed, device=device)
        case: dict[str, Any] = {"attack": name, "parameters": ours.parameters(), "n": count, "bar": BARS[name]}
        case |= _compare(network, ours, theirs(count), images, labels, options.rounds)
        print(
            f"{name}: {case['ratio']['ratio']:.2f} × (bar {BARS[name]:g}), ours {case['ours']}, theirs {case['theirs']}"
        )
        return case

    n, m, k = options.deepfool_images, options.carlini_wagner_images, options.gradient_images
    gradient: dict[str, Any] = {"epsilon": EPSILON, "steps": STEPS, "batch_size": k}
    deepfool, carlini_wagner = DeepFool(batch_size=n), CarliniWagner(batch_size=m)
    like_deepfool = {"max_iter": deepfool.steps, "epsilon": deepfool.overshoot, "nb_grads": deepfool.classes}
    like_carlini_wagner = {"max_iter": carlini_wagner.steps, "binary_search_steps": carlini_wagner.search_steps}
    cases = [
        compared("deepfool", deepfool, _art(network, "DeepFool", data, device, **like_deepfool), n),
        compared(
            "carlini_wagner",
            carlini_wagner,
            _art(network, "CarliniL2Method", data, device, **like_carlini_wagner),
            m,
        ),
        compared("bim", BIM(step=EPSILON / 10, **gradient), _torchattacks(network, "BIM", alpha=EPSILON / 10), k),
        compared("pgd", PGD(step=EPSILON / 10, **gradient), _torchattacks(network, "PGD", alpha=EPSILON / 10), k),
        compared("apgd", APGD(restarts=1, **gradient), _torchattacks(network, "APGD", n_restarts=1), k),
    ]
    payload = {
        "n": max(n, m, k),
        "seed": options.seed,
        "device": options.device,
        "network": options.network,
        "dataset": data.name.rpartition("/")[2],  # without local folders
        "dataset_sha256": data.fingerprint(),
        "libraries": {
            package: importlib.metadata.version(package)
            for package in ("adversarial-robustness-toolbox", "torchattacks")
        },
        "unit": "duration of the library ÷ duration of ours, on the same images; medians over paired rounds",
        "cases": cases,
    }
    print(write_result("white_box", payload, options.out))


def _frozen_copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).eval().requires_grad_(False)


def _art(
    network: nn.Module, attack: str, data: ImageDataset, device: torch.device, **options: Any
) -> Callable[[int], Attacked]:
    """ART's attack with the options of its manual, on a copy of the network, as a function of the batch size."""
    evasion = importlib.import_module("art.attacks.evasion")
    classifier = importlib.import_module("art.estimators.classification").PyTorchClassifier(
        model=_frozen_copy(network),
        loss=nn.CrossEntropyLoss(),
        input_shape=data.image_shape,
        nb_classes=len(data.classes),
        clip_values=(0.0, 1.0),
        device_type="cpu" if device.type == "cpu" else "gpu",
    )

    def with_batch(count: int) -> Attacked:
        made = getattr(evasion, attack)(classifier, batch_size=count, verbose=False, **options)
        return lambda images, labels: torch.from_numpy(made.generate(images.cpu().numpy(), labels.cpu().numpy())).to(
            images.device
        )

    return with_batch


def _torchattacks(network: nn.Module, attack: str, **options: Any) -> Callable[[int], Attacked]:
    try:
        made = getattr(importlib.import_module("torchattacks"), attack)(
            _frozen_copy(network), eps=EPSILON, steps=STEPS, **options
        )
    except ImportError as exc:
        raise SystemExit(f"torchattacks is not installed ({exc}): pip install --no-deps torchattacks==3.5.1") from exc
    return lambda count: made  # all images at once


def _compare(
    network: nn.Module, ours: Attack, theirs: Attacked, images: Tensor, labels: Tensor, rounds: int
) -> dict[str, Any]:
    found: dict[str, Tensor] = {}

    def run_ours() -> None:
        found["ours"] = ours(network, images, labels)
        _wait(images.device)

    def run_theirs() -> None:
        found["theirs"] = theirs(images, labels)
        _wait(images.device)

    for attack in (theirs, lambda x, y: ours(network, x, y)):  # imports and first allocations
        attack(images[:2], labels[:2])
    ratio = paired(run_ours, run_theirs, rounds, warmup=0)
    seconds = {"ours": ratio.first_s, "theirs": ratio.second_s}
    return {"ratio": ratio.to_json()} | {
        whose: {"seconds": seconds[whose], **attack_outcome(network, images, labels, attacked)}
        for whose, attacked in found.items()
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
